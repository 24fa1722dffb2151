"""Score the files of ILSVRC DET and VOC: read, check everything, then score."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from detect.data.annotations import Annotations, read_annotations
from detect.data.ilsvrc import check_classes, read_blacklist, read_image_list, read_synsets
from detect.data.problems import InputError
from detect.data.voc import read_voc_classes, read_voc_list
from detect.scoring.ilsvrc import score_ilsvrc
from detect.scoring.matching import sort_detections
from detect.scoring.predictions import form_notes, read_ilsvrc_predictions
from detect.scoring.scores import Scores
from detect.scoring.tables import GroundTruth, ScoredBoxes
from detect.scoring.voc import score_voc
from detect.scoring.voc_predictions import found_classes, read_voc_predictions

_NO_OBJECTS = Annotations(
    names=(),
    sizes=np.zeros((0, 2), dtype=np.int64),
    images=np.zeros(0, dtype=np.int32),
    classes=[],
    corners=np.zeros((0, 4)),
    difficult=np.zeros(0, dtype=np.bool_),
)


def score_ilsvrc_files(
    predictions: Path,
    annotations: Path,
    image_list: Path,
    classes: Path,
    blacklist: Path | None = None,
    *,
    drop: Collection[str] = (),
    official: bool = False,
) -> Scores:
    """Score a submission to ILSVRC DET.

    Args:
        predictions: Lines ``image_id class_id score xmin ymin xmax ymax``, any order.
        annotations: Folder or tar archive of the XML files.
        image_list: Lines ``name id``.
        classes: meta_det.mat, or lines ``wnid id name``.
        blacklist: Lines ``image_id wnid``; without it every object counts.
        drop: Leave out lines of the predictions that are wrong in these ways.
        official: Answer what the devkit's code answers, where that is undefined or of no use too.

    Raises:
        InputError: If a file is missing or malformed.
    """
    ids = read_image_list(image_list)
    synsets = read_synsets(classes)
    labels = synsets.label_of()
    pairs = read_blacklist(blacklist, synsets) if blacklist else frozenset()
    images = replace(_NO_OBJECTS, names=tuple(ids), sizes=np.zeros((len(ids), 2), np.int64))
    truth = _ground_truth(images, ids.values(), labels)

    def read_predictions() -> tuple[ScoredBoxes, list[str]]:
        found, notes = read_ilsvrc_predictions(
            predictions, truth, synsets, drop=drop, any_score=official
        )
        return sort_detections(found, len(labels), len(ids), truth.image_ids), notes

    with ThreadPoolExecutor(1) as pool:  # numbers are parsed and sorted while Python reads XML
        reading = pool.submit(read_predictions)
        try:
            found_xml = read_annotations(annotations, list(ids), any_box=True)
            check_classes(found_xml, labels, annotations)
        except InputError as error:
            raise _joined(error, reading.exception()) from error
    truth = _ground_truth(found_xml, ids.values(), labels)
    found, notes = reading.result()
    notes += form_notes(found, truth, predictions) + _object_notes(found_xml, annotations)
    scores = score_ilsvrc(found, truth, synsets.names, pairs, official=official)
    return replace(scores, notes=tuple(notes))


def score_voc_files(
    predictions: Path,
    annotations: Path,
    image_list: Path,
    classes: Path | Sequence[str] | None = None,
    metric: str = "2010",
    *,
    drop: Collection[str] = (),
    official: bool = False,
) -> Scores:
    """Score VOC results files.

    Args:
        predictions: Folder of comp4_det_test_CLASS.txt, or a path with ``*`` for the class's name;
            lines ``name score xmin ymin xmax ymax``.
        annotations: Folder or tar archive of the XML files.
        image_list: The name of one image a line.
        classes: Names of the classes, or a file of them, one a line; by default those that are
            annotated or have a results file.
        metric: ``2007`` or ``2010``.
        drop: Leave out lines of the predictions that are wrong in these ways.
        official: Answer what the devkit's code answers, where that is undefined or of no use too.

    Raises:
        InputError: If a file is missing or malformed, or no object is of any class.
    """
    names = read_voc_list(image_list)
    found_xml = read_annotations(annotations, names, any_box=True)
    annotated = set(found_xml.classes)
    if classes is None:
        class_names = sorted(annotated | set(found_classes(predictions)))
    else:
        class_names = list(read_voc_classes(classes) if isinstance(classes, Path) else classes)
    labels = {name: label for label, name in enumerate(class_names)}
    if not annotated & labels.keys():
        raise InputError(
            f"{annotations}: no object of any class ({', '.join(class_names)}) on the "
            f"{len(names)} images of {image_list}; are these the right classes?"
        )
    truth = _ground_truth(found_xml, range(1, len(names) + 1), labels)
    missing = not isinstance(classes, Path)
    found, notes = read_voc_predictions(
        predictions, truth, class_names, drop=drop, missing=missing, any_score=official
    )
    scores = score_voc(found, truth, class_names, metric=metric, official=official)
    notes += _object_notes(found_xml, annotations)
    if others := sorted(annotated - labels.keys()):
        notes.append(f"Annotated, but not scored: {', '.join(others)}")
    return replace(scores, notes=tuple(notes))


def _joined(*errors: BaseException | None) -> InputError:
    """Tell of all files that are wrong at once."""
    return InputError("\n".join(str(error) for error in errors if isinstance(error, InputError)))


def _object_notes(annotations: Annotations, source: Path) -> list[str]:
    """Tell of objects that nothing can find, for they end before they begin."""
    xmin, ymin, xmax, ymax = annotations.corners.T
    inverted = np.flatnonzero((xmax - xmin + 1 <= 0) | (ymax - ymin + 1 <= 0))
    if not len(inverted):
        return []
    name = annotations.names[annotations.images[inverted[0]]]
    return [
        f"{source}: {len(inverted)} objects end before they begin and cannot be found, the first "
        f"in {name}.xml: {annotations.classes[inverted[0]]}"
    ]


def _ground_truth(
    annotations: Annotations, image_ids: Collection[int], labels: dict[str, int]
) -> GroundTruth:
    """Turn class names into labels; objects of other classes are left out."""
    classes = annotations.classes
    of_object = np.fromiter((labels.get(name, -1) for name in classes), np.int32, len(classes))
    keep = of_object >= 0
    return GroundTruth(
        names=annotations.names,
        image_ids=np.fromiter(image_ids, np.int64, len(annotations.names)),
        sizes=annotations.sizes,
        images=annotations.images[keep],
        labels=of_object[keep],
        corners=annotations.corners[keep],
        ignored=annotations.difficult[keep],
    )
