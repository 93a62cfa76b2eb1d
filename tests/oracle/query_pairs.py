"""Whole pairs of DETRs (`detr_kd/e2e-...`): Deformable DETR of two stages on this project's backbones.

Two things are not as the library has them. It embeds the places of proposals in float32, also in a float64 model. And
its loss of this detector is another than MMDetection's: that is written out here, so that totals and gradients tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from crosskd.boxes.ops import giou
from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.detector import Detector, build_detector
from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.detectors.detr.view import DetrPass
from crosskd.distill.distiller import build_distiller
from crosskd.distill.queries.crosskd import from_students_queries, from_teachers_queries
from crosskd.distill.queries.mimic import in_pixels
from crosskd.distill.term import Step
from crosskd.losses import EPSILON, focal_negative, focal_positive
from crosskd.spec.config import DistillConfig, ModelConfig, PostprocessConfig
from crosskd.spec.detr.types import TYPES
from crosskd.spec.distill.needs import DecoderQueries
from crosskd.structures import Detections, Targets
from tests.oracle import queries, weight_rule
from tests.oracle.case import Inputs, Uninitialised
from tests.oracle.compute import norm, summary
from tests.oracle.network import tens
from tests.support.steps import Witness

DETECTOR = queries.DETECTOR


def build(values: Mapping[str, Any], whose: str, dtype: torch.dtype) -> tuple[Detector, dict[str, list[int]]]:
    """The student or the teacher, with the rule's weights, and the shapes of what the case lists."""
    detr = {
        "queries": values["queries"],
        "encoder_layers": values["encoder_layers"],
        "decoder_layers": values["decoder_layers"],
        "feedforward": values["feedforward_channels"],
        "dropout": values["dropout"],
        "box_refine": True,
    }
    backbone = {
        "name": f"resnet{values[whose][1:]}",
        "init": "random",
        "frozen_stages": 1,
        "norm_eval": True,
        "norm_frozen": True,
    }
    config = ModelConfig.model_validate({"detector": DETECTOR, "backbone": backbone, "detr": detr})
    kind = TYPES[DETECTOR]
    fixed = {**kind.fixed, "two_stage": True, "two_stage_num_proposals": values["queries"]}
    with Uninitialised(), mock.patch.dict(TYPES, {DETECTOR: replace(kind, fixed=fixed)}):
        built = build_detector(config, values["num_classes"])
    seed = values["seed"] + (weight_rule.TEACHER_SEED_OFFSET if whose == "teacher" else 0)
    names = [name for name in values["state_dict"] if not name.startswith("neck.")]
    shapes = queries.fill(built.head, names, seed)
    with torch.no_grad():
        for name, tensor in built.state_dict().items():
            if name.startswith(("backbone.", "neck.")):
                key = their_name(name)
                if key is None:
                    tensor.zero_()  # a bias that theirs has not
                    continue
                value = weight_rule.value(key, tuple(tensor.shape), seed)
                if value is not None:
                    tensor.copy_(torch.as_tensor(value))
                shapes[key] = list(tensor.shape)
    built.head.model.get_proposal_pos_embed = embedded
    return built.to(dtype), shapes


def embedded(proposals: Tensor) -> Tensor:
    """[B, Q, 4] logits of boxes -> [B, Q, 4 * 128], sines and cosines, as the library's method of that name has it."""
    half = 128
    frequencies = 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor").to(proposals) / half)
    angles = (proposals.sigmoid() * 2 * math.pi)[..., None] / frequencies
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=4).flatten(2)


def their_name(name: str) -> str | None:
    if name.startswith("backbone."):
        return to_mmdet(name, "gfl")
    _, level, place, what = name.split(".")
    layer = f"neck.convs.{level}" if int(level) < 3 else f"neck.extra_convs.{int(level) - 3}"
    if place == "0":
        return f"{layer}.conv.weight" if what == "weight" else None
    return f"{layer}.gn.{what}"


