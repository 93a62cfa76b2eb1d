"""Cases of two-stage distillation (`roi_kd/...`): the loss functions alone, and whole pairs with given proposals."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.detector import Detector, build_detector
from crosskd.detectors.two_stage.regions import RegionPredictions, Regions
from crosskd.distill.crosskd_regions import best_classes, cross, mimic_regions
from crosskd.distill.distiller import build_distiller
from crosskd.losses import EPSILON, quality_focal
from crosskd.spec.config import CrossKDConfig, DistillConfig, ModelConfig, PKDConfig
from crosskd.structures import Losses
from tests.oracle import weight_rule
from tests.oracle.case import Inputs, Uninitialised, UnknownSettingError
from tests.oracle.compare import MISSING, Comparison, Worst, leaves
from tests.oracle.compute import norm, summary
from tests.oracle.network import SAMPLES, STEP, tens

PREFIX, DETECTOR = "roi_kd", "faster_rcnn"
DESCRIPTION = {
    "name", "kind", "seed", "n_rois", "num_classes", "reg_class_agnostic", "teacher_background_shift", "num_pos",
    "num_neg", "kd_cfg", "n_pos", "mask_size", "size", "empty_images", "student", "teacher", "fpn_channels",
    "fc_out_channels", "img_metas", "gt_bboxes", "gt_labels", "proposals",
}  # fmt: skip
TOLERANCES = {False: (1e-8, 1e-10), True: (2e-5, 1e-7)}  # relative, or absolute; of float64 and of float32
GROUPED = ("grad_l2", "state_dict")  # told as one, whatever layer it is
LOSS_NAMES = {
    "loss_cls": "loss_cls", "loss_bbox": "loss_bbox", "crosskd_cls": "loss_cls_kd", "crosskd_box": "loss_reg_kd",
    "pkd": "losses_feat_kd",
}  # fmt: skip
NAMES = {
    "neck.inner_blocks.": ("neck.lateral_convs.", ".0.", ".conv."),
    "neck.layer_blocks.": ("neck.fpn_convs.", ".0.", ".conv."),
    "head.region.fc6.": ("roi_head.bbox_head.shared_fcs.0.", "", ""),
    "head.region.fc7.": ("roi_head.bbox_head.shared_fcs.1.", "", ""),
    "head.cls.": ("roi_head.bbox_head.fc_cls.", "", ""),
    "head.box.": ("roi_head.bbox_head.fc_reg.", "", ""),
}


def is_case(values: Mapping[str, Any]) -> bool:
    return str(values.get("name")).startswith(f"{PREFIX}/")


def compute(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """What this project makes of a case, under the vectors' own field names."""
    kinds = {"function": _function, "mask": _mask, "end-to-end": _pair}
    if values["kind"] not in kinds:
        raise UnknownSettingError(f"unknown kind {values['kind']!r}")
    return kinds[values["kind"]](values, dtype)


def compare(
    expected: Mapping[str, Any],
    computed: Mapping[str, Any],
    *,
    single: bool,
    described: Collection[str] = frozenset(DESCRIPTION),
) -> Comparison:
    """Every number of every result field of `expected` against the one at the same place in `computed`."""
    result, (relative, absolute) = Comparison(), TOLERANCES[single]
    for name, value in expected.items():
        for path, want, got in leaves(name, value, computed.get(name, MISSING)) if name not in described else ():
            if got is MISSING:
                result.uncompared.append(path)
                continue
            quantity = ".".join(part for part in path.split(".") if not part.isdigit())
            quantity = next((part for part in GROUPED if quantity.startswith(f"{part}.")), quantity)
            # A float32 entry of a map is as exact as the largest that the vectors tell of it.
            floor = max(absolute, relative * _largest(value, path.split(".")[1:-1])) if single else absolute
            result.quantities.setdefault(quantity, Worst(relative)).see(_error(want, got, floor), path)
    return result


def _largest(value: Any, place: Sequence[str]) -> float:
    """Of the list of numbers at `place`, 0 where there is none."""
    for key in place:
        value = value[int(key)] if isinstance(value, list) else value.get(key, {})
    numbers = value if isinstance(value, list) else []
    return max((abs(number) for number in numbers if isinstance(number, int | float)), default=0.0)


def _error(want: Any, got: Any, floor: float) -> float:
    if want is None or got is None:
        return 0.0 if want is got else math.inf
    difference = abs(want - got)
    return 0.0 if difference <= floor else difference / abs(want) if want else math.inf


# --- the functions ----------------------------------------------------------------------------------------------------


