"""Region classification by crops, as R-CNN and the paper do it, and the choice of precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detect.crops import CropConfig, crop_boxes
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead, decode_boxes


class RegionClassifier(nn.Module):
    """Scores regions of an image by warping each to the network's input size.

    Args:
        network: A GoogLeNet without classifier.
        head: Softmax and box regression.
        preprocessing: What the network expects of its input.
        crop: Size, context and fill of the crops.
        batch_size: Crops that pass through the network together.
    """

    def __init__(
        self,
        network: GoogLeNet,
        head: RegionHead,
        *,
        preprocessing: Preprocessing,
        crop: CropConfig,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.preprocessing = preprocessing
        self.crop = crop
        self.batch_size = batch_size

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, C + 1]`` and box offsets ``[N, C, 4]`` of RGB crops 0..255."""
        weight = self.network.conv1.conv.weight
        inputs = self.preprocessing(crops.to(weight.device)).to(weight.dtype)
        features = self.network.features(inputs.contiguous(memory_format=torch.channels_last))
        logits, offsets = self.head(features.float())
        return logits, offsets

    @torch.inference_mode()
    def score_regions(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Classify regions of an image.

        Args:
            image: RGB, uint8 ``[3, H, W]``.
            boxes: Regions, ``[N, 4]``.

        Returns:
            A regressed box a class, ``[N, C, 4]``, and probabilities with background last,
            ``[N, C + 1]``, both float32 on the CPU.
        """
        device = self.network.conv1.conv.weight.device
        image, boxes = image.to(device), boxes.to(device)
        parts = [self(crop_boxes(image, part, self.crop)) for part in boxes.split(self.batch_size)]
        scores = torch.cat([logits for logits, _ in parts]).softmax(dim=1)
        size = (image.shape[-2], image.shape[-1])
        moved = decode_boxes(boxes, torch.cat([offsets for _, offsets in parts]), size)
        return moved.cpu(), scores.cpu()


def best_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Private, but the only question torch answers; emulated bfloat16 is slower than float32.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if device.type == "cpu" and native() else torch.float32


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of this name; of ``auto`` the best for the device.

    Raises:
        ValueError: If the name is unknown.
    """
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": best_precision(device)}
    if name not in choices:
        raise ValueError(f"precision={name}: choose one of {', '.join(sorted(choices))}")
    return choices[name]
