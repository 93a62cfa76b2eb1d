"""Whether a student can learn from a teacher by the terms of a `distill` section. Imports no torch.

The service asks before a worker is taken, the core before it builds: both get the same answer from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.distill import CrossKDConfig, DirectConfig, DistillConfig, MimicConfig
from crosskd.spec.model import ModelConfig


@dataclass(frozen=True)
class Misfit:
    """Why a pair cannot work: at which field of `TrainConfig` (a JSON pointer), and what to do."""

    where: str
    what: str
    remedy: str


def resolve_pair(
    distill: DistillConfig, student: ModelConfig, teacher: ModelConfig
) -> tuple[DistillConfig, list[Misfit]]:
    """`distill` with every knob that depends on the pair filled in, and all that keeps the pair apart.

    What is published for the teacher's detector is the default: CrossKD happens in the teacher's head.
    """
    misfits = _pyramids(student, teacher)
    published = registry.DETECTORS[teacher.detector].published
    if distill.crosskd is not None:
        crosskd, found = _resolve_crosskd(distill.crosskd, student, teacher)
        distill = distill.model_copy(update={"crosskd": crosskd})
        misfits += found
    if distill.pkd is not None:
        if distill.pkd.weight is None:
            distill = distill.model_copy(
                update={"pkd": distill.pkd.model_copy(update={"weight": published.pkd_weight})}
            )
        misfits += _same_neck("PKD compares feature maps channel by channel", "pkd", student, teacher)
    if distill.direct is not None:
        direct, found = _resolve_direct(distill.direct, student, teacher)
        distill = distill.model_copy(update={"direct": direct})
        misfits += found
    if distill.ld is not None:
        misfits += _fit_ld(student, teacher)
    # FitNet, FGD, MGD and CWD lead from one width of the pyramid to the other themselves.
    return distill, misfits


def require_pair(distill: DistillConfig, student: ModelConfig, teacher: ModelConfig) -> DistillConfig:
    """The resolved section; raises `ConfigError` for the first misfit."""
    resolved, misfits = resolve_pair(distill, student, teacher)
    if misfits:
        raise ConfigError(misfits[0].what, where=misfits[0].where, remedy=misfits[0].remedy)
    return resolved


def same_anchors(student: ModelConfig, teacher: ModelConfig) -> bool:
    """Whether every anchor of the one is the same anchor of the other and is assigned alike."""
    return _anchor_facts(student) == _anchor_facts(teacher)


def same_code(student: ModelConfig, teacher: ModelConfig) -> bool:
    """Whether, besides, both predict the same things of an anchor in the same way."""
    return _code_facts(student) == _code_facts(teacher)


def _anchor_facts(model: ModelConfig) -> dict[str, object]:
    """By their place in the section."""
    head = model.head
    return {
        "detector": model.detector,
        "strides": model.strides,
        "anchor_scale": model.anchor_scale,
        "head/spread_cells": head.spread_cells,
        "head/octaves": head.octaves,
        "head/ratios": head.ratios,
        "head/whole_pixel_anchors": head.whole_pixel_anchors,
        "head/center_sampling": head.center_sampling,
        "head/center_radius": head.center_radius,
        "head/point_offset": head.point_offset,
    }


def _code_facts(model: ModelConfig) -> dict[str, object]:
    head = model.head
    return {**_anchor_facts(model), "head/reg_max": head.reg_max, "head/norm_on_bbox": head.norm_on_bbox}


def _pyramids(student: ModelConfig, teacher: ModelConfig) -> list[Misfit]:
    if student.strides == teacher.strides:
        return []
    return [
        Misfit(
            "/student/strides",
            f"student and teacher differ in strides: {student.strides} and {teacher.strides}; every method compares "
            "the maps of one level with those of the same level",
            f"Use {teacher.strides}, or another teacher.",
        )
    ]


def _resolve_crosskd(
    config: CrossKDConfig, student: ModelConfig, teacher: ModelConfig
) -> tuple[CrossKDConfig, list[Misfit]]:
    entry = registry.DETECTORS[teacher.detector]
    published, misfits = entry.published, []
    cut = config.cut if config.cut is not None else min(published.cut, student.head.depth, teacher.head.depth)
    if cut > student.head.depth:
        misfits.append(_beyond("cut", cut, "student", student.head.depth))
    teacher_cut = config.teacher_cut
    if teacher_cut is None:
        teacher_cut = min(cut, teacher.head.depth) if config.cut is None else cut
    if teacher_cut > teacher.head.depth and (config.teacher_cut is not None or not misfits):
        name = "cut" if config.teacher_cut is None else "teacher_cut"
        misfits.append(_beyond(name, teacher_cut, "teacher", teacher.head.depth))
    if (cut == 0) != (teacher_cut == 0):
        misfits.append(
            Misfit(
                "/distill/crosskd/teacher_cut",
                f"a cut of {cut} in the student's head and of {teacher_cut} in the teacher's do not go together: "
                "pyramid maps have no activation, and maps behind a convolution do",
                "Cut both heads at 0, or both behind a convolution.",
            )
        )
    filled, found = _resolve_mimicry("crosskd", config, teacher)
    return config.model_copy(update={"cut": cut, "teacher_cut": teacher_cut, **filled}), misfits + found


def _resolve_mimicry(term: str, config: MimicConfig, teacher: ModelConfig) -> tuple[dict[str, object], list[Misfit]]:
    """What is imitated of a teacher, and with which weights: the knobs that depend on its detector."""
    entry = registry.DETECTORS[teacher.detector]
    published, misfits = entry.published, []
    box = config.box or published.box
    if box == "kl" and teacher.detector != "gfl":
        misfits.append(
            Misfit(
                f"/distill/{term}/box",
                f"kl compares distributions over bins, which a {teacher.detector} teacher does not predict",
                "Use giou or iou.",
            )
        )
    if config.centerness_weight and not entry.centerness:
        misfits.append(
            Misfit(
                f"/distill/{term}/centerness_weight",
                f"a {teacher.detector} teacher predicts no centerness",
                "Leave it out, or use 0.",
            )
        )
    filled: dict[str, object] = {
        "box": box,
        "cls_weight": published.cls_weight if config.cls_weight is None else config.cls_weight,
        "box_weight": published.box_weight if config.box_weight is None else config.box_weight,
        "centerness_weight": published.centerness_weight
        if config.centerness_weight is None
        else config.centerness_weight,
    }
    return filled, misfits


def _resolve_direct(
    config: DirectConfig, student: ModelConfig, teacher: ModelConfig
) -> tuple[DirectConfig, list[Misfit]]:
    filled, misfits = _resolve_mimicry("direct", config, teacher)
    apart = _same_predictions("direct", "Direct mimicking", student, teacher)
    return config.model_copy(update=filled), apart + misfits


def _fit_ld(student: ModelConfig, teacher: ModelConfig) -> list[Misfit]:
    misfits = []
    for where, whose, model in (("/student/detector", "student", student), ("/distill/ld", "teacher", teacher)):
        if model.detector != "gfl":
            misfits.append(
                Misfit(
                    where,
                    f"LD compares distributions over bins, which a {model.detector} {whose} does not predict",
                    f"Use a gfl {whose}, or leave `distill.ld` out.",
                )
            )
    return misfits or _same_predictions("ld", "LD", student, teacher)


def _same_predictions(term: str, method: str, student: ModelConfig, teacher: ModelConfig) -> list[Misfit]:
    """The first knob by which the two predict different things of an anchor, or have other anchors."""
    ours, theirs = _code_facts(student), _code_facts(teacher)
    knobs = [knob for knob in ours if knob != "strides" and ours[knob] != theirs[knob]]  # strides: said for all terms
    return [
        Misfit(
            f"/student/{knob}",
            f"{method} compares the predictions of both heads anchor by anchor, but they differ in "
            f"{knob.replace('/', '.')}: {ours[knob]} and {theirs[knob]}",
            f"Use {theirs[knob]}; or `distill.crosskd`, which happens in the teacher's head, in place of "
            f"`distill.{term}`.",
        )
        for knob in knobs[:1]
    ]


def _beyond(knob: str, cut: int, whose: str, depth: int) -> Misfit:
    return Misfit(
        f"/distill/crosskd/{knob}",
        f"the cut {cut} lies behind the {whose}'s head, which has {depth} convolutions",
        f"Use a cut of 0 to {depth}.",
    )


def _same_neck(why: str, term: str, student: ModelConfig, teacher: ModelConfig) -> list[Misfit]:
    ours, theirs = student.neck.channels, teacher.neck.channels
    if ours == theirs:
        return []
    return [
        Misfit(
            "/student/neck/channels",
            f"{why}: the student's have {ours} channels, the teacher's {theirs}",
            f"Use {theirs}, or leave `distill.{term}` out.",
        )
    ]