def _tensor(values: Mapping[str, Any], key: str, shape: tuple[int, ...], scale: float, dtype: torch.dtype) -> Tensor:
    drawn = np.float32(scale) * weight_rule.draw(key, shape, values["seed"])
    return torch.from_numpy(drawn).to(dtype)


def _config(values: Mapping[str, Any]) -> CrossKDConfig:
    classes, boxes = values["kd_cfg"]["loss_cls_kd"], values["kd_cfg"]["loss_reg_kd"]
    if (classes["type"], classes["class_reduction"]) != ("KnowledgeDistillationKLDivLoss", "sum"):
        raise UnknownSettingError(f"unknown loss_cls_kd {classes!r}")
    if boxes["type"] != "L1Loss":
        raise UnknownSettingError(f"unknown loss_reg_kd {boxes!r}")
    return CrossKDConfig(
        cls_weight=classes["loss_weight"], class_temperature=classes["T"], box_weight=boxes["loss_weight"]
    )


def _function(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    count, classes = values["n_rois"], values["num_classes"]
    width = 4 if values["reg_class_agnostic"] else 4 * classes
    given = {
        f"{whose}_{part}": _tensor(values, f"{whose}_{part}", (count, size), scale, dtype)
        for part, size, scale in (("cls", classes + 1, 2.0), ("reg", width, 0.5))
        for whose in ("reused", "teacher")
    }
    given["teacher_cls"][:, classes] += values["teacher_background_shift"]
    ours = {name: given[name].requires_grad_() for name in ("reused_cls", "reused_reg")}
    said = [
        RegionPredictions(given[f"{whose}_cls"], given[f"{whose}_reg"].view(count, width // 4, 4))
        for whose in ("reused", "teacher")
    ]
    regions = Regions([], torch.zeros(0), torch.zeros(0), values["num_pos"], values["num_neg"])
    losses = mimic_regions(said[0], said[1], regions, _config(values))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    worth, best = best_classes(said[1])
    gradients = {name: tensor.grad for name, tensor in ours.items()}
    return {
        "avg_factor": sum(max(1, count) for count in values["num_pos"] + values["num_neg"]),
        "input_summary": {name: summary(x) if count else None for name, x in given.items()},
        "loss_cls_kd": losses["crosskd_cls"].item(),
        "loss_reg_kd": losses["crosskd_box"].item(),
        "total": total.item(),
        "reg_weights": worth.tolist(),
        "reg_class": best.tolist(),
        "reg_weight_sum": worth.sum().item(),
        "grad_l2": {name: norm([gradient]) for name, gradient in gradients.items()},
        "grad_samples": {name: _samples(gradient) for name, gradient in gradients.items()} if count else None,
    }


def _mask(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The formula alone, which is CrossKD's quality focal loss: there is no detector with masks here."""
    if values["kd_cfg"]["loss_mask_kd"]["type"] != "KDQualityFocalLoss":
        raise UnknownSettingError(f"unknown loss_mask_kd {values['kd_cfg']['loss_mask_kd']!r}")
    settings, side = values["kd_cfg"]["loss_mask_kd"], values["mask_size"]
    shape = (values["n_pos"], values["num_classes"], side, side)
    ours, theirs = (_tensor(values, f"{whose}_mask", shape, 1.5, dtype) for whose in ("reused", "teacher"))
    distance = quality_focal(ours.requires_grad_(), theirs.sigmoid(), settings["beta"])
    loss = settings["loss_weight"] * distance.sum() / (values["n_rois"] + EPSILON)
    loss.backward()
    assert ours.grad is not None
    return {
        "input_summary": {"reused": summary(ours), "teacher": summary(theirs)},
        "loss_mask_kd": loss.item(),
        "grad_l2": norm([ours.grad]),
        "grad_samples": _samples(ours.grad),
    }


def _samples(tensor: Tensor) -> list[float]:
    flat = tensor.flatten()
    return [flat[j * STEP % len(flat)].item() for j in range(SAMPLES)]


# --- whole pairs ------------------------------------------------------------------------------------------------------


def their_name(name: str) -> str | None:
    """Our name as MMDetection's; None: the reference's cases have no proposals of their own."""
    if name.startswith("backbone."):
        return to_mmdet(name, "gfl")  # any detector's: their backbones are called the same
    for ours, (theirs, middle, new) in NAMES.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + (rest.replace(middle, new, 1) if middle else rest)
    return None


def model(values: Mapping[str, Any], whose: str, dtype: torch.dtype) -> Detector:
    """The student or the teacher, with the rule's weights."""
    config = ModelConfig.model_validate(
        {
            "detector": DETECTOR,
            "backbone": {
                "name": f"resnet{values[whose][1:]}", "init": "random", "frozen_stages": 1, "norm_eval": True
            },
            "neck": {"channels": values["fpn_channels"]},
            "regions": {
                "channels": values["fc_out_channels"], "aligned": True, "sampling_ratio": 0, "box_beta": 0.0
            },
        }
    )  # fmt: skip
    with Uninitialised():
        built = build_detector(config, values["num_classes"])
    seed = values["seed"] + (weight_rule.TEACHER_SEED_OFFSET if whose == "teacher" else 0)
    with torch.no_grad():
        for name, tensor in built.state_dict().items():
            if (key := their_name(name)) is None:
                tensor.zero_()
            elif (value := _value(key, tuple(tensor.shape), seed)) is not None:
                tensor.copy_(torch.as_tensor(value))
    return built.to(dtype)


def _value(key: str, shape: tuple[int, ...], seed: int) -> Any:
    f, n, last = np.float32, weight_rule.draw(key, shape, seed), key.rsplit(".", 1)[1]
    if ".fc_cls." in key or ".fc_reg." in key:
        gain = 2.0 if ".fc_cls." in key else 0.5
        return f(gain / np.sqrt(shape[1])) * n if last == "weight" else f(0.1) * n
    return f(np.sqrt(2.0 / shape[1])) * n if len(shape) == 2 else weight_rule.value(key, shape, seed)


def _pair(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    inputs = Inputs(values)
    images, targets = inputs.images(dtype), inputs.targets(dtype)
    student, teacher = model(values, "student", dtype), model(values, "teacher", dtype)
    proposals = [torch.tensor(boxes, dtype=dtype).reshape(-1, 4) for boxes in values["proposals"]]
    student.head.proposals = lambda *_: proposals
    feature = values["kd_cfg"].get("loss_feat_kd")
    pkd = PKDConfig(weight=feature["loss_weight"]) if feature else None
    distiller = build_distiller(student, teacher, DistillConfig(crosskd=_config(values), pkd=pkd)).train()
    weight_l2 = norm(x for name, x in student.state_dict().items() if their_name(name) and x.is_floating_point())
    losses = {LOSS_NAMES[name]: value for name, value in distiller(images, targets).items() if name in LOSS_NAMES}
    total = torch.stack([value.sum() for value in losses.values()]).sum()
    total.backward()
    parameters = {key: p for name, p in student.named_parameters() if (key := their_name(name)) is not None}
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    buffers = {key for name, _ in student.named_buffers() if (key := their_name(name)) is not None}
    shapes = {key: list(x.shape) for name, x in student.state_dict().items() if (key := their_name(name))}
    return {
        "image_summary": summary(images),
        "weight_l2": weight_l2,
        "total": total.item(),
        "grad_l2": {name: None if p.grad is None else norm([p.grad]) for name, p in parameters.items()},
        "grad_l2_all": norm(gradients),
        "state_dict": {name: shape for name, shape in shapes.items() if name not in buffers},
    } | _seen(student, teacher, images, targets, proposals, losses)


@torch.no_grad()
def _seen(
    student: Detector, teacher: Detector, images: Tensor, targets: Any, proposals: list[Tensor], losses: Losses
) -> dict[str, Any]:
    """Samples, maps and predictions."""
    ours, theirs = student.features(images), teacher.features(images)
    head = student.head
    regions = head.sample(proposals, targets)
    sampling = []
    for found, truth in zip(proposals, targets.boxes, strict=True):
        matches = head.sampler.match(torch.cat((truth, found)), truth)
        positive, negative = head.sampler.sample(matches)
        counts = {"num_pos": len(positive), "num_neg": len(negative)}
        sampling.append(
            counts
            | {"avg_factor": sum(max(1, count) for count in counts.values())}
            | {"pos_inds": positive.tolist(), "neg_inds": negative.tolist()}
            | {"pos_assigned_gt": matches[positive].tolist()}
        )
    said = {
        "stu": (head.predict(ours, regions.boxes), ours),
        "tea": (teacher.head.predict(theirs, regions.boxes), theirs),
        "reused": (cross(teacher.head, ours, regions), ours),
    }
    right = said["stu"][0].cls.argmax(dim=1) == regions.labels
    return {
        "sampling": sampling,
        "losses": {name: value.tolist() for name, value in losses.items()}
        | {"acc": 100 * right.double().mean().item()},
        "fpn": {"student": [summary(x) for x in ours], "teacher": [summary(x) for x in theirs]},
        "outputs": {
            whose: dict(
                zip(
                    ("cls_score", "bbox_pred", "bbox_feats"),
                    tens([found.cls, found.box.flatten(1), head.pool(maps, regions.boxes)]),
                    strict=True,
                )
            )
            for whose, (found, maps) in said.items()
        },
    }
