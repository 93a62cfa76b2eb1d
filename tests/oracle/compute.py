"""Run one case and report what came out, under the vectors' own field names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.dense.fcos import FCOS
from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.detector import Detector
from crosskd.distill.crosskd import cross
from crosskd.distill.distiller import build_distiller
from crosskd.distill.term import Step, View
from crosskd.spec.config import CrossKDConfig
from crosskd.spec.distill.needs import AnchorPredictions, HeadCut, Pyramid
from crosskd.structures import Assignment, Detections, Losses, Predictions
from tests.oracle.case import Case
from tests.support.steps import Witness

LOSS_NAMES = {
    "crosskd_cls": "loss_cls_kd",
    "crosskd_box": "loss_reg_kd",
    "crosskd_centerness": "losses_center_kd",
    "pkd": "loss_feat_kd",
}
TOP = 20  # detections of an image that the vectors keep


def compute(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Losses, gradients, maps and predictions of `case`, all numbers as Python floats."""
    student, images, targets = case.student(dtype), case.images(dtype), case.targets(dtype)
    computed: dict[str, Any] = {
        "image_summary": summary(images),
        "student_weight_l2": norm(student.state_dict().values()),
    }
    if case.distils:
        distiller = build_distiller(student, case.teacher(dtype), case.distill())
        crosskd = case.distill().crosskd or CrossKDConfig(cut=0)
        assert crosskd.cut is not None
        cut = HeadCut(crosskd.cut, crosskd.cut, crosskd.after_relu)
        witness = Witness(cut, Pyramid(), AnchorPredictions(both=True))
        distiller.terms["witness"] = witness
        losses = distiller.train()(images, targets)
        (step,) = witness.steps
        assignment = step.student.assignment
        computed |= _distillation(step, crosskd.cut)
    else:
        losses = student.train()(images, targets)
        with torch.no_grad():
            assignment = student.head.assign(student.head(student.features(images)), targets)
    computed |= _losses(losses, case) | _assignment(student, assignment)
    sum(values.sum() for values in losses.values()).backward()
    computed |= _gradients(student)
    return computed | _evaluation(student.eval(), images, case)


def _losses(losses: Losses, case: Case) -> dict[str, Any]:
    values = {LOSS_NAMES.get(name, name): term.tolist() for name, term in losses.items()}
    if case.detector == "fcos":  # whose reference sums over the levels, and numbers PKD's
        features = {f"loss_feat_kd_{level}": value for level, value in enumerate(values.pop("loss_feat_kd", []))}
        values = {name: sum(term) for name, term in values.items()} | features
    return {"losses": values, "total": sum(term.sum().item() for term in losses.values())}


def _assignment(student: Detector, assignment: Assignment) -> dict[str, Any]:
    positives = {"n_pos_per_level": assignment.positives_per_level(student.num_classes)}
    if isinstance(student.head, FCOS):
        assert assignment.centerness is not None
        return positives | {"normalisers": {"centerness_sum": assignment.centerness.sum().item()}}
    unweighted = torch.split(assignment.label_weights == 0, assignment.level_sizes, dim=1)
    return positives | {
        "normalisers": {"avg_factor": student.head.normaliser(assignment).item()},
        "label_weight_zeros_per_level": [int(level.sum()) for level in unweighted],
    }


def _gradients(student: Detector) -> dict[str, Any]:
    parameters = dict(student.named_parameters())
    gradients = {to_mmdet(name, student.config.detector): p.grad for name, p in parameters.items()}
    return {
        "grad_l2": {name: None if g is None else norm([g]) for name, g in gradients.items()},
        "grad_l2_all": norm(g for g in gradients.values() if g is not None),
        "n_params_with_grad": sum(g is not None for g in gradients.values()),
        "n_params_requires_grad": sum(p.requires_grad for p in parameters.values()),
        "n_params": len(parameters),
    }


@torch.no_grad()
def _distillation(step: Step, cut: int) -> dict[str, Any]:
    crossed = cross(step.teacher.head, step.student.held, step.teacher.held, cut)
    views = {"teacher": step.teacher, "student": step.student}
    return {
        "outputs": {name: _maps(view, evaluated=name == "teacher") for name, view in views.items()}
        | {"cross": _predictions(step.teacher.head, crossed, evaluated=True)},
        "hold": {
            f"{name}_{branch}_hold": [[*summary(x), x.min().item()] for x in maps]
            for name, view in views.items()
            for branch, maps in (("cls", view.held.cls), ("reg", view.held.box))
        },
    }


def _maps(view: View, *, evaluated: bool) -> dict[str, Any]:
    predictions = _predictions(view.head, view.predictions, evaluated=evaluated)
    return predictions | {"fpn": summaries(view.features)}


def _predictions(head: DenseHead, predictions: Predictions, *, evaluated: bool) -> dict[str, Any]:
    """`evaluated`: by a head in evaluation mode, where the reference's FCOS turns strides into pixels itself."""
    boxes = predictions.box
    if isinstance(head, FCOS) and head.config.norm_on_bbox and evaluated:
        boxes = [box * stride for box, stride in zip(boxes, head.strides, strict=True)]
    values = {"cls_score": summaries(predictions.cls), "bbox_pred": summaries(boxes)}
    if predictions.centerness is not None:
        values["centerness"] = summaries(predictions.centerness)
    return values


@torch.no_grad()
def _evaluation(student: Detector, images: Tensor, case: Case) -> dict[str, Any]:
    seen: list[tuple[list[Tensor], Predictions]] = []
    with student.head.register_forward_hook(lambda _, given, made: seen.append((given[0], made))):
        detections = student.detect(images, case.targets(images.dtype).sizes)
    ((features, predictions),) = seen
    return {
        "eval_fpn": summaries(features),
        "eval_outputs": _predictions(student.head, predictions, evaluated=True),
        "predictions": [best(found) for found in detections],
    }


def best(found: Detections) -> dict[str, Any]:
    return {
        "count": len(found.scores),
        "scores": found.scores[:TOP].tolist(),
        "labels": found.labels[:TOP].tolist(),
        "bboxes": found.boxes[:TOP].tolist(),
    }


def summary(x: Tensor) -> list[float]:
    """Mean, population standard deviation and L2 norm, computed in float64."""
    x = x.detach().double()
    return [x.mean().item(), x.std(correction=0).item(), x.norm().item()]


def summaries(maps: Sequence[Tensor]) -> list[list[float]]:
    return [summary(x) for x in maps]


def norm(tensors: Any) -> float:
    """L2 norm over all tensors together, computed in float64."""
    return float(sum(t.detach().double().square().sum() for t in tensors) ** 0.5)
