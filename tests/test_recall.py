import pytest
import torch
from torch import Tensor

from proposals.recall import (
    average_best_overlap,
    average_recall,
    best_overlaps,
    mean_average_best_overlap,
    recall,
)

TRUTH = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])


@pytest.mark.parametrize("budgets", [(None,), (0,), (5, None)])
def test_no_proposals_cover_nothing(budgets: tuple[int | None, ...]) -> None:
    overlaps = best_overlaps(torch.zeros(0, 4), TRUTH, budgets)
    assert torch.equal(overlaps, torch.zeros(len(budgets), 2))


def test_measures_of_no_objects_are_nan() -> None:
    overlaps = best_overlaps(TRUTH, torch.zeros(0, 4))
    assert overlaps.shape == (1, 0)
    assert recall(overlaps).isnan().all()
    assert average_recall(overlaps).isnan().all()
    assert average_best_overlap(overlaps).isnan().all()
    assert mean_average_best_overlap(overlaps, torch.zeros(0, dtype=torch.long)).isnan().all()


def test_a_budget_sees_only_the_first_proposals() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 10], [20, 20, 30, 30]])
    overlaps = best_overlaps(boxes, TRUTH, (0, 1, 2, 3, None))
    expected = torch.tensor([[0.0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 0.5]])
    assert torch.allclose(overlaps, expected)


def test_an_object_at_the_threshold_counts_as_covered() -> None:
    seven_tenths = best_overlaps(torch.tensor([[0.0, 0, 10, 7]]), TRUTH[:1])
    assert recall(seven_tenths, (0.5, 0.7, 0.71)).tolist() == [[1, 1, 0]]


def slow_recall(overlaps: Tensor, threshold: float) -> float:
    return float(sum(o >= threshold for o in overlaps.tolist()) / len(overlaps))


def test_recall_equals_a_plain_count() -> None:
    overlaps = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    thresholds = (0.3, 0.5, 0.8)
    found = recall(overlaps, thresholds)
    for row in range(3):
        assert found[row].tolist() == pytest.approx(
            [slow_recall(overlaps[row], t) for t in thresholds]
        )


def test_average_recall_of_a_hand_made_case() -> None:
    # 0.72 passes 0.5, 0.55, 0.6, 0.65, 0.7; 0.95 passes all ten; 0.3 passes none.
    assert average_recall(torch.tensor([0.72, 0.95, 0.3])).item() == pytest.approx(0.5)


def test_average_best_overlap_weighs_objects_and_its_mean_weighs_classes() -> None:
    overlaps = torch.tensor([[1.0, 0.5, 0.3], [0.0, 0.2, 0.4]])
    labels = torch.tensor([7, 7, 2])
    assert average_best_overlap(overlaps).tolist() == pytest.approx([0.6, 0.2])
    assert mean_average_best_overlap(overlaps, labels).tolist() == pytest.approx([0.525, 0.25])
