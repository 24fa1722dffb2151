"""What MultiBox learns: which priors are matched with which objects, and the loss of both kinds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from proposals.overlaps import box_iou
from proposals.priors import cornered, encode_residuals

NEGATIVE, IGNORED = -1, -2


@dataclass
class MultiBoxLossConfig:
    """Which priors are matched, and what the location is worth.

    Raises:
        ValueError: If priors would be ignored and matched at the same time.
    """

    matched_iou: float = 0.5  # overlap from which more priors than an object's own match; 2: none
    ignored_iou: float = 0.4  # overlap from which priors that do not match learn nothing; 2: none
    location_weight: float = 1.0  # alpha; 0.3 in the papers; these are the units of SSD (2016)

    def __post_init__(self) -> None:
        if self.ignored_iou > self.matched_iou:
            raise ValueError(
                f"ignored_iou={self.ignored_iou} must not be above matched_iou={self.matched_iou}"
            )


def match_priors(
    priors: Tensor, objects: Tensor, config: MultiBoxLossConfig, *, claims: Tensor | None = None
) -> Tensor:
    """Match priors with objects.

    Each object that may claim a prior gets one of its own, so that the sum of the overlaps is
    largest: the assignment problem. Priors that overlap an object enough are matched with it too.

    Args:
        priors: Centres and sides, ``[P, 4]``.
        objects: Half-open ``xyxy`` boxes, ``[G, 4]``.
        config: What is matched and what ignored.
        claims: Which objects claim a prior, bool ``[G]``; by default all.

    Returns:
        The object of each prior, ``NEGATIVE`` or ``IGNORED``, int64 ``[P]``.
    """
    matches = torch.full((len(priors),), NEGATIVE, device=priors.device)
    if not len(objects) or not len(priors):
        return matches
    overlaps = box_iou(cornered(priors), objects)  # [P, G]
    best, nearest = overlaps.max(dim=1)
    matches[best >= config.ignored_iou] = IGNORED
    matched = best >= config.matched_iou
    matches[matched] = nearest[matched]
    claiming = torch.arange(len(objects), device=priors.device)
    if claims is not None:
        claiming = claiming[claims]
    own, of = assign(overlaps[:, claiming])
    matches[own] = claiming[of]
    return matches


def assign(overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """Give every object a prior of its own so that the sum of their overlaps is largest.

    Args:
        overlaps: Of every prior with every object, ``[P, G]``; where there are fewer priors than
            objects, some objects get none.

    Returns:
        Places of the priors and of their objects, int64.
    """
    # Some best assignment uses of each object only its G best priors: others can be exchanged.
    count = min(overlaps.shape)
    useful = overlaps.topk(count, dim=0).indices.flatten().unique()
    own, of = linear_sum_assignment(overlaps[useful].cpu().double().numpy(), maximize=True)
    return useful[torch.from_numpy(own).to(useful.device)], torch.from_numpy(of).to(useful.device)


def multibox_loss(
    logits: Tensor,
    residuals: Tensor,
    priors: Tensor,
    objects: Tensor,
    matches: Tensor,
    config: MultiBoxLossConfig,
) -> tuple[Tensor, Tensor]:
    """Return the losses of confidence and, weighted, of location, per matched prior.

    Cross entropy of all priors that are not ignored, and smooth L1 of the residuals of matched
    ones; the papers have squares there, which outliers rule.

    Args:
        logits: Of an object at each prior, ``[P]``.
        residuals: Predicted, ``[P, 4]``.
        priors: Centres and sides, ``[P, 4]``.
        objects: Half-open ``xyxy`` boxes, ``[G, 4]``.
        matches: See ``match_priors``, ``[P]``.
        config: Has the weight of the location.
    """
    matched = matches >= 0
    count = matched.sum().clamp(min=1)
    entropies = F.binary_cross_entropy_with_logits(logits, matched.float(), reduction="none")
    confidence = entropies[matches != IGNORED].sum() / count
    wanted = encode_residuals(priors[matched], objects[matches[matched]])
    location = F.smooth_l1_loss(residuals[matched], wanted, reduction="sum") / count
    return confidence, config.location_weight * location
