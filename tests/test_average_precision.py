from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.scoring.average_precision import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    average_precision,
    precision_recall,
)

OUTCOMES = {"t": TRUE_POSITIVE, "f": FALSE_POSITIVE, "i": IGNORED}


def outcomes(text: str) -> np.ndarray:
    return np.array([OUTCOMES[letter] for letter in text], dtype=np.int8)


def reference_curve(text: str, positives: int) -> list[tuple[float, float]]:
    """(recall, precision) after each detection that counts."""
    curve, true, counted = [], 0, 0
    for letter in text:
        if letter == "i":
            continue
        counted += 1
        true += letter == "t"
        curve.append((true / positives, true / counted))
    return curve


def reference_area(text: str, positives: int) -> float:
    """The devkit's VOCap, loop by loop."""
    curve = reference_curve(text, positives)
    recall = [0.0, *(r for r, _ in curve), 1.0]
    precision = [0.0, *(p for _, p in curve), 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    area = 0.0
    for i in range(1, len(recall)):
        if recall[i] != recall[i - 1]:
            area += (recall[i] - recall[i - 1]) * precision[i]
    return area


def reference_eleven_points(text: str, positives: int) -> float:
    """The devkit's loop over recall 0, 0.1, ... 1."""
    total = 0.0
    for i in range(11):
        best = [p for r, p in reference_curve(text, positives) if r >= i * 0.1]
        total += max(best, default=0.0) / 11
    return total


@pytest.mark.parametrize(
    ("text", "positives", "area", "eleven_points"),
    [
        ("", 3, 0, 0),
        ("f", 1, 0, 0),
        ("i", 1, 0, 0),
        ("t", 1, 1, 1),
        ("it", 1, 1, 1),
        # Precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4; from the right at best
        # 1, 2/3, 2/3, 3/5, 3/5: the area is a quarter of 1 + 2/3 + 3/5. Recalls 0 .1 .2 find
        # precision 1, .3 .4 .5 find 2/3, .6 .7 find 3/5, .8 .9 1 find nothing.
        ("tftft", 4, (1 + 2 / 3 + 3 / 5) / 4, (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11),
    ],
)
def test_ap_equals_the_curve_drawn_by_hand(
    text: str, positives: int, area: float, eleven_points: float
) -> None:
    assert average_precision(outcomes(text), positives, "area") == pytest.approx(area, abs=1e-15)
    assert average_precision(outcomes(text), positives, "11 points") == pytest.approx(
        eleven_points, abs=1e-15
    )


@given(st.text("tfi", max_size=40), st.integers(0, 20))
def test_ap_equals_the_devkits_loops(text: str, missed: int) -> None:
    positives = max(1, text.count("t") + missed)
    area = average_precision(outcomes(text), positives, "area")
    assert area == pytest.approx(reference_area(text, positives), abs=1e-12)
    eleven = average_precision(outcomes(text), positives, "11 points")
    assert eleven == pytest.approx(reference_eleven_points(text, positives), abs=1e-12)


def test_precision_and_recall_are_float64_and_skip_ignored_detections() -> None:
    precision, recall = precision_recall(outcomes("itif"), 2)
    assert precision.dtype == recall.dtype == np.float64
    assert precision.tolist() == [0, 1, 1, 0.5]
    assert recall.tolist() == [0, 0.5, 0.5, 0.5]


def test_nothing_to_be_found_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one object"):
        average_precision(outcomes("t"), 0, "area")
