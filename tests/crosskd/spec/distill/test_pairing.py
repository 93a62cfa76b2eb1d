"""Which student can learn from which teacher, told without torch."""

from __future__ import annotations

from typing import Any

import pytest

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.alike import same_anchors, same_code
from crosskd.spec.config import CrossKDConfig, DistillConfig
from crosskd.spec.distill.needs import (
    AnchorPredictions,
    DecoderQueries,
    HeadCut,
    Need,
    Pyramid,
    SampledRegions,
    StudentAnchors,
)
from crosskd.spec.distill.pairing import require_pair, resolve_pair
from tests.support import small


def crosskd(**knobs: Any) -> DistillConfig:
    return DistillConfig(crosskd=CrossKDConfig(**knobs))


@pytest.mark.parametrize("detector", sorted(registry.DENSE))
def test_what_is_published_for_the_teachers_detector_is_the_default(detector: str) -> None:
    published = registry.DETECTORS[detector].published
    student, teacher = small.config(depth=4), small.config(detector=detector, depth=4)
    resolved, misfits = resolve_pair(DistillConfig(crosskd={}, pkd={}), student, teacher)
    assert misfits == []
    assert resolved.crosskd is not None
    assert resolved.pkd is not None
    assert (resolved.crosskd.cut, resolved.crosskd.teacher_cut) == (published.cut, published.cut)
    assert (resolved.crosskd.box, resolved.crosskd.box_weight) == (published.box, published.box_weight)
    assert resolved.crosskd.cls_weight == published.cls_weight
    assert resolved.crosskd.centerness_weight == published.centerness_weight
    assert (resolved.pkd.weight, resolved.pkd.levels) == (published.pkd_weight, 5)


ANCHORS, POINTS = (1e-3, 5e-4, 5e-4, 5e-6, 0.5), (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8)


@pytest.mark.parametrize(
    ("detector", "fgd", "cwd"),
    [
        ("retinanet", ANCHORS, (5.0, 1.0, 4)),
        ("gfl", ANCHORS, (10.0, 1.0, 5)),
        ("fcos", POINTS, (5.0, 1.0, 4)),
        ("atss", ANCHORS, (5.0, 1.0, 4)),
    ],
)
def test_other_methods_take_what_their_configurations_have_for_the_teachers_detector(
    detector: str, fgd: tuple[float, ...], cwd: tuple[float, ...]
) -> None:
    student, teacher = small.config(), small.config(detector=detector)
    sections = require_pair(DistillConfig(fgd={}, cwd={}, pkd={}), student, teacher).terms()
    assert list(sections["fgd"].model_dump(exclude={"mask_scale"}).values()) == list(fgd)
    assert list(sections["cwd"].model_dump().values()) == list(cwd)
    # PKD without CrossKD, as in MMRazor; beside CrossKD see above.
    assert list(sections["pkd"].model_dump().values()) == [10.0, 4]
    given = DistillConfig(fgd={"temperature": 3}, cwd={"levels": 2}, pkd={"weight": 1, "levels": 3})
    sections = require_pair(given, student, teacher).terms()
    assert [sections["fgd"].temperature, sections["cwd"].levels] == [3, 2]  # type: ignore[attr-defined]
    assert list(sections["pkd"].model_dump().values()) == [1.0, 3]


def test_what_is_given_stays() -> None:
    knobs = {"cut": 1, "teacher_cut": 2, "cls_weight": 0.5, "box_weight": 0.25, "centerness_weight": 0.0, "box": "iou"}
    resolved, _ = resolve_pair(crosskd(**knobs), small.config(), small.config())
    assert resolved.crosskd is not None
    assert resolved.crosskd.model_dump(include=set(knobs)) == knobs


def test_settling_twice_changes_nothing() -> None:
    once = require_pair(DistillConfig(crosskd={}, pkd={}), small.config(), small.config(detector="atss"))
    assert require_pair(once, small.config(), small.config(detector="atss")) == once


@pytest.mark.parametrize(
    ("student", "teacher", "cuts"),
    [
        ({"depth": 2}, {"depth": 4}, (2, 2)),
        ({"depth": 4}, {"depth": 2}, (2, 2)),
        ({"depth": 4}, {"depth": 4, "detector": "fcos"}, (2, 2)),
        ({"depth": 0}, {"depth": 4}, (0, 0)),
    ],
)
def test_the_cut_reaches_as_far_as_both_heads_do(
    student: dict[str, Any], teacher: dict[str, Any], cuts: tuple[int, int]
) -> None:
    resolved = require_pair(crosskd(), small.config(**student), small.config(**teacher))
    assert resolved.crosskd is not None
    assert (resolved.crosskd.cut, resolved.crosskd.teacher_cut) == cuts


THREE_MAPS = {"strides": [8, 16, 32]}


def test_of_a_short_pyramid_all_maps_are_compared() -> None:
    resolved = require_pair(DistillConfig(pkd={}, cwd={}), small.config(**THREE_MAPS), small.config(**THREE_MAPS))
    assert [section.levels for section in (resolved.pkd, resolved.cwd) if section is not None] == [3, 3]


