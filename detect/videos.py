"""Read the frames of a video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from torch import Tensor

from detect.decoding import stderr_silenced
from detect.images import ImageError, open_regular, printable

logger = logging.getLogger(__name__)


def iterate_frames(path: str | Path, step: int = 1) -> Iterator[tuple[int, Tensor]]:
    """Read every ``step``-th frame of a video, from the first on.

    Frames are turned as the video's orientation says. A video that breaks off is read up to there,
    with a warning in the log, since the number of frames that its header gives is only a hint.

    Args:
        path: The video file.
        step: Distance between frames, at least 1.

    Yields:
        The frame's number from 0, and the frame, RGB uint8 ``[3, H, W]`` laid out in memory as
        ``[H, W, 3]``.

    Raises:
        ImageError: If the file cannot be opened, is no video, or no frame can be decoded.
        ValueError: If ``step`` is below 1.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1: got {step}")
    open_regular(path).close()
    with stderr_silenced:  # FFmpeg prints its complaints, here and below
        capture = cv2.VideoCapture(str(path))
    try:
        yield from _read_frames(capture, path, step)
    finally:
        capture.release()


def _read_frames(
    capture: cv2.VideoCapture, path: str | Path, step: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield every ``step``-th frame, and tell when there are fewer than announced."""
    if not capture.isOpened():
        raise ImageError(path, "not a video that OpenCV can read, or cut off")
    index = 0
    while True:
        with stderr_silenced:
            grabbed = capture.grab()
            # Frames between are grabbed only: conversion to BGR is what costs.
            decoded, frame = (
                capture.retrieve() if grabbed and index % step == 0 else (grabbed, None)
            )
        if not decoded:
            break
        if frame is not None:
            rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            yield index, torch.from_numpy(rgb).permute(2, 0, 1)
        index += 1
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if index == 0:
        raise ImageError(path, "a video without a single frame that can be decoded")
    if index < announced:
        logger.warning("%s: read %d of %d frames", printable(path), index, announced)
