"""The section of the DETRs: what it fills in, what is read back, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crosskd.spec import registry
from crosskd.spec.config import DistillConfig, ModelConfig, StudentConfig
from crosskd.spec.detr.types import TYPES
from crosskd.spec.distill.pairing import resolve_pair
from crosskd.spec.evaluate_export import unexportable

BACKBONE: dict[str, Any] = {"name": "resnet18", "init": "random"}
STRIDES = {"deformable_detr": [8, 16, 32, 64], "lw_detr": [16], "rf_detr": [14]}
LIGHT: dict[str, Any] = {"detector": "lw_detr", "backbone": {"name": "lw_detr_vit"}}
ODD: dict[str, Any] = {"detector": "lw_detr", "backbone": {"name": "lw_detr_vit", "vit": {"patch": 15}}}
ROBOFLOW: dict[str, Any] = {"detector": "rf_detr", "backbone": {"name": "rf_detr_dinov2"}}
DETR: dict[str, Any] = {"detector": "deformable_detr", "backbone": BACKBONE}


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_it_has_its_own_section_alone_and_is_read_back(kind: str) -> None:
    own = TYPES[kind].backbone  # type: ignore[index]
    backbone = BACKBONE if own is None else {"name": own}
    model = ModelConfig.model_validate({"detector": kind, "backbone": backbone, "detr": {"width": 64}})
    values = model.model_dump(mode="json")
    assert not values.keys() & {"head", "losses", "neck", "strides", "regions", "anchor_scale"}
    assert model.neck.channels == 64
    assert model.strides == STRIDES.get(kind, [8, 16, 32])
    for section in (ModelConfig, StudentConfig):
        assert section.model_validate(values).model_dump(mode="json") == values
    empty = {"detector": kind, "backbone": backbone}
    assert ModelConfig.model_validate(empty) == ModelConfig.model_validate({**empty, "detr": None})
    assert not unexportable(model)
    if own is None:
        assert "windows" in unexportable(ModelConfig.model_validate({**empty, "backbone": {"name": "swin_t"}}))


@pytest.mark.parametrize(
    ("values", "place", "match"),
    [
        ({"detr": {"queries": 0}}, ("detr", "queries"), "greater than or equal to 1"),
        ({"detr": {"queries": 10_000}}, ("detr", "queries"), "less than or equal to 1000"),
        ({"detr": {"width": 40}}, ("detr", "width"), "multiple of 32"),
        ({"detr": {"width": 64, "heads": 7}}, ("detr", "heads"), "no multiple of heads"),
        ({"detr": {"levels": True}}, ("detr", "levels"), "true and false"),
        ({"detr": {"bins": 16}}, ("detr", "bins"), "bins is a knob of d_fine; leave it out for deformable_detr"),
        ({"detr": {"encoder_width": 64}}, ("detr", "encoder_width"), "knob of rt_detr, rt_detr_v2, d_fine"),
        ({"detector": "rt_detr", "detr": {"level_points": [3, 6, 3]}}, ("detr", "level_points"), "knob of d_fine"),
        ({"detector": "d_fine", "detr": {"level_points": [3, 6]}}, ("detr", "level_points"), "at least 3"),
        (
            {"detector": "d_fine", "detr": {"points": 2, "level_points": [3, 6, 3]}},
            ("detr", "level_points"),
            "say the same",
        ),
        (
            {"detector": "d_fine", "detr": {"width": 96, "heads": 3, "encoder_width": 64}},
            ("detr", "heads"),
            "encoder_width 64 is no multiple of heads 3",
        ),
        ({"detr": {"auto_map": {}}}, ("detr", "auto_map"), "Extra inputs"),
        ({"detector": "rt_detr", "detr": {"levels": 4}}, ("detr", "levels"), "knob of deformable_detr"),
        ({"detector": "detr", "detr": {}}, ("detector",), "unknown detector 'detr'"),
        ({"detector": "gfl", "detr": {}}, ("detr",), "section of the DETRs; leave it out for gfl"),
        ({"regions": {}}, ("regions",), "section of faster_rcnn"),
        ({"head": {"depth": 2}}, ("head",), "section of the dense detectors"),
        ({"losses": {"giou": 1.0}}, ("losses",), "section of the dense detectors"),
        ({"neck": {"channels": 32}}, ("neck",), "has no neck"),
        ({"strides": [8, 16, 32]}, ("strides",), "leave strides out"),
        ({"anchor_scale": 4.0}, ("anchor_scale",), "leave it out for deformable_detr"),
        ({"postprocess": {"nms_iou": 0.4}}, ("postprocess", "nms_iou"), "needs no suppression"),
        ({"detr": {"levels": 2}}, ("detr", "levels"), "3 levels at least"),
        ({"detr": {"groups": 2}}, ("detr", "groups"), "knob of lw_detr, rf_detr"),
        ({**LIGHT, "detr": {"levels": 2}}, ("detr", "levels"), "knob of deformable_detr"),
        (
            {**LIGHT, "detr": {"encoder_layers": 1}},
            ("detr", "encoder_layers"),
            "encoder_layers is a knob of deformable_detr",
        ),
        ({**LIGHT, "detr": {"cross_heads": 12}}, ("detr", "cross_heads"), "no multiple of cross_heads"),
        ({**LIGHT, "detr": {"scales": [1, 2]}}, ("detr", "scales"), "finest first"),
        ({**LIGHT, "detr": {"scales": [1.5]}}, ("detr", "scales"), "some of 2, 1 and 0.5"),
        ({**LIGHT, "detr": {"scales": []}}, ("detr", "scales"), "at least 1"),
        ({**LIGHT, "strides": [8]}, ("strides",), "say which maps lw_detr has"),
        ({**LIGHT, "backbone": BACKBONE}, ("backbone", "name"), "has a backbone of its own; use lw_detr_vit"),
        ({"backbone": {"name": "lw_detr_vit"}}, ("backbone", "name"), "which lw_detr alone reads"),
        ({**ROBOFLOW, "detector": "gfl"}, ("backbone", "name"), "which rf_detr alone reads"),
        ({**ROBOFLOW, "detr": {"scales": [2]}}, ("detr", "scales"), "knob of lw_detr"),
        ({**ODD, "detr": {"scales": [2, 1]}}, ("detr", "scales"), "patch of 15 pixels has no half"),
    ],
)
def test_what_does_not_belong_there_is_refused(values: dict[str, Any], place: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValidationError, match=match) as caught:
        ModelConfig.model_validate({**DETR, **values})
    assert caught.value.errors()[0]["loc"] == place


def test_maps_are_as_wide_as_the_encoder() -> None:
    model = ModelConfig.model_validate({"detector": "d_fine", "backbone": BACKBONE, "detr": {"encoder_width": 384}})
    assert model.neck.channels == 384
    assert ModelConfig.model_validate(model.model_dump(mode="json")) == model


def test_bins_that_lie_elsewhere_are_not_compared() -> None:
    student, teacher = (
        ModelConfig.model_validate({"detector": "d_fine", "backbone": BACKBONE, "detr": {"reg_scale": scale}})
        for scale in (4, 8)
    )
    for distill, count in (({"crosskd": {"queries": "student"}}, 1), ({"crosskd": {}}, 0)):
        found = resolve_pair(DistillConfig.model_validate(distill), student, teacher)[1]
        assert [one.where for one in found] == ["/student/detr/reg_scale"] * count


def pair(method: str, student: str, teacher: str, **detr: Any) -> list[str]:
    models = [
        ModelConfig.model_validate(
            {"detector": name, "backbone": BACKBONE}
            | ({"strides": [8, 16, 32]} if name in registry.DENSE else {"detr": sizes} if name in TYPES else {})
        )
        for name, sizes in ((student, detr), (teacher, {}))
    ]
    found = resolve_pair(DistillConfig.model_validate({method: {}}), *models)[1]
    return [f"{one.where}: {one.what} {one.remedy}" for one in found]


@pytest.mark.parametrize(
    ("method", "student", "teacher", "told"),
    [
        ("pkd", "rt_detr", "d_fine", ""),
        ("fitnet", "rt_detr", "gfl", ""),
        ("mgd", "gfl", "rt_detr_v2", ""),
        ("cwd", "deformable_detr", "deformable_detr", ""),
        ("fitnet", "deformable_detr", "rt_detr", "/student/detr/levels: student and teacher differ in strides"),
        ("fitnet", "rt_detr", "faster_rcnn", "the one is of two stages, the other a DETR"),
        ("ld", "rt_detr", "gfl", "a rt_detr student predicts of queries"),
        ("ld", "gfl", "rt_detr", "a rt_detr teacher predicts of queries"),
        ("crosskd", "rt_detr", "faster_rcnn", "cannot read what a rt_detr student has"),
        ("crosskd", "rt_detr", "deformable_detr", ""),  # memories are resampled
        ("crosskd", "deformable_detr", "rt_detr", ""),
    ],
)
def test_methods_of_maps_fit_detrs_of_the_same_levels(method: str, student: str, teacher: str, told: str) -> None:
    found = pair(method, student, teacher)
    assert bool(found) == bool(told)
    assert told in " ".join(found)


def test_other_widths_are_told_at_the_width() -> None:
    (told,) = pair("pkd", "rt_detr", "rt_detr", width=64)
    assert told.startswith("/student/detr/width: PKD compares feature maps channel by channel")
