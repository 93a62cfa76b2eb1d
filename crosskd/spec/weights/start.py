"""What of a detector's weights another one can begin with: told by configurations and shapes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crosskd.spec.alike import layer_facts, same_anchors, same_code
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.backbones.vit import VitConfig
from crosskd.spec.detr.names import is_class_tensor
from crosskd.spec.model import ModelConfig

Shape = tuple[int, ...]

PARTS = ("backbone", "neck", "head")
CLASS_LAYER = "head.cls."  # begins the names; the last part of each is `weight` or `bias`
BOX_LAYERS = ("head.box.", "head.centerness.", "head.objectness.", "head.scales.", "head.bins")
COUNTER = "num_batches_tracked"  # no weight: some files have it, others leave it out
SILENT = ("heads", "cross_heads", "reg_scale", "box_refine")  # of DETRs: what no tensor's shape tells
LISTED = 10  # names in a text


@dataclass(frozen=True)
class Start:
    """What a student begins with. Names are ours; of classes, the student's place -> the file's."""

    taken: list[str]
    new: list[str]  # the student has it, and it begins as it would without weights
    left: list[str]  # the file has it, and the student does not take it
    rows: dict[int, int]
    classes: dict[str, list[str]]  # "kept", "new", "left" -> names
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # part -> taken, of how many
    differences: list[str] = field(default_factory=list)  # knobs for which layers of the head begin anew

    def text(self) -> str:
        """In a sentence."""
        counts = ", ".join(f"{part} {taken} of {count} tensors" for part, (taken, count) in self.counts.items())
        differences = f" (what differs: {', '.join(self.differences)})" if self.differences else ""
        said = [f"{len(names)} {kind}{_listed(names)}" for kind, names in self.classes.items()]
        left = f"{len(self.left)} tensors of the file are left out"
        return f"{counts}{differences}; {left}; classes by name: {', '.join(said)}"

    def manifest(self) -> dict[str, Any]:
        parts = {part: list(counts) for part, counts in self.counts.items()}
        told = {"taken": parts, "new_tensors": self.new, "left_out": self.left, "classes": self.classes}
        return {**told, "differences": self.differences}


def is_class_layer(model: ModelConfig, name: str) -> bool:
    """Whether the tensor `name` has rows of each class: in two stages the boxes' have, too."""
    if model.family == "detr":
        return is_class_tensor(name)
    return name.startswith((CLASS_LAYER, "head.box.") if model.two_stage else (CLASS_LAYER,))


def misfits(student: ModelConfig, found: ModelConfig) -> list[tuple[str, str, str]]:
    """Why nothing of the detector `found` is of use to `student`: a pointer below it, what is wrong, what to do."""
    ours, theirs = student.backbone, found.backbone
    faults = []
    for knob in ("name", "width", "style", *_vit_knobs(ours, theirs)):
        has, wanted = (_knob(backbone, knob) for backbone in (ours, theirs))
        if has != wanted:
            what = f"the weights have a backbone whose {knob} is {wanted}, and the student's is {has}"
            faults.append((f"/backbone/{knob.replace('.', '/')}", what, f"Set `student.backbone.{knob}` to {wanted}."))
    for knob, has, wanted in _silent_knobs(student, found):
        what = f"the weights are of a {found.detector} whose {knob} is {wanted}, and the student's is {has}"
        faults.append((f"/detr/{knob}", what, f"Set `student.detr.{knob}` to {str(wanted).lower()}."))
    for knob in ("mean", "std", "order"):
        has, wanted = getattr(student.pixels, knob), getattr(found.pixels, knob)
        if has != wanted:
            value = wanted if isinstance(wanted, str) else list(wanted)
            what = f"the weights were trained on other pixels: {knob} {value}"
            faults.append((f"/pixels/{knob}", what, f"Set `student.pixels.{knob}` to {value}."))
    return faults


def _vit_knobs(ours: BackboneConfig, theirs: BackboneConfig) -> list[str]:
    """Of two vision transformers."""
    return [f"vit.{knob}" for knob in VitConfig.model_fields] if ours.vit and theirs.vit else []


