from __future__ import annotations

import numpy as np
import pytest

from detect import scoring
from detect.scoring import GroundTruth, ScoredBoxes, score_ilsvrc, score_voc
from detect.scoring.matching import sort_detections
from detect.scoring.tables import check_columns


def test_nothing_at_all_is_scored_by_every_protocol() -> None:
    truth = GroundTruth.from_boxes([], [], [], num_images=0)
    found = ScoredBoxes.from_boxes([], [], [], [])
    for score in (score_voc, score_ilsvrc):
        scores = score(found, truth, ["cat"])
        assert (scores.mean_ap, scores.classes[0].detections) == (None, 0)
        assert score(found, truth, []).mean_ap is None


def test_arrays_are_scored_without_any_file() -> None:
    box = [10, 20, 50, 60]
    # Given in any order of images; the second object is ignored.
    truth = GroundTruth.from_boxes(
        [2, 0], [0, 1], [box, [0, 0, 9, 9]], num_images=3, ignored=[False, True]
    )
    assert truth.images.tolist() == [0, 2]
    assert truth.boxes.tolist() == [[0, 0, 9, 9], box]
    found = ScoredBoxes.from_boxes([2, 2, 0], [0, 0, 1], [0.5, 0.25, 0.9], [box, box, [0, 0, 9, 9]])
    assert found.boxes.tolist()[0] == box
    scores = score_voc(found, truth, ["cat", "dog"])
    cat, dog = scores.classes
    assert (cat.ap, cat.true_positives, cat.false_positives) == (1, 1, 1)
    assert (dog.ap, dog.ignored) == (None, 1)
    assert (cat.best_f1, cat.best_threshold) == (1, 0.5)


def test_columns_that_do_not_fit_are_refused() -> None:
    truth = GroundTruth.from_boxes([0], [0], [[0, 0, 9, 9]], num_images=1)

    def found(image: int = 0, label: int = 0, score: float = 1, x: float = 0) -> ScoredBoxes:
        return ScoredBoxes.from_boxes([image], [label], [score], [[x, 0, 9, 9]])

    check_columns(found(), truth, 1)
    for columns, message in (
        (found(image=1), r"images of the detections are 1\.\.1, not within 0\.\.0"),
        (found(label=-1), r"labels of the detections are -1\.\.-1"),
        (found(score=np.nan), "not a finite number"),
        (found(x=np.inf), "not a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            check_columns(columns, truth, 1)
    check_columns(found(score=np.nan), truth, 1, any_score=True)
    with pytest.raises(ValueError, match=r"labels of the objects are 0\.\.0"):
        check_columns(ScoredBoxes.from_boxes([], [], [], []), truth, 0)


@pytest.mark.parametrize("seed", range(10))
def test_detections_are_sorted_by_class_score_image_id_and_file(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, num_images, num_classes = int(rng.integers(0, 400)), 7, 3
    ids = rng.permutation(100)[:num_images]
    found = ScoredBoxes.from_boxes(
        rng.integers(0, num_images, count),
        rng.integers(0, num_classes, count),
        rng.choice([0.5, -0.0, 0.0, 1e-310, -2.5, np.inf, -np.inf, 0.25], count),
        np.column_stack([np.arange(count)] * 4),
    )
    place = np.arange(count)
    for image_ids, ranks in ((ids, ids[found.images]), (None, place)):
        expected = sorted(
            range(count), key=lambda i: (found.labels[i], -found.scores[i], ranks[i], i)
        )
        done = sort_detections(found, num_classes, num_images, image_ids)
        assert done.corners[:, 0].tolist() == found.corners[expected, 0].tolist()
        assert sort_detections(done, num_classes, num_images, image_ids) is done


def test_scores_that_are_no_numbers_come_first_as_matlab_sorts() -> None:
    found = ScoredBoxes.from_boxes([0] * 3, [0] * 3, [1, np.nan, 2], np.zeros((3, 4)))
    assert np.isnan(sort_detections(found, 1, 1).scores[0])


@pytest.mark.parametrize("name", scoring.__all__)
def test_the_library_offers_what_it_names(name: str) -> None:
    assert getattr(scoring, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'score_png'"):
        scoring.score_png  # noqa: B018
