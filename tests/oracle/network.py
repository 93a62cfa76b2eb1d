"""Cases of whole networks, RTMDet's and YOLOX's: what is built of one, what comes out, and how near."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.dense.yolox import YOLOX
from crosskd.detectors.detector import Detector, build_detector
from crosskd.spec.config import ModelConfig
from crosskd.structures import Assignment, Held, Predictions, Targets
from tests.oracle import weight_rule_more
from tests.oracle.case import Inputs, Uninitialised, UnknownSettingError, postprocess
from tests.oracle.compare import MISSING, Comparison, Worst, leaves
from tests.oracle.compute import best, norm, summary

BACKBONES = {"rtmdet": "cspnext", "yolox": "cspdarknet"}  # the families that they are built on
STEP = 104729  # between the sampled entries of a tensor
SAMPLES = 8
# What describes a case. Every other field is a result of the reference, and is compared.
DESCRIPTION = {
    "name", "detector", "arch", "seed", "size", "num_classes", "empty_images", "use_l1", "exp_on_reg", "img_metas",
    "gt_bboxes", "gt_labels", "eval_batchstat.score_thr", "eval_batchstat.test_cfg",
    "eval_batchstat.per_class_nms_gives_the_same",
}  # fmt: skip
EXACT = {"shape", "count", "labels", "prior", "gt", "invalid_priors", "layers", "n_params"}
DOUBLE, FLOOR = 1e-8, 1e-10  # relative, or absolute
# Of float32, by the field or by the part: relative to the largest of the list that the number stands in.
SINGLE = {
    "losses": 3e-5, "total": 1e-5, "train": 3e-4, "eval_batchstat": 5e-4, "eval_rule": 5e-4, "predictions": 5e-4,
    "grad_l2": 5e-4, "grad_l2_all": 5e-4,
}  # fmt: skip
SINGLE_DEFAULT = 3e-4
GROUPED = ("train.grad_l2", "train.running_after", "train.towers")  # told as one, whatever layer it is


class NetworkCase:
    """The vectors' own fields, read once; `values` are what the reference computed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        allowed = {"rtmdet": ("exp_on_reg", "use_l1"), "yolox": ("use_l1", "exp_on_reg")}
        read, unread = allowed[values["detector"]]
        if not isinstance(values[read], bool) or values[unread] is not None:
            wrong = unread if isinstance(values[read], bool) else read
            raise UnknownSettingError(f"unknown {wrong} {values[wrong]!r}")
        self.values = values
        self.inputs = Inputs(values)

    def model(self, dtype: torch.dtype) -> Detector:
        values, detector = self.values, self.values["detector"]
        config = ModelConfig.model_validate(
            {
                "detector": detector,
                "backbone": {"name": f"{BACKBONES[detector]}_{values['arch']}", "init": "random"},
                "head": {"exp_on_reg": values["exp_on_reg"]} if detector == "rtmdet" else {},
            }
        )
        limits = postprocess(values["eval_batchstat"]["test_cfg"])  # may be none at all: above what may be set
        config = config.model_copy(update={"postprocess": limits})
        with Uninitialised():
            model = build_detector(config, values["num_classes"])
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                value = weight_rule_more.value(to_mmdet(name, config.detector), tuple(tensor.shape), values["seed"])
                if value is not None:
                    tensor.copy_(torch.as_tensor(value))
        if isinstance(model.head, YOLOX):
            model.head.use_l1 = values["use_l1"]
        return model.to(dtype)


