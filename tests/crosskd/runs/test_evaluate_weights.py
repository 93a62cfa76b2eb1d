"""A weights file evaluated on a validation split: as a training's configuration says, and as the file itself does."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.detector import build_detector
from crosskd.errors import WeightsError
from crosskd.evaluation.evaluate import evaluate
from crosskd.runs.evaluate import as_evaluation, evaluate_weights
from crosskd.spec.config import PostprocessConfig
from crosskd.weights.native import write_weights
from tests.support import small
from tests.support.coco_files import config, loader_of, many, write

SIZES = [(64, 48), (48, 64), (96, 64), (33, 57), (64, 48)]


def evaluated(settings, path):
    return evaluate_weights(as_evaluation(settings, path)).evaluation


@pytest.fixture
def trained(tmp_path):
    """A data set, its configuration, and a detector's weights with the classes in the other order."""
    write(tmp_path, many(SIZES))
    settings = config(tmp_path)
    torch.manual_seed(0)
    detector = build_detector(settings.student, 2, pretrained=False)
    path = tmp_path / "best.safetensors"
    write_weights(path, detector.state_dict(), model=settings.student, classes=["two", "one"], extra={})
    return settings, detector, path


def test_a_weights_file_says_its_model_and_its_class_order(trained):
    settings, detector, path = trained
    loader = loader_of(settings, "val", ["two", "one"])
    expected = evaluate(detector, loader, annotations=loader.dataset.annotations)
    head = settings.student.head.model_copy(update={"depth": 3})
    other = settings.model_copy(update={"student": settings.student.model_copy(update={"head": head})})
    result = evaluated(other, path)
    assert result.metrics == expected.metrics
    assert list(result.per_class) == ["two", "one"]


def test_how_detections_are_chosen_can_be_changed_field_by_field(trained):
    settings, detector, path = trained
    own = settings.student.postprocess.model_copy(update={"score_threshold": 0.0, "max_detections": 7})
    write_weights(
        path,
        detector.state_dict(),
        model=settings.student.model_copy(update={"postprocess": own}),
        classes=["two", "one"],
    )

    def count(**postprocess):
        wanted = PostprocessConfig(**postprocess)
        student = settings.student.model_copy(update={"postprocess": wanted})
        seen = []
        head = DenseHead.detect

        def watch(self, predictions, sizes, config):
            seen.append(config)
            return head(self, predictions, sizes, config)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DenseHead, "detect", watch)
            evaluated(settings.model_copy(update={"student": student}), path)
        return seen[0]

    assert count() == own
    changed = count(nms_iou=0.4)
    assert changed == own.model_copy(update={"nms_iou": 0.4})
    # What another detector fills in by itself has not been chosen.
    filled = small.config(detector="retinanet", postprocess={"max_detections": 3}).postprocess
    assert filled.nms_iou != own.nms_iou
    changed = count(**filled.model_dump(include=filled.model_fields_set))
    assert changed == own.model_copy(update={"max_detections": 3})


def test_a_file_without_a_description_is_the_student_of_the_configuration(trained, tmp_path):
    settings, detector, _ = trained
    torch.save(detector.state_dict(), tmp_path / "bare.pth")
    assert evaluated(settings, tmp_path / "bare.pth").images == 5
    head = settings.student.head.model_copy(update={"depth": 3})
    other = settings.model_copy(update={"student": settings.student.model_copy(update={"head": head})})
    with pytest.raises(WeightsError, match="does not fit the model"):
        evaluated(other, tmp_path / "bare.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": json.dumps(["one", "three"])}, "knows the classes one, three; the data has one, two"),
        ({"classes": "7"}, "not a list of strings"),
        ({"classes": '["one", "two", "one"]'}, "a class is named twice"),
        ({"classes": "[" * 100_000}, "nested too deeply"),
        ({"model": "{}"}, "describes its model in a way that this version does not know: Field required"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(trained, tmp_path, changes, message):
    settings, detector, _ = trained
    metadata = {"format": "crosskd", "model": settings.student.model_dump_json(), "classes": '["one", "two"]'}
    path = tmp_path / "other.safetensors"
    save_file({name: value.contiguous() for name, value in detector.state_dict().items()}, path, metadata | changes)
    with pytest.raises(WeightsError, match=message):
        evaluated(settings, path)


def test_a_larger_batch_than_an_evaluation_may_have_is_no_fault(trained):
    settings, _, path = trained
    large = as_evaluation(settings.model_copy(update={"batch_size": 4096}), path)
    assert large.batch_size == 1024
    few = settings.evaluation.model_copy(update={"batch_size": 3})
    assert as_evaluation(settings.model_copy(update={"evaluation": few}), path).batch_size == 3
