"""GoogLeNet: the network of "Going deeper with convolutions", and torchvision's variant of it.

The paper's layout follows Table 1 of Szegedy et al. (2014): 5x5 branches, local response
normalisation, plain convolutions. torchvision's has batch normalisation, 3x3 kernels where the
paper has 5x5, no response normalisation and a 2x2 fourth pool. Module names are torchvision's, so
that its checkpoints load as they are; ``detect.imagenet`` renames those of the BVLC model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layout = Literal["paper", "torchvision"]

# Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION_CHANNELS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
MAP_CHANNELS = 832  # of the map after 4e
NUM_FEATURES = 1024
# What runs on a whole image or crop before pool4; "conv" is all that comes before 3a.
MAP_BLOCKS = ("conv", "3a", "3b", "4a", "4b", "4c", "4d", "4e")


@dataclass(frozen=True)
class Preprocessing:
    """What a checkpoint expects of its input; applied once, by whoever feeds the network.

    Attributes:
        mean: RGB value, 0..255, that becomes zero; also the fill outside of an image.
        std: RGB divisor, in grey levels.
    """

    mean: tuple[float, float, float] = (123.0, 117.0, 104.0)  # BVLC, turned from BGR
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise RGB images 0..255, ``[N, 3, H, W]``, to float32 in channels-last order."""
        count, channels, height, width = images.shape
        # Line by line: a loop over the three channels of a pixel is too short to be fast.
        lines = images.permute(0, 2, 3, 1).reshape(count * height, width * channels)
        lines = lines.float() - torch.tensor(self.mean, device=images.device).repeat(width)
        if self.std != (1.0, 1.0, 1.0):
            lines /= torch.tensor(self.std, device=images.device).repeat(width)
        return lines.view(count, height, width, channels).permute(0, 3, 1, 2)


