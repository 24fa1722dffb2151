"""Precision and recall by the COCO protocol, and its twelve numbers.

The formulas are those of ``COCOeval.accumulate`` and ``summarize`` (pycocotools 2.0.8 to 2.0.11).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detect.scoring.average_precision import FALSE_POSITIVE, TRUE_POSITIVE

RECALL_CAPS = np.array([1, 10, 100])  # best detections of an image and class


@njit(cache=True, nogil=True)
def sum_up_class(
    outcomes: NDArray[np.int8],
    ranks: NDArray[np.int16],
    positives: NDArray[np.int64],
    recalls: NDArray[np.float64],
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
) -> None:
    """Sum up one class: precision at each recall, and the recall under each cap.

    Args:
        outcomes: What became of each detection, best score first, ``[A, T, n]``.
        ranks: Of each detection within its image, ``[n]``.
        positives: Objects to be found in each area range, ``[A]``; nothing is told of none.
        recalls: At which precision is wanted, ascending, ``[R]``.
        precision: Takes the best precision from each recall on, ``[A, T, R]``.
        recall: Takes the recall of the best 1, 10 and 100 an image, ``[A, T, 3]``.
    """
    best = np.empty(len(ranks))
    found = np.empty(len(RECALL_CAPS), dtype=np.int64)
    for a in range(len(positives)):
        for t in range(outcomes.shape[1] if positives[a] > 0 else 0):
            true, false = 0, 0
            found[:] = 0
            for i in range(len(ranks)):
                if outcomes[a, t, i] == TRUE_POSITIVE:
                    # COCOeval's own formula. No precision between two of these is better.
                    best[true] = (true + 1) / (false + (true + 1) + 2.0**-52)
                    true += 1
                    for cap in range(len(RECALL_CAPS)):
                        found[cap] += ranks[i] < RECALL_CAPS[cap]
                elif outcomes[a, t, i] == FALSE_POSITIVE:
                    false += 1
            for i in range(true - 2, -1, -1):
                best[i] = max(best[i], best[i + 1])
            position = 0
            for r in range(len(recalls)):
                while position < true and (position + 1) / positives[a] < recalls[r]:
                    position += 1
                precision[a, t, r] = best[position] if position < true else 0.0
            recall[a, t] = found / positives[a]


def coco_stats(
    precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> tuple[float | None, ...]:
    """Return the numbers named in ``COCO_STATS`` as means over the classes where they are defined.

    Args:
        precision: By class, area range, threshold and recall, -1 if undefined, ``[C, A, T, R]``.
        recall: By class, area range, IoU threshold and cap, likewise, ``[C, A, T, 3]``.
    """
    parts = [
        precision[:, 0],
        precision[:, 0, 0],
        precision[:, 0, 5],  # IoU 0.75
        *(precision[:, area] for area in (1, 2, 3)),
        *(recall[:, 0, :, cap] for cap in (0, 1, 2)),
        *(recall[:, area, :, 2] for area in (1, 2, 3)),
    ]
    defined = [part[part > -1] for part in parts]
    return tuple(float(part.mean()) if part.size else None for part in defined)