def compute(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    inputs = Inputs(values)
    images, targets = inputs.images(dtype), inputs.targets(dtype)
    (student, shapes), (teacher, _) = (build(values, whose, dtype) for whose in ("student", "teacher"))
    knobs = queries.config(values)
    if values.get("variant"):
        knobs = knobs.model_copy(update={"detach_target": True})
    distiller = build_distiller(student, teacher, DistillConfig(crosskd=knobs)).train()
    witness = Witness(DecoderQueries(None))
    distiller.terms["witness"] = witness
    outputs: list[Any] = []
    with mock.patch.object(DetrPass, "losses", lambda made: outputs.append(made.output) or {}):
        losses = distiller(images, targets)
    own = student_losses(outputs[0], targets)
    total = torch.stack([*own.values(), *(value.sum() for value in losses.values())]).sum()
    total.backward()
    parameters = {key: p for name, p in student.named_parameters() for key in [_key(name)] if key}
    gradients = {
        key: None if p.grad is None else norm([p.grad]) for key, p in parameters.items() if key in values["grad_l2"]
    }
    gradients |= {
        name: _norm(queries.places(student.head, name)) for name in values["grad_l2"] if name not in gradients
    }
    everything = [p.grad for name, p in student.named_parameters() if _counts(name) and p.grad is not None]
    return {
        "image_summary": summary(images),
        "weight_l2": norm({x.data_ptr(): x for x in student.state_dict().values() if x.is_floating_point()}.values()),
        "losses": {name: value.item() for name, value in own.items()} | queries.losses_by_layer(losses),
        "total": total.item(),
        "grad_l2": gradients,
        "grad_l2_all": norm(everything),
        "predictions": [_told(found) for found in _detected(student, images, targets, values)],
        "state_dict": shapes,
        "teacher_target_has_graph": knobs.queries == "student" and not knobs.detach_target,
    } | _seen(witness.steps[0], knobs.queries)


def _key(name: str) -> str | None:
    return their_name(name) if name.startswith(("backbone.", "neck.")) else None


def _counts(name: str) -> bool:
    """Whether the reference has it, too."""
    return not name.startswith("neck.") or their_name(name) is not None


def _norm(tensors: Sequence[Tensor]) -> float | None:
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    return norm(gradients) if gradients else None


@torch.no_grad()
def _seen(step: Step, whose: str | None) -> dict[str, Any]:
    """What went through the decoders, and what the teacher's heads say of it."""
    teacher, ours, own = port_of(step.teacher.head), step.student.recording, step.teacher.recording
    if whose == "teacher":
        way = teacher.trajectory(own)
        states = [seen.state for seen in way]
        pairs = list(from_teachers_queries(teacher, way, replace(own.memory, cells=ours.memory.cells)))
    else:
        states = [seen.state for seen in port_of(step.student.head).trajectory(ours)]
        pairs = list(from_students_queries(teacher, states, ours.memory, own.memory, detach=True))
    memories = {"reused": ours.memory, "teacher_out": own.memory}
    return {
        "references": [state.references.tolist() for state in states],
        "student_out": {"hidden": tens(ours.hidden)},
    } | {
        name: {
            "hidden": tens([teacher.layer(state, memories[name]) for state in states]),
            "cls": tens([pair[side].logits for pair in pairs]),
            "box": tens([pair[side].boxes for pair in pairs]),
        }
        for side, name in enumerate(memories)
    }


def _detected(student: Detector, images: Tensor, targets: Targets, values: Mapping[str, Any]) -> list[Detections]:
    most = PostprocessConfig(score_threshold=0.0, max_detections=values["test_max_per_img"])
    return student.eval().detect(images, targets.sizes, most)


def _told(found: Detections) -> dict[str, Any]:
    return {"scores": found.scores.tolist(), "labels": found.labels.tolist(), "bboxes": found.boxes.tolist()}


# --- the student's own loss, as MMDetection has it --------------------------------------------------------------------


def student_losses(output: Any, targets: Targets) -> dict[str, Tensor]:
    """Of each layer and of the encoder's proposals, for which there is one class."""
    said = [(layer["logits"], layer["pred_boxes"]) for layer in output.auxiliary_outputs]
    losses = _losses(output.logits, output.pred_boxes, targets, targets.labels)
    losses = {f"loss_{name}": value for name, value in losses.items()}
    for layer, (logits, boxes) in enumerate(said):
        found = _losses(logits, boxes, targets, targets.labels)
        losses |= {f"d{layer}.loss_{name}": value for name, value in found.items()}
    one = [torch.zeros_like(labels) for labels in targets.labels]
    found = _losses(output.enc_outputs_class, output.enc_outputs_coord_logits.sigmoid(), targets, one)
    return losses | {f"enc_loss_{name}": value for name, value in found.items()}


def _losses(logits: Tensor, boxes: Tensor, targets: Targets, labels: Sequence[Tensor]) -> dict[str, Tensor]:
    """Focal loss of weight 2, L1 of 5, GIoU of 2, over the matched objects of the batch."""
    aim, distance, overlap = torch.zeros_like(logits, dtype=torch.bool), [], []
    pixels = in_pixels(boxes, targets.sizes)
    for image, (corners, classes) in enumerate(zip(targets.boxes, labels, strict=True)):
        height, width = targets.sizes[image]
        truth = _shares(corners, height, width)
        with torch.no_grad():
            cost = _class_cost(logits[image])[:, classes] + 5 * torch.cdist(boxes[image], truth, p=1)
            cost = cost - 2 * giou(pixels[image][:, None], corners[None])
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        aim[image, torch.as_tensor(rows), classes[columns]] = True
        distance.append((boxes[image][rows] - truth[columns]).abs().sum())
        overlap.append((1 - giou(pixels[image][rows], corners[columns])).sum())
    count = sum(len(classes) for classes in labels) + EPSILON
    focal = torch.where(aim, focal_positive(logits, 2.0, 0.25), focal_negative(logits, 2.0, 0.25))
    return {
        "cls": 2 * focal.sum() / count,
        "bbox": 5 * torch.stack(distance).sum() / count,
        "iou": 2 * torch.stack(overlap).sum() / count,
    }


def _class_cost(logits: Tensor) -> Tensor:
    return 2 * (focal_positive(logits, 2.0, 0.25) - focal_negative(logits, 2.0, 0.25))


def _shares(corners: Tensor, height: int, width: int) -> Tensor:
    low, high = corners[:, :2], corners[:, 2:]
    return torch.cat(((low + high) / 2, high - low), 1) / corners.new_tensor([width, height, width, height])