PREPROCESSING: dict[Layout, Preprocessing] = {
    "paper": Preprocessing(),
    # torchvision's weights come from TensorFlow: its `transform_input` undoes the usual ImageNet
    # statistics, which leaves -1..1.
    "torchvision": Preprocessing((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


class ConvReLU(nn.Module):
    """A convolution and ReLU; with batch normalisation between them in torchvision's layout."""

    def __init__(self, inputs: int, outputs: int, layout: Layout, **geometry: int) -> None:
        super().__init__()
        paper = layout == "paper"
        self.conv = nn.Conv2d(inputs, outputs, bias=paper, **geometry)  # type: ignore[arg-type]
        self.bn = nn.Identity() if paper else nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, ``[N, C, H, W]`` -> ``[N, C', H', W']``."""
        return F.relu(self.bn(self.conv(x)), inplace=True)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of one convolution that does the same before its ReLU, float32."""
        weight, bias = self.conv.weight.detach().float(), self.conv.bias
        if not isinstance(self.bn, nn.BatchNorm2d):
            assert bias is not None
            return weight, bias.detach().float()
        assert self.bn.running_mean is not None and self.bn.running_var is not None
        deviation = (self.bn.running_var.float() + self.bn.eps).sqrt()
        scale = self.bn.weight.detach().float() / deviation
        shift = self.bn.bias.detach().float() - self.bn.running_mean.float() * scale
        return weight * scale[:, None, None, None], shift

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.conv.weight.dtype


class LocalResponseNorm(nn.Module):
    """Local response normalisation as the paper's first layers have it."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map, ``[N, C, H, W]``."""
        return local_response_norm(x)


class Inception(nn.Module):
    """Four branches over one input, concatenated: 1x1, 3x3, 5x5 and pooled (Figure 2b)."""

    def __init__(
        self, inputs: int, channels: tuple[int, int, int, int, int, int], layout: Layout
    ) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = channels
        # torchvision keeps a known slip of its TensorFlow ancestor: 3x3 where the paper has 5x5.
        kernel = 5 if layout == "paper" else 3
        self.branch1 = ConvReLU(inputs, one, layout, kernel_size=1)
        self.branch2 = nn.Sequential(
            ConvReLU(inputs, reduce3, layout, kernel_size=1),
            ConvReLU(reduce3, three, layout, kernel_size=3, padding=1),
        )
        self.branch3 = nn.Sequential(
            ConvReLU(inputs, reduce5, layout, kernel_size=1),
            ConvReLU(reduce5, five, layout, kernel_size=kernel, padding=kernel // 2),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True),
            ConvReLU(inputs, pool, layout, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side, ``[N, sum of outputs, H, W]``."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryClassifier(nn.Module):
    """Classifier on an inner layer, used in training only: its loss counts 0.3."""

    def __init__(self, inputs: int, num_classes: int, layout: Layout) -> None:
        super().__init__()
        self.conv = ConvReLU(inputs, 128, layout, kernel_size=1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``[N, num_classes]``."""
        return self.fc2(self.dropout(self.hidden(x)))  # type: ignore[no-any-return]

    def hidden(self, x: Tensor) -> Tensor:
        """Return what the last layer sees before dropout, ``[N, 1024]``."""
        if self.layout == "paper":
            x = F.avg_pool2d(x, 5, stride=3, ceil_mode=True)
        else:
            x = F.adaptive_avg_pool2d(x, (4, 4))
        return F.relu(self.fc1(torch.flatten(self.conv(x), 1)))


class GoogLeNet(nn.Module):
    """The classification network, cut where detection cuts it.

    ``stem`` (conv1 .. pool3) and ``inception4`` (4a .. 4e) make a map of one point every 16
    pixels; ``pool4``, ``inception5`` (5a, 5b) and the global average turn it into 1024 features.

    Args:
        num_classes: Outputs of the classifier; 0 for none (features only).
        layout: ``paper`` (Table 1) or ``torchvision``.
        auxiliary: Whether the two training-time classifiers on 4a and 4d exist.
        dropout: Share of the 1024 features dropped in training; the paper's is 0.4.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        layout: Layout = "paper",
        auxiliary: bool = False,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        if layout not in ("paper", "torchvision"):
            raise ValueError(f"layout {layout!r} is neither 'paper' nor 'torchvision'")
        self.layout = layout
        self.conv1 = ConvReLU(3, 64, layout, kernel_size=7, stride=2, padding=3)
        self.conv2 = ConvReLU(64, 64, layout, kernel_size=1)
        self.conv3 = ConvReLU(64, 192, layout, kernel_size=3, padding=1)
        inputs = 192
        for name, channels in INCEPTION_CHANNELS.items():
            setattr(self, f"inception{name}", Inception(inputs, channels, layout))
            inputs = channels[0] + channels[2] + channels[4] + channels[5]
        if auxiliary:
            self.aux1 = AuxiliaryClassifier(512, num_classes, layout)
            self.aux2 = AuxiliaryClassifier(528, num_classes, layout)
        paper = layout == "paper"
        self.norm = LocalResponseNorm() if paper else nn.Identity()
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool4 = nn.MaxPool2d(3 if paper else 2, stride=2, ceil_mode=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(NUM_FEATURES, num_classes) if num_classes else nn.Identity()
        self.apply(_initialise)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.conv1.device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it takes its input."""
        return self.conv1.dtype

    def _inception(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = getattr(self, f"inception{name}")(x)
        return x

    def stem(self, images: Tensor) -> Tensor:
        """Run conv1 .. pool3 on preprocessed images, -> ``[N, 480, H/16, W/16]``."""
        return self.map_blocks(images, "conv", "3b")

    def inception4(self, x: Tensor) -> Tensor:
        """Run 4a .. 4e on the stem's map, -> ``[N, 832, H/16, W/16]``."""
        return self.map_blocks(x, "4a", "4e")

    def map_blocks(self, x: Tensor, first: str, last: str) -> Tensor:
        """Run some of ``MAP_BLOCKS`` with the pools behind them, both ends included."""
        for name in MAP_BLOCKS[MAP_BLOCKS.index(first) : MAP_BLOCKS.index(last) + 1]:
            if name == "conv":
                x = self.norm(self.pool(self.conv1(x)))
                x = self.pool(self.norm(self.conv3(self.conv2(x))))
            else:
                x = self._inception(x, name)
            if name == "3b":
                x = self.pool(x)
        return x

    def inception5(self, x: Tensor) -> Tensor:
        """Run 5a, 5b and the global average on what pool4 leaves, -> ``[N, 1024]``."""
        return self._inception(x, "5a", "5b").mean(dim=(2, 3))

    def features(self, images: Tensor) -> Tensor:
        """Return what the classifier sees, before dropout, ``[N, 1024]``."""
        return self.inception5(self.pool4(self.inception4(self.stem(images))))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of preprocessed images ``[N, 3, H, W]``: ``[N, num_classes]``."""
        return self.fc(self.dropout(self.features(images)))  # type: ignore[no-any-return]

    def forward_with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of the main and of both auxiliary classifiers, for training."""
        after_4a = self._inception(self.stem(images), "4a")
        after_4d = self._inception(after_4a, "4b", "4c", "4d")
        features = self.inception5(self.pool4(self._inception(after_4d, "4e")))
        return self.fc(self.dropout(features)), self.aux1(after_4a), self.aux2(after_4d)


def local_response_norm(x: Tensor) -> Tensor:
    """Divide by (1 + 1e-4 / 5 * sum of squares over 5 neighbouring channels) ** 0.75.

    ``F.local_response_norm`` with the BVLC model's settings, as a 1x1 convolution with a band
    matrix: several times as fast in channels-last order, and defined for bfloat16.
    """
    index = torch.arange(x.shape[1], device=x.device)
    band = ((index[:, None] - index).abs() <= 2).to(x.dtype)[:, :, None, None]
    root = F.conv2d(x * x, band).float().mul_(1e-4 / 5).add_(1).rsqrt_()
    return (root.sqrt() * root).mul_(x).to(x.dtype)


def _initialise(module: nn.Module) -> None:
    # The BVLC replication starts from "xavier" with biases of 0.2; the paper does not say.
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.constant_(module.bias, 0.2 if isinstance(module, nn.Conv2d) else 0.0)