# Pairs that cannot meet a need, by its kind: student, teacher, section, and where that is told.
LACKING: dict[type[Need], list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]]] = {
    Pyramid: [
        ({"strides": [8, 16, 32]}, {}, {"fitnet": {}}, "/student/strides"),
        ({"channels": 8}, {}, {"pkd": {}}, "/student/neck/channels"),
        (THREE_MAPS, THREE_MAPS, {"pkd": {"levels": 4}}, "/distill/pkd/levels"),
        (THREE_MAPS, THREE_MAPS, {"cwd": {"levels": 4}}, "/distill/cwd/levels"),
    ],
    AnchorPredictions: [
        ({"strides": [8, 16, 32]}, {}, {"direct": {}}, "/student/strides"),
        ({}, {"reg_max": 4}, {"direct": {}}, "/student/head/reg_max"),
        ({"anchor_scale": 4.0}, {}, {"ld": {}}, "/student/anchor_scale"),
        ({"detector": "atss"}, {}, {"ld": {}}, "/student/detector"),
        ({}, {"detector": "atss"}, {"ld": {}}, "/distill/ld"),
        ({}, {"detector": "atss"}, {"crosskd": {"box": "kl"}}, "/distill/crosskd/box"),
        ({}, {"detector": "retinanet"}, {"crosskd": {"centerness_weight": 1.0}}, "/distill/crosskd/centerness_weight"),
    ],
    StudentAnchors: [({"detector": "fcos"}, {}, {"fgfi": {}}, "/student/detector")],
    HeadCut: [
        ({"strides": [8, 16, 32]}, {}, {"crosskd": {}}, "/student/strides"),
        ({}, {}, {"crosskd": {"cut": 4}}, "/distill/crosskd/cut"),
        ({"depth": 1}, {}, {"crosskd": {"cut": 2}}, "/distill/crosskd/cut"),
        ({}, {"depth": 1}, {"crosskd": {"cut": 2}}, "/distill/crosskd/cut"),
        ({}, {"depth": 1}, {"crosskd": {"cut": 2, "teacher_cut": 2}}, "/distill/crosskd/teacher_cut"),
        ({}, {}, {"crosskd": {"cut": 2, "teacher_cut": 0}}, "/distill/crosskd/teacher_cut"),
    ],
}


def test_every_kind_of_need_is_here() -> None:
    # For the last two see distill/test_crosskd_regions.py and distill/queries/test_crosskd.py.
    assert {*LACKING, SampledRegions, DecoderQueries} == set(Need.__subclasses__())


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "section", "where"),
    [(kind, *row) for kind, rows in LACKING.items() for row in rows],
)
def test_a_pair_that_lacks_a_need_is_refused_and_told_where(
    kind: type[Need], student: dict[str, Any], teacher: dict[str, Any], section: dict[str, Any], where: str
) -> None:
    ours, theirs, distill = small.config(**student), small.config(**teacher), DistillConfig.model_validate(section)
    ((term, knobs),) = distill.terms().items()
    (need,) = (need for need in knobs.needs(ours, theirs) if isinstance(need, kind))
    (misfit,) = need.incompatibilities(term, ours, theirs)
    assert misfit.where == where
    assert misfit.remedy
    assert resolve_pair(distill, ours, theirs)[1] == [misfit]
    with pytest.raises(ConfigError) as caught:
        require_pair(distill, ours, theirs)
    assert (caught.value.where, caught.value.message) == (where, misfit.what)


BRIDGED = ("crosskd", "fitnet", "fgd", "mgd", "cwd", "skd", "imitation", "fgfi", "defeat")


def test_a_term_without_a_need_of_a_kind_accepts_what_another_refuses() -> None:
    ours, theirs = small.config(detector="atss", channels=8, depth=1), small.config(reg_max=4)
    bridged: dict[str, Any] = {name: {} for name in BRIDGED}
    assert resolve_pair(DistillConfig.model_validate(bridged), ours, theirs)[1] == []
    for name in registry.TERMS.keys() - bridged.keys():
        assert resolve_pair(DistillConfig.model_validate({name: {}}), ours, theirs)[1] != []


def test_every_misfit_is_told_at_once_and_once() -> None:
    _, misfits = resolve_pair(
        crosskd(cut=4, box="kl"), small.config(strides=[8, 16, 32]), small.config(detector="fcos")
    )
    where = [misfit.where for misfit in misfits]
    assert where == ["/student/strides", "/distill/crosskd/cut", "/distill/crosskd/box"]


def test_anchors_and_codes_are_compared_as_they_count() -> None:
    gfl = small.config()
    assert same_code(gfl, small.config(backbone={"width": 16}))
    assert same_anchors(gfl, small.config(reg_max=16))
    assert not same_code(gfl, small.config(reg_max=16))
    assert not same_anchors(gfl, small.config(anchor_scale=4.0))
    assert not same_anchors(gfl, small.config(detector="atss"))
    points = small.config(detector="fcos")
    assert not same_anchors(points, small.config(detector="fcos", head={"center_sampling": True}))
    assert not same_code(points, small.config(detector="fcos", head={"norm_on_bbox": True}))