def _silent_knobs(student: ModelConfig, found: ModelConfig) -> list[tuple[str, Any, Any]]:
    """In which two DETRs of one type and width differ although their tensors fit, and would compute something else."""
    ours, theirs = student.detr, found.detr
    if student.detector != found.detector or ours is None or theirs is None or ours.width != theirs.width:
        return []
    pairs = [(knob, _knob(ours, knob), _knob(theirs, knob)) for knob in SILENT]
    has, wanted = (section.level_points or [section.points] * section.levels for section in (ours, theirs))
    if sum(has) == sum(wanted):  # else the tensors differ, and those begin anew
        pairs.append(("level_points", has, wanted))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _knob(section: Any, path: str) -> Any:
    for name in path.split("."):
        section = getattr(section, name)
    return section


def plan_start(
    student: ModelConfig,
    classes: Sequence[str],
    wanted: Mapping[str, Shape],
    found: ModelConfig,
    named: Sequence[str] | None,
    given: Mapping[str, Shape],
) -> Start:
    """What of the tensors `given`, of a detector `found` of the classes `named`, a `student` of `classes` takes.

    The backbone and the neck wherever they fit by name and shape. Of the head, only where both are the same detector:
    the towers likewise; the box layers where both predict boxes in the same code; of the class layer the rows of the
    classes that both name, where the anchors are the same. Without names (None) the class layer begins anew.
    """
    alike = student.detector == found.detector
    rows = _rows(classes, named) if alike and same_anchors(student, found) else {}
    layer = [name for name in wanted if is_class_layer(student, name)]
    if any(name not in given or given[name][1:] != wanted[name][1:] for name in layer):
        rows = {}

    def fits(name: str) -> bool:
        if is_class_layer(student, name):
            return bool(rows)
        if given.get(name) != wanted[name] or (name.startswith("head.") and not alike):
            return False
        return not name.startswith(BOX_LAYERS) or same_code(student, found)

    taken = [name for name in wanted if fits(name)]
    kept = [classes[place] for place in rows]
    return Start(
        taken=taken,
        new=[name for name in _weights(wanted) if name not in set(taken)],
        left=[name for name in _weights(given) if name not in set(taken)],
        rows=rows,
        classes={
            "kept": kept,
            "new": [name for name in classes if name not in set(kept)],
            "left": [name for name in named or [] if name not in set(kept)],
        },
        differences=_differences(student, found),
        counts={part: (_count(part, taken), _count(part, wanted)) for part in PARTS if _count(part, wanted)},
    )


def image_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Which of a training's settings of images, `ours`, are others than `theirs`, on which the weights were trained.

    What is None or missing is not known, and no difference.
    """
    known = [name for name in theirs if ours.get(name) is not None and theirs[name] is not None]
    return [
        f"augment.{name} is {str(ours[name]).lower()} here, {str(theirs[name]).lower()} there"
        for name in known
        if ours[name] != theirs[name]
    ]


def differences_text(name: str, differences: Sequence[str]) -> str:
    """Such differences in a sentence about `name`, the detector of `student.init` or a teacher."""
    return f"images are read otherwise than those that {name} was trained on: {'; '.join(differences)}"


def _differences(student: ModelConfig, found: ModelConfig) -> list[str]:
    ours = {**layer_facts(student), "backbone/norm_eps": student.backbone.norm_eps}
    theirs = {**layer_facts(found), "backbone/norm_eps": found.backbone.norm_eps}
    return [f"{knob} is {theirs[knob]} there, {ours[knob]} here" for knob in ours if ours[knob] != theirs[knob]]


def _rows(classes: Sequence[str], named: Sequence[str] | None) -> dict[int, int]:
    places = {name: place for place, name in enumerate(named or [])}
    return {place: places[name] for place, name in enumerate(classes) if name in places}


def _count(part: str, names: Iterable[str]) -> int:
    return sum(name.startswith(f"{part}.") for name in _weights(names))


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(COUNTER)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f" ({', '.join(names[:LISTED])}{more})" if names else ""
