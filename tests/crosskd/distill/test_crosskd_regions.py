"""CrossKD of Faster R-CNN: the teacher's region head on the student's pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.detectors.two_stage.view import HOW
from crosskd.distill.crosskd_regions import RegionCrossKD
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.engine.parallel import data_parallel
from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.spec.distill.needs import Pyramid, SampledRegions, StudentAnchors
from crosskd.spec.distill.pairing import resolve_pair
from crosskd.structures import Targets
from tests.support import small
from tests.support.ranks import on_ranks
from tests.support.steps import Witness


def pair(distill: dict[str, Any], student: Any = None, teacher: Any = None) -> Distiller:
    models = small.two_stage(0, **(student or {})), small.two_stage(1, **(teacher or {}))
    return build_distiller(*models, DistillConfig.model_validate(distill)).train()


def test_the_gradient_goes_through_the_teachers_head_to_the_students_pyramid_alone() -> None:
    model = pair({"crosskd": {}})
    assert isinstance(model.terms["crosskd"], RegionCrossKD)
    assert (model.terms["crosskd"].config.cls_weight, model.terms["crosskd"].config.class_temperature) == (0.5, 3.0)
    losses = {name: x for name, x in model(*small.batch()).items() if name.startswith("crosskd")}
    assert losses.keys() == {"crosskd_cls", "crosskd_box"}
    small.total(losses).backward()
    taught = {name.split(".")[0] for name, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"backbone", "neck"}  # neither proposals nor the student's own region head
    assert all(p.grad is None for p in model.teacher.parameters())


def test_both_are_asked_about_the_students_regions_on_their_own_maps() -> None:
    model = pair({"crosskd": {}})
    witness = Witness(Pyramid(), SampledRegions())
    model.terms["witness"] = witness
    images, targets = small.batch()
    losses = model(images, targets)
    (step,) = witness.steps
    assert vars(step.student).keys() == {"head", "features", "regions"}
    assert vars(step.teacher).keys() == {"head", "features"}
    boxes = step.student.regions.boxes
    with torch.no_grad():
        z, v = (model.teacher.head.predict(view.features, boxes) for view in (step.student, step.teacher))
    p, q = (x.cls.div(3).softmax(-1) for x in (z, v))
    count = sum(step.student.regions.positives + step.student.regions.negatives)  # no image lacks one of the two
    expected = 0.5 * 9 * (q * (q.log() - p.log())).sum() / count
    torch.testing.assert_close(losses["crosskd_cls"], expected, rtol=1e-4, atol=1e-6)
    worth = v.cls.softmax(-1)[:, :-1].amax(1)
    best = v.cls[:, :-1].argmax(1)
    rows = torch.arange(len(best))
    distance = (z.box[rows, best] - v.box[rows, best]).abs().sum(1)
    torch.testing.assert_close(losses["crosskd_box"], (worth * distance).sum() / (4 * worth.sum()), rtol=1e-4, atol=0)


def test_a_teacher_of_another_version_and_width_is_reached_by_adapters_that_learn() -> None:
    model = pair({"crosskd": {}, "fitnet": {}}, teacher={"channels": 24, "regions": {"version": "v2"}})
    losses = model(*small.batch())
    small.total({name: x for name, x in losses.items() if name.startswith("crosskd")}).backward()
    adapters = dict(model.terms["crosskd"].named_parameters())
    assert {name: tuple(p.shape) for name, p in adapters.items() if name.endswith("weight")} == {
        f"align.{level}.weight": (24, 16, 1, 1) for level in range(4)
    }
    assert all(p.grad is not None for p in adapters.values())


def test_methods_on_maps_work_beside_it_and_a_half_precision_step_is_finite() -> None:
    imitation: dict[str, Any] = {"imitation": {"region": "inside_boxes"}, "fgfi": {}, "defeat": {}}
    model = pair({"crosskd": {}, "pkd": {}, "fitnet": {}, "fgd": {}, "mgd": {}, "cwd": {}, "skd": {}, **imitation})
    assert model.terms["pkd"].config.weight == 6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(*small.batch())
    assert {
        "pkd",
        "fitnet",
        "mgd",
        "cwd",
        "skd",
        "imitation",
        "fgfi",
        "defeat_foreground",
        "loss_rpn_cls",
    } <= losses.keys()
    assert all(x.isfinite().all() and x.dtype == torch.float32 for x in losses.values())
    small.total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())


def test_it_meets_the_needs_that_a_two_stage_detector_has() -> None:
    assert set(HOW) == {Pyramid, SampledRegions, StudentAnchors}


REGIONS, DENSE = small.two_stage_config(), small.config()


@pytest.mark.parametrize(
    ("distill", "student", "teacher", "where", "match"),
    [
        ({"crosskd": {}}, DENSE, REGIONS, "/student/detector", "cannot read what a gfl student has"),
        ({"crosskd": {}}, REGIONS, DENSE, "/student/detector", "cannot read what a faster_rcnn student has"),
        ({"crosskd": {"cut": 2}}, REGIONS, REGIONS, "/distill/crosskd/cut", "knob of dense heads"),
        ({"crosskd": {"box": "kl"}}, REGIONS, REGIONS, "/distill/crosskd/box", "knob of dense heads"),
        ({"crosskd": {"after_relu": False}}, REGIONS, REGIONS, "/distill/crosskd/after_relu", "knob of dense heads"),
        ({"crosskd": {"centerness_weight": 1}}, REGIONS, REGIONS, "/distill/crosskd/centerness_weight", "dense heads"),
        ({"crosskd": {"objectness_weight": 1}}, REGIONS, REGIONS, "/distill/crosskd/objectness_weight", "dense heads"),
        ({"crosskd": {"class_temperature": 2}}, DENSE, DENSE, "/distill/crosskd/class_temperature", "faster_rcnn"),
        ({"direct": {}}, REGIONS, REGIONS, "/student/detector", "dense heads predict of every anchor"),
        ({"direct": {}}, DENSE, REGIONS, "/distill/direct", "dense heads predict of every anchor"),
        ({"ld": {}}, REGIONS, REGIONS, "/student/detector", "dense heads predict of every anchor"),
        ({"pkd": {}}, DENSE, REGIONS, "/student/detector", "differ in strides"),
        ({"fitnet": {}}, REGIONS, DENSE, "/student/detector", "differ in strides"),
        ({"pkd": {}}, small.two_stage_config(channels=24), REGIONS, "/student/neck/channels", "channel by channel"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(
    distill: dict[str, Any], student: ModelConfig, teacher: ModelConfig, where: str, match: str
) -> None:
    _, found = resolve_pair(DistillConfig.model_validate(distill), student, teacher)
    assert [fault.where for fault in found] == [where]
    assert match in found[0].what
    assert ("both dense" in found[0].remedy) == (student.two_stage != teacher.two_stage)


def of_rank(rank: int) -> dict[str, torch.Tensor]:
    """The gradients of a step on two ranks, the second of which has no box at all."""
    model = pair({"crosskd": {}, "pkd": {}}, teacher={"regions": {"version": "v2"}})
    shared = data_parallel(model, idle=model.sometimes_idle())
    assert shared is not None
    images, targets = small.batch(seed=rank)
    if rank:
        nothing = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
        targets = Targets(*nothing, targets.sizes, targets.padded)
    small.total(shared(images, targets)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_two_ranks_have_one_gradient_of_every_parameter_also_where_one_has_no_box(tmp_path: Path) -> None:
    first, second = on_ranks(of_rank, tmp_path)
    assert first.keys() == {f"student.{name}" for name, _ in small.two_stage().named_parameters()}
    assert all(torch.equal(first[name], second[name]) for name in first)
