"""Early rejection: most proposals are background, and that shows before inception 5.

As the cascaded rejection classifiers of Yang, Choi & Lin ("Exploit all the layers: fast and
accurate CNN object detector with scale dependent pooling and cascaded rejection classifiers",
CVPR 2016), a small network looks at what a region pools from the shared maps. Only regions that it
does not take for background go on through 5a and 5b, which cost 190 times as much. Theirs are
boosted, one at each of several layers; this is one network of two layers, behind pool4.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from detect.googlenet import MAP_CHANNELS
from detect.shared_trunk import SharedTrunkClassifier

SUMMARY_SIDE = 2  # points a side that the 7 x 7 of a pooled region are averaged to
REJECTION_THRESHOLD = 0.03  # foreground probability below which a region is not scored


class RejectionNetwork(nn.Module):
    """Tells a pooled region's probability of being no background.

    Args:
        num_classes: Classes without background. It learns them all: one class "object" alone is
            harder to tell from background.
        hidden: Units between its two layers.
    """

    def __init__(self, num_classes: int, hidden: int = 192) -> None:
        super().__init__()
        self.hidden = nn.Linear(MAP_CHANNELS * SUMMARY_SIDE**2, hidden)
        self.classifier = nn.Linear(hidden, num_classes + 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return foreground probabilities ``[N]`` of regions ``[N, 832, 7, 7]``.

        Of several networks' maps, one behind the other, it reads the first.
        """
        return self.foreground(summarise(pooled))

    def foreground(self, summaries: Tensor) -> Tensor:
        """Return the same of what ``summarise`` makes of regions, ``[N, 3328]``."""
        logits = self.classifier(self.hidden(summaries).relu())
        return 1 - logits.softmax(dim=1)[:, -1]  # type: ignore[no-any-return]


def summarise(pooled: Tensor) -> Tensor:
    """Average pooled regions ``[N, C, 7, 7]`` to float32 ``[N, 3328]``: the first 832 channels."""
    return F.adaptive_avg_pool2d(pooled[:, :MAP_CHANNELS].float(), SUMMARY_SIDE).flatten(1)


class Rejection:
    """Leaves out proposals that are background at first sight.

    Args:
        network: Of the detector.
        classifier: Whose maps it looks at; they are made once for both.
        threshold: Foreground probability that a proposal needs to stay.
    """

    def __init__(
        self,
        network: RejectionNetwork,
        classifier: SharedTrunkClassifier,
        threshold: float = REJECTION_THRESHOLD,
    ) -> None:
        self.network = copy.deepcopy(network).to(classifier.batches.device).eval()
        self.classifier, self.threshold = classifier, threshold

    def __call__(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Return those of the boxes ``[N, 4]`` of an RGB uint8 image that stay, in their order."""
        foreground = self.classifier.on_regions(image, boxes, self.network)
        return boxes[foreground >= self.threshold]


def make_rejection(
    network: RejectionNetwork | None, classifier: object, threshold: float
) -> Rejection | None:
    """Make it where it can be: with a network for it, and a classifier that has maps."""
    if network is None or threshold == 0 or not isinstance(classifier, SharedTrunkClassifier):
        return None
    return Rejection(network, classifier, threshold)


def check_threshold(threshold: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: Says what to give.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"rejection_threshold={threshold}: give a probability, 0 to score every proposal"
        )