def compute(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """All three parts of a case, each from the rule's weights and statistics, as Python numbers."""
    case = NetworkCase(values)
    images, targets = case.inputs.images(dtype), case.inputs.targets(dtype)
    model = case.model(dtype)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    computed: dict[str, Any] = {
        "image_summary": summary(images),
        "weight_l2": norm(tensor for tensor in model.state_dict().values() if tensor.is_floating_point()),
        "batch_norm": {
            "layers": len(norms),
            "momentum_eps": [list(pair) for pair in dict.fromkeys((m.momentum, m.eps) for m in norms)],
        },
        "eval_rule": _maps(model.eval(), images),
        "eval_batchstat": _with_batch_statistics(model, images, targets),
    }
    return computed | {"train": _train(case.model(dtype), images, targets)}


@torch.no_grad()
def _maps(model: Detector, images: Tensor) -> dict[str, Any]:
    features = model.features(images)
    return {"neck": tens(features)} | _raw(model.head(features))


def _raw(predictions: Predictions) -> dict[str, Any]:
    found = {"cls_score": tens(predictions.cls), "bbox_pred": tens(predictions.box)}
    return found if predictions.objectness is None else found | {"objectness": tens(predictions.objectness)}


@torch.no_grad()
def _with_batch_statistics(model: Detector, images: Tensor, targets: Targets) -> dict[str, Any]:
    kept = {module: module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    for module in kept:
        module.momentum = 1.0
    model.train().head(model.features(images))
    for module, momentum in kept.items():
        module.momentum = momentum
    found = model.eval().detect(images, targets.sizes)
    return (
        {"backbone": tens(model.backbone(images)[-3:])}
        | _maps(model, images)
        | {"predictions": [best(detections) for detections in found]}
    )


def _train(model: Detector, images: Tensor, targets: Targets) -> dict[str, Any]:
    """One forward: whatever ran a second time would move the running statistics again."""
    head = model.train().head
    features = model.features(images)
    first = head.front(features, 1)
    second = Held(
        [head.cls_tower.back(x, 1, level) for level, x in enumerate(first.cls)],
        [head.box_tower.back(x, 1, level) for level, x in enumerate(first.box)],
    )
    predictions = head.back(second, 2)
    assignment = head.assign(predictions, targets)
    losses = head.loss(predictions, assignment)
    torch.stack([values.sum() for values in losses.values()]).sum().backward()
    detector = model.config.detector
    gradients = {to_mmdet(name, detector): parameter.grad for name, parameter in model.named_parameters()}
    return (
        {"neck": tens(features), "towers": _towers(first, second)}
        | _raw(predictions)
        | {"losses": {name: _of_levels(values, detector) for name, values in losses.items()}}
        | {"total": sum(values.sum().item() for values in losses.values())}
        | _assignment(head, assignment, targets)
        | {
            "grad_l2": {name: None if grad is None else norm([grad]) for name, grad in gradients.items()},
            "grad_l2_all": norm(grad for grad in gradients.values() if grad is not None),
            "n_params": len(gradients),
            "running_after": {to_mmdet(name, detector): summary(x) for name, x in model.named_buffers()},
        }
    )


def _of_levels(values: Tensor, detector: str) -> Any:
    """A loss of each level, or of all together as YOLOX's are."""
    return values.tolist() if detector == "rtmdet" else values.sum().item()


def _towers(*convs: Held) -> dict[str, Any]:
    return {
        f"{branch}.level{level}.conv{number}": [*summary(x), x.min().item()]
        for number, held in enumerate(convs, start=1)
        for branch, maps in (("cls", held.cls), ("reg", held.box))
        for level, x in enumerate(maps)
    }


def _assignment(head: DenseHead, assignment: Assignment, targets: Targets) -> dict[str, Any]:
    assert assignment.quality is not None
    assigned = []
    for image, boxes in enumerate(targets.boxes):
        prior = (assignment.labels[image] < head.num_classes).nonzero()[:, 0]
        same = (assignment.boxes[image, prior][:, None] == boxes).all(dim=-1)  # [P, G]
        assigned.append(
            {
                "prior": prior.tolist(),
                "gt": same.int().argmax(dim=1).tolist() if len(prior) else [],
                "iou": assignment.quality[image, prior].tolist(),
                "invalid_priors": int((assignment.label_weights[image] == 0).sum()),
            }
        )
    divisor = head.normaliser(assignment).item()
    return {
        "assigned": assigned,
        "n_pos": assignment.positives.tolist(),
        "n_priors_per_level": assignment.level_sizes,
        "n_pos_per_level": assignment.positives_per_level(head.num_classes),
        "normalisers": dict.fromkeys(("cls_avg_factor", "bbox_avg_factor", "num_total_samples"), divisor),
    }


def tens(maps: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Of each map its shape, its summary, and single entries in C order."""
    found = []
    for x in maps:
        flat = x.detach().contiguous().flatten()
        samples = [flat[j * STEP % len(flat)].item() for j in range(SAMPLES)]
        found.append({"shape": list(x.shape), "summary": summary(x), "samples": samples})
    return found


def compare(expected: Mapping[str, Any], computed: Mapping[str, Any], *, single: bool) -> Comparison:
    """Every number of every result field of `expected` against the one at the same place in `computed`."""
    result = Comparison()
    for name, value in expected.items():
        for path, want, got in leaves(name, value, computed.get(name, MISSING)):
            quantity = ".".join(part for part in path.split(".") if not part.isdigit())
            if any(quantity == told or quantity.startswith(f"{told}.") for told in DESCRIPTION):
                continue
            if got is MISSING:
                result.uncompared.append(path)
                continue
            quantity = next((part for part in GROUPED if quantity.startswith(f"{part}.")), quantity)
            worst = result.quantities.setdefault(quantity, Worst(_tolerance(quantity, single)))
            worst.see(_error(expected, path, want, got, single), path)
    return result


def _tolerance(quantity: str, single: bool) -> float:
    parts = quantity.split(".")
    if parts[-1] in EXACT or parts[-1].startswith("n_p"):
        return 0.0
    if not single:
        return DOUBLE
    return next((SINGLE[part] for part in reversed(parts) if part in SINGLE), SINGLE_DEFAULT)


def _error(expected: Mapping[str, Any], path: str, want: Any, got: Any, single: bool) -> float:
    """Relative to the expected number; of float32 to the largest of its list. Infinite between a number and none."""
    if want is None or got is None:
        return 0.0 if want is None and got is None else math.inf
    difference = abs(want - got)
    if difference <= FLOOR:
        return 0.0
    size = abs(want)
    if single:
        numbers = _parent(expected, path)
        size = max(map(abs, numbers)) if isinstance(numbers, list) else size
    return difference / size if size else math.inf


def _parent(expected: Mapping[str, Any], path: str) -> Any:
    """The list of numbers that a number stands in; of a box the list of all boxes' numbers."""
    place: Any = expected
    above: Any = None
    for key in _keys(expected, path)[:-1]:
        above, place = place, place[key]
    if isinstance(above, list) and all(isinstance(row, list) for row in above):
        return [number for row in above for number in row]
    return place


def _keys(expected: Mapping[str, Any], path: str) -> list[Any]:
    """The keys that lead to a number; a name may hold dots itself."""
    keys: list[Any] = []
    place: Any = expected
    rest = path
    while rest:
        if isinstance(place, list):
            head, _, rest = rest.partition(".")
            key: Any = int(head)
        else:
            key = max((name for name in place if rest == name or rest.startswith(f"{name}.")), key=len)
            rest = rest[len(key) + 1 :]
        keys.append(key)
        place = place[key]
    return keys
