from __future__ import annotations

import pytest
import torch

from detect.classifier import RegionClassifier
from detect.crops import CropConfig, crop_boxes
from detect.googlenet import GoogLeNet, Preprocessing
from detect.heads import RegionHead, decode_boxes
from detect.precision import best_precision, choose_precision
from detect.workers import CoreWorkers


@pytest.fixture(scope="module")
def classifier() -> RegionClassifier:
    torch.manual_seed(0)
    network, head = GoogLeNet(0).eval(), RegionHead(3).eval()
    crop = CropConfig(size=64, context=4)
    return RegionClassifier(
        network,
        head,
        preprocessing=Preprocessing(),
        crop=crop,
        batch_size=2,
        workers=CoreWorkers(2),
    )


def reference(classifier: RegionClassifier, image, box):
    """Score one region, step by step."""
    crop = crop_boxes(image, box[None], classifier.crop)
    mean = torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1)
    features = classifier.network.features(crop - mean)
    logits, offsets = classifier.head(features)
    size = (image.shape[1], image.shape[2])
    return decode_boxes(box[None], offsets, size)[0], logits.softmax(1)[0]


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_scores_equal_those_of_one_region_after_the_other(classifier, photo, n: int) -> None:
    boxes = torch.tensor([[5.0, 5.0, 40.0, 50.0]]) + torch.arange(n)[:, None] * 4.0
    moved, scores = classifier.score_regions(photo, boxes)
    assert moved.shape == (n, 3, 4)
    assert scores.shape == (n, 4)
    for i in range(n):
        with torch.inference_mode():
            box, score = reference(classifier, photo, boxes[i])
        torch.testing.assert_close(moved[i], box, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(scores[i], score, atol=1e-5, rtol=1e-4)


def test_precision_is_chosen_by_name_or_by_the_hardware() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    assert choose_precision("auto", cpu) == best_precision(cpu)
    with pytest.raises(ValueError, match="precision=half: choose one of"):
        choose_precision("half", cpu)
