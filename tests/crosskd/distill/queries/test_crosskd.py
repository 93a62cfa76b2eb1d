"""CrossKD of DETRs, queries through the teacher's decoder; direct mimicking, the teacher's through the student's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.distill.queries.mimic import mimic_queries
from crosskd.losses import bins_divergence
from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.spec.detr.types import TYPES
from crosskd.spec.distill.needs import DecoderQueries
from crosskd.spec.distill.pairing import resolve_pair
from tests.support import detrs, small
from tests.support.detr_library import shake
from tests.support.steps import Witness

FINE, SECOND, FIRST, DEFORMABLE = "d_fine", "rt_detr_v2", "rt_detr", "deformable_detr"
LIGHT, ROBOFLOW = "lw_detr", "rf_detr"


def pair(
    distill: dict[str, Any], student: str, teacher: str, ours: dict[str, Any] | None = None, **theirs: Any
) -> Distiller:
    sizes = [levels(student, teacher) | (ours or {}), levels(teacher, student) | theirs]
    models = detrs.detector(student, 0, **sizes[0]), detrs.detector(teacher, 1, **sizes[1])
    for model in models:
        shake(model.head)  # or D-FINE's distributions are nearly the same for all queries
    return build_distiller(*models, DistillConfig.model_validate(distill)).train()


def levels(kind: str, other: str = FIRST) -> dict[str, Any]:
    """As many as the other type has."""
    if kind == LIGHT:
        return {"scales": [1] if other == ROBOFLOW else [2, 1, 0.5]}
    if kind == ROBOFLOW:
        return {"dropout": 0.0}
    return {"levels": 3, "dropout": 0.0} if kind == DEFORMABLE else {}


def losses_of(model: Distiller, term: str) -> dict[str, Tensor]:
    return {name: x for name, x in model(*small.batch()).items() if name.startswith(term)}


def taught(model: Distiller) -> set[str]:
    """The parts of the student that have a gradient."""
    names = {name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}
    return {".".join(name.split(".")[2:5]) if name.startswith("head.model.decoder.layers") else name for name in names}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("queries", ["teacher", "student"])
def test_the_gradient_goes_through_the_teachers_decoder_to_what_it_looks_at(kind: str, queries: str) -> None:
    model = pair({"crosskd": {"queries": queries}}, kind, kind)
    losses = losses_of(model, "crosskd")
    bins = {"crosskd_bins"} if kind == FINE else set()
    assert losses.keys() == {"crosskd_cls", "crosskd_box", "crosskd_giou"} | bins
    assert all(x.shape == (2,) and x.isfinite().all() and (x > 0).all() for x in losses.values())
    small.total(losses).backward()
    found = taught(model)
    assert any(name.startswith("backbone.") for name in found)
    encoder = "neck." if kind in detrs.VITS else "head.model.encoder."
    assert any(name.startswith(encoder) for name in found)
    assert ("decoder.layers.0" in found) == (queries == "student")
    assert "decoder.layers.1" not in found
    # The student's own heads are not asked; but D-FINE's distributions go on from layer to layer.
    heads = {name for name in found if name.startswith(("head.model.decoder.class", "head.class", "head.bbox"))}
    assert heads == set()
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.parametrize("kind", [DEFORMABLE, FINE, LIGHT])
@pytest.mark.parametrize("queries", ["teacher", "student"])
def test_a_student_that_is_its_teacher_has_nothing_left_to_imitate(kind: str, queries: str) -> None:
    model = pair({"crosskd": {"queries": queries, "beta": 1}}, kind, kind)
    model.student.load_state_dict(model.teacher.state_dict())
    losses = losses_of(model.eval(), "crosskd")
    assert {n: x.abs().max().item() for n, x in losses.items() if x.abs().max() > 1e-6} == {}
    assert losses["crosskd_box"].abs().max() == 0  # bit for bit


def test_the_distributions_count_as_much_as_the_teacher_is_sure_and_start_from_its_boxes() -> None:
    model = pair({"crosskd": {"temperature": 2.0, "bins_weight": 3.0}}, FINE, FINE)
    witness = Witness(DecoderQueries(None))
    model.terms["witness"] = witness
    losses = losses_of(model, "crosskd")
    (step,) = witness.steps
    assert vars(step.student).keys() == {"head", "recording", "scales"}
    teacher, expected = port_of(step.teacher.head), []
    with torch.no_grad():
        for seen in teacher.trajectory(step.teacher.recording):
            hidden = teacher.layer(seen.state, step.student.recording.memory)
            ours = teacher.heads(hidden, seen.state)
            z, v = (x.unflatten(-1, (4, -1)) for x in (ours.corners, seen.predictions.corners))
            worth = seen.predictions.logits.sigmoid().amax(-1)
            divergence = bins_divergence(z, v, 2.0).sum(-1)
            expected.append(3 * (worth * divergence).sum() / (4 * worth.sum()))
    torch.testing.assert_close(losses["crosskd_bins"], torch.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "distill", "align"),
    [
        (FIRST, DEFORMABLE, {"crosskd": {}}, {"memory": (64, 32)}),
        (DEFORMABLE, FINE, {"crosskd": {"giou": False}}, {"memory": (64, 32)}),
        (
            SECOND,
            FIRST,
            {"crosskd": {"queries": "student"}},
            dict.fromkeys(("memory", "queries", "positions"), (64, 32)),
        ),
        (FINE, SECOND, {"direct": {}}, {"queries": (32, 64)}),
        (DEFORMABLE, DEFORMABLE, {"direct": {}}, dict.fromkeys(("queries", "positions"), (32, 64))),
        (LIGHT, FIRST, {"crosskd": {}}, {"memory": (64, 32)}),
        (FIRST, LIGHT, {"crosskd": {}}, {"memory": (64, 32)}),
        (
            ROBOFLOW,
            LIGHT,
            {"crosskd": {"queries": "student"}},
            dict.fromkeys(("memory", "queries", "positions"), (64, 32)),
        ),
        (LIGHT, ROBOFLOW, {"direct": {}}, {"queries": (32, 64)}),
    ],
)
def test_heads_of_other_types_and_widths_are_reached_by_linear_maps_that_learn(
    student: str, teacher: str, distill: dict[str, Any], align: dict[str, tuple[int, int]]
) -> None:
    (term,) = distill
    model = pair(distill, student, teacher, width=64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, term)
    assert all(x.isfinite().all() and x.dtype == torch.float32 for x in losses.values())
    small.total(losses).backward()
    found = {name: p for name, p in model.terms[term].named_parameters() if name.endswith("weight")}
    assert {name: tuple(p.shape) for name, p in found.items()} == {
        f"align.{name}.weight": x for name, x in align.items()
    }
    assert all(p.grad is not None and p.grad.any() for p in found.values())
    decoder = any(name.startswith("decoder.layers.1") for name in taught(model))
    assert decoder == (term == "direct")


@pytest.mark.parametrize(
    ("student", "ours", "teacher", "theirs", "distill"),
    [
        (FIRST, {}, DEFORMABLE, {"levels": 4, "width": 64}, {"crosskd": {}}),
        (DEFORMABLE, {"levels": 5}, FINE, {}, {"crosskd": {}}),
        (DEFORMABLE, {"levels": 3}, DEFORMABLE, {"levels": 4}, {"crosskd": {"queries": "student"}}),
        (DEFORMABLE, {"levels": 5}, DEFORMABLE, {"levels": 3}, {"direct": {}}),
        # An encoder of another width than its decoder, as the largest published ones have: the decoders' widths count.
        (FIRST, {}, FINE, {"encoder_width": 64}, {"crosskd": {}}),
        (FIRST, {"encoder_width": 64}, SECOND, {"width": 64}, {"direct": {}}),
    ],
)
def test_memories_of_other_levels_or_encoders_are_resampled_and_learn(
    student: str, ours: dict[str, Any], teacher: str, theirs: dict[str, Any], distill: dict[str, Any]
) -> None:
    (term,) = distill
    model = pair(distill, student, teacher, ours, **theirs)
    losses = losses_of(model, term)
    assert all(x.shape == (2,) and x.isfinite().all() for x in losses.values())
    small.total(losses).backward()
    assert any(name.startswith("head.model.encoder.") for name in taught(model))


def test_a_resampled_memory_is_looked_at_by_the_teachers_layers() -> None:
    """The student's three maps as they are, and the third once more at the size of the teacher's fourth."""
    model = pair({"crosskd": {"giou": False}}, FIRST, DEFORMABLE, levels=4)
    witness = Witness(DecoderQueries(None))
    model.terms["witness"] = witness
    losses = losses_of(model, "crosskd")
    (step,) = witness.steps
    teacher, own, given = port_of(step.teacher.head), step.teacher.recording.memory, step.student.recording.memory
    counts = [height * width for height, width in given.shapes]
    levels = zip(given.cells.split(counts, 1), given.shapes, strict=True)
    maps = [cells.transpose(1, 2).unflatten(2, shape) for cells, shape in levels]
    coarsest = torch.nn.functional.interpolate(maps[-1], size=own.shapes[-1], mode="bilinear")
    cells = torch.cat([x.flatten(2).transpose(1, 2) for x in (*maps, coarsest)], 1)
    with torch.no_grad():
        memory, way = replace(own, cells=cells), teacher.trajectory(step.teacher.recording)
        said = [(teacher.heads(teacher.layer(x.state, memory), x.state), x.predictions) for x in way]
    expected = mimic_queries("crosskd", said, step.teacher.scales, model.terms["crosskd"].config)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_direct_asks_the_students_decoder_about_the_teachers_queries() -> None:
    model = pair({"direct": {}}, FINE, FINE)
    losses = losses_of(model, "direct")
    assert losses.keys() == {"direct_cls", "direct_box", "direct_giou", "direct_bins"}
    model.student.load_state_dict(model.teacher.state_dict())
    same = losses_of(model.eval(), "direct")
    assert all(same[name].abs().max() == 0 for name in ("direct_box", "direct_bins"))
    assert all(p.grad is None for p in model.teacher.parameters())


def test_groups_of_queries_in_training_are_not_those_of_the_teacher() -> None:
    """A student in training asks its decoder about one group: here it says what the teacher says."""
    model = pair({"direct": {}}, ROBOFLOW, ROBOFLOW)
    model.student.load_state_dict(model.teacher.state_dict())
    losses = losses_of(model, "direct")  # of no layer does a training change what it says
    assert losses["direct_box"].abs().max() < 1e-6
    assert model.student.head.model.decoder.layers[0].self_attn.training


def config(kind: str, **sizes: Any) -> ModelConfig:
    return detrs.config(kind, **levels(kind) | sizes)


@pytest.mark.parametrize(
    ("distill", "student", "teacher", "where", "match"),
    [
        ({"crosskd": {}}, small.config(), config(FIRST), "/student/detector", "cannot read what a gfl student has"),
        ({"direct": {}}, config(FIRST), small.config(), "/student/detector", "a rt_detr student predicts of queries"),
        ({"crosskd": {}}, config(FIRST), config(DEFORMABLE, levels=5), "/student/detector", "levels of stride 128;"),
        ({"crosskd": {}}, config(DEFORMABLE), config(DEFORMABLE, levels=5), "/student/detr/levels", "of stride 128;"),
        ({"crosskd": {"cut": 2}}, config(FIRST), config(FIRST), "/distill/crosskd/cut", "knob of dense heads"),
        ({"crosskd": {"temperature": 2}}, config(FIRST), config(FIRST), "/distill/crosskd/temperature", "dense heads"),
        ({"crosskd": {"bins_weight": 2}}, config(FINE), config(FIRST), "/distill/crosskd/bins_weight", "of d_fine"),
        ({"crosskd": {"queries": "teacher"}}, small.config(), small.config(), "/distill/crosskd/queries", "the DETRs"),
        ({"direct": {"giou": True}}, small.config(), small.config(), "/distill/direct/giou", "the DETRs"),
        (
            {"crosskd": {"giou": False, "giou_weight": 2}},
            config(FIRST),
            config(FIRST),
            "/distill/crosskd/giou_weight",
            "where giou is true",
        ),
        (
            {"crosskd": {"detach_target": True}},
            config(FIRST),
            config(FIRST),
            "/distill/crosskd/detach_target",
            "where queries is student",
        ),
        (
            {"crosskd": {"queries": "student"}},
            config(FIRST),
            config(FINE),
            "/student/detector",
            "the teacher's decoder cannot take the student's queries",
        ),
        ({"direct": {}}, config(DEFORMABLE), config(FIRST), "/student/detector", "the student's decoder cannot take"),
        ({"direct": {}}, config(FIRST, decoder_layers=3), config(FIRST), "/student/detr/decoder_layers", "3 layers"),
        ({"direct": {}}, config(FINE, bins=16), config(FINE), "/student/detr/bins", "16 bins"),
        ({"ld": {}}, config(FIRST), config(FIRST), "/student/detector", "LD"),
        ({"crosskd": {}}, config(LIGHT, scales=[2]), config(FIRST), "/student/detr/scales", "levels of stride 32"),
        ({"crosskd": {}}, config(ROBOFLOW), config(DEFORMABLE, levels=4), "/student/backbone/vit/patch", "stride 64"),
        ({"direct": {}}, config(LIGHT), config(FIRST), "/student/detector", "the student's decoder cannot take"),
        ({"pkd": {}}, config(LIGHT, scales=[1]), config(FIRST), "/student/detr/scales", "differ in strides"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(
    distill: dict[str, Any], student: ModelConfig, teacher: ModelConfig, where: str, match: str
) -> None:
    _, found = resolve_pair(DistillConfig.model_validate(distill), student, teacher)
    assert [fault.where for fault in found] == [where]
    assert match in found[0].what


def test_what_the_pair_decides_is_filled_in() -> None:
    def resolved(term: str, student: str, teacher: str, **knobs: Any) -> dict[str, Any]:
        distill, found = resolve_pair(DistillConfig.model_validate({term: knobs}), config(student), config(teacher))
        stored = DistillConfig.model_validate(distill.model_dump())  # as a worker gets it
        assert (found, resolve_pair(stored, config(student), config(teacher))) == ([], (distill, []))
        names = {"beta", "giou_weight", "bins_weight", "queries", "giou", "detach_target"}
        return getattr(distill, term).model_dump(include=names)

    full = {"beta": 0.0, "giou": True, "giou_weight": 1.0}
    assert resolved("crosskd", FIRST, FINE) == full | {"queries": "teacher", "bins_weight": 1.0}
    assert resolved("crosskd", FIRST, SECOND, queries="student") == full | {
        "queries": "student",
        "detach_target": False,
        "bins_weight": 0.0,
    }
    assert resolved("direct", FIRST, SECOND, giou=False) == full | {
        "giou": False,
        "giou_weight": 0.0,
        "bins_weight": 0.0,
    }
    dense, _ = resolve_pair(DistillConfig(), small.config(), small.config())
    assert dense.crosskd.model_dump().keys().isdisjoint({"giou", "giou_weight", "bins_weight", "queries"})
    assert dense.crosskd.beta == 1.0
