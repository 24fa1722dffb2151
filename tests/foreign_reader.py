"""An exported detector without our code: numpy, Pillow and onnxruntime, as detector.json tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


class ForeignReader:
    """Scores one region of an RGB image ``[H, W, 3]`` after the other."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.facts = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        self.models = {
            name: onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in self.facts["files_sha256"]
        }

    def __call__(self, image: np.ndarray, box: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """Return a box a class, ``[C, 4]``, and probabilities, ``[C + 1]``."""
        if self.facts["regions"] == "crops":
            inputs = {"crops": self.crop(image, box)[None]}
            probabilities, offsets = self.models["classifier.onnx"].run(None, inputs)
        else:
            inputs = {"points": self.points(image, box)[None]}
            probabilities, offsets = self.models["regions.onnx"].run(None, inputs)
        return self.decode(box, offsets[0], image.shape[:2]), probabilities[0]

    def crop(self, image: np.ndarray, box: list[float]) -> np.ndarray:
        size, context, fill = (self.facts["crops"][key] for key in ("size", "context", "fill"))
        pixels, at = image.astype(np.float64), []
        for axis in (0, 1):  # y, then x
            low, high = box[1 - axis], box[3 - axis]
            step = (high - low) / (size - 2 * context)
            block = 2 ** max(int(np.floor(np.log2(step))), 0)
            pixels = averaged(pixels, block, axis, fill)
            centres = low + (np.arange(size) + 0.5 - context) * step
            at.append(centres / block - 0.5)
        rows, columns = (places + size for places in at)
        return bilinear(framed(pixels, size, fill), rows, columns)

    def points(self, image: np.ndarray, box: list[float]) -> np.ndarray:
        shared, grid = self.facts["shared"], self.facts["map"]
        sides = image.shape[1], image.shape[0]
        resized = self.resized_sides(sides, self.factor(sides, box))
        planes = [
            Image.fromarray(image[..., i].astype(np.float32)).resize(
                (resized[0], resized[1]), Image.Resampling.BILINEAR
            )
            for i in range(3)
        ]
        (maps,) = self.models["trunk.onnx"].run(None, {"image": np.stack(planes)[None]})
        at, inside = [], []
        for axis, limit in ((0, maps.shape[3]), (1, maps.shape[2])):  # x, then y
            ratio = resized[axis] / sides[axis]
            middle = (box[axis] + box[axis + 2]) / 2 * ratio
            side = (box[axis + 2] - box[axis]) * ratio / (1 - 2 * shared["context"])
            u1, u2 = (
                (x - grid["first_centre"] + grid["stride"] / 2) / grid["stride"]
                for x in (middle - side / 2, middle + side / 2)
            )
            p = u1 + (np.arange(grid["points"]) + 0.5) / grid["points"] * (u2 - u1) - 0.5
            at.append(p.clip(0, limit - 1))
            inside.append((p >= -1) & (p <= limit))
        sampled = bilinear(maps[0].transpose(1, 2, 0), at[1], at[0])
        return sampled * (inside[1][:, None] & inside[0])

    def resized_sides(self, sides: tuple[int, int], factor: float) -> list[int]:
        shared, least = self.facts["shared"], 3 * self.facts["map"]["stride"]
        scale = min(shared["shorter_side"] / min(sides), shared["max_side"] / max(sides))
        return [max(round(side * scale * factor), least) for side in sides]

    def factor(self, sides: tuple[int, int], box: list[float]) -> float:
        """Choose from the pyramid the size of the image that the box is cut from."""
        resized = self.resized_sides(sides, 1.0)
        width, height = ((box[i + 2] - box[i]) * resized[i] / sides[i] for i in (0, 1))
        ratios = {
            factor: factor * (width * height) ** 0.5 / self.facts["shared"]["region_side"]
            for factor in self.facts["shared"]["pyramid"]
        }
        return min(ratios, key=lambda factor: max(ratios[factor], 1 / ratios[factor]))

    def decode(self, box: list[float], offsets: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        x, y, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
        limit, decoded = self.facts["box_offsets"]["max_log_scale"], []
        for row in offsets:
            dx, dy, dw, dh = row * self.facts["box_offsets"]["units"]
            cx, cy = x + dx * w, y + dy * h
            half_w, half_h = w * np.exp(min(dw, limit)) / 2, h * np.exp(min(dh, limit)) / 2
            corners = [cx - half_w, cy - half_h, cx + half_w, cy + half_h]
            decoded.append(np.clip(corners, 0, [size[1], size[0], size[1], size[0]]))
        return np.array(decoded)


def framed(pixels: np.ndarray, width: int | tuple, fill: list[int]) -> np.ndarray:
    """Put a frame around ``[H, W, 3]``, of a colour a channel."""
    planes = [np.pad(pixels[..., i], width, constant_values=fill[i]) for i in range(3)]
    return np.stack(planes, axis=-1)


def averaged(pixels: np.ndarray, block: int, axis: int, fill: list[int]) -> np.ndarray:
    """Average ``[H, W, 3]`` over blocks of one axis, continued by ``fill`` to whole blocks."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, -pixels.shape[axis] % block)
    whole = framed(pixels, tuple(widths), fill)
    shape = list(whole.shape)
    shape[axis : axis + 1] = [shape[axis] // block, block]
    return whole.reshape(shape).mean(axis=axis + 1)


def bilinear(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolate ``[H, W, C]`` at every row and column: float32 ``[C, rows, columns]``."""
    pixels = np.pad(pixels, ((0, 1), (0, 1), (0, 0)))  # neighbours of weight 0 of the last
    y, x = np.floor(rows).astype(int), np.floor(columns).astype(int)
    v, u = (rows - y)[:, None, None], (columns - x)[None, :, None]
    above = pixels[y][:, x] * (1 - u) + pixels[y][:, x + 1] * u
    below = pixels[y + 1][:, x] * (1 - u) + pixels[y + 1][:, x + 1] * u
    return (above * (1 - v) + below * v).transpose(2, 0, 1).astype(np.float32)
