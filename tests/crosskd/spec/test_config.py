"""The configuration: whatever stands in it is taken or refused, and a refusal says where."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crosskd.spec.config import BackboneConfig, ExportConfig, HeadConfig, LossConfig, ModelConfig, TrainConfig
from crosskd.spec.registry import DENSE

SPLIT = {"annotations": "instances.json", "images": "images"}
WHOLE: dict[str, Any] = TrainConfig.model_validate(
    {
        "data": {"train": SPLIT, "val": SPLIT, "classes": ["a", "b"]},
        "student": {"backbone": {"name": "resnet18"}},
        "teacher": {
            "weights": {"file": "teacher.pth"},
            "model": {"backbone": {"name": "resnet50", "init": {"file": "backbone.pth"}}},
            "classes": ["a", "b"],
        },
        "distill": {"crosskd": {}, "pkd": {}},
        "ema": {},
    }
).model_dump(mode="json")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


def replaced(path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(WHOLE)
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 0, -1, "resnet50", "imagenet", "random", "crosskd", "\ud800", "\0"])
    | st.floats()
    | st.text(max_size=8)
)
KEYS = st.sampled_from(["name", "width", "init", "file", "weights", "crosskd", "pkd", "channels", "classes", "x"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


@settings(max_examples=600, deadline=None)
@given(path=st.sampled_from(places(WHOLE)), value=JSON)
@example(("student", "backbone", "name"), ["resnet18"])
@example(("student", "backbone", "name"), {})
@example(("student", "backbone"), {"name": "resnet18", "width": "x"})
@example(("student", "backbone", "init"), 3)
@example(("teacher", "weights"), [])
@example(("teacher",), 5)
@example(("distill",), [])
@example(("student", "head"), {"channels": "x"})
@example(("student", "head"), {"channels": -7})
@example(("optimizer", "lr"), 10**400)
def test_any_json_at_any_place_is_taken_or_refused(path: tuple[Any, ...], value: Any) -> None:
    try:
        taken = TrainConfig.model_validate(replaced(path, value))
    except ValidationError:
        return
    assert TrainConfig.model_validate(taken.model_dump(mode="json")) == taken


@pytest.mark.parametrize("name", [["resnet18"], {}, 3, None])
def test_a_backbone_s_name_that_is_no_text_is_a_fault_of_the_name(name: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        BackboneConfig.model_validate({"name": name})
    assert [fault["loc"] for fault in caught.value.errors()] == [("name",)]


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (32, 16), (16, 8), (8, 4), (48, 24)])
def test_the_head_s_groups_have_two_channels_at_least(channels: int, groups: int) -> None:
    assert HeadConfig(channels=channels).norm_groups == groups


def test_published_groups_are_the_default() -> None:
    assert HeadConfig().norm_groups == 32


@pytest.mark.parametrize("channels", [8, 32])
def test_a_group_of_one_channel_is_refused_with_a_remedy(channels: int) -> None:
    """torch cannot normalise a single value: one channel of one image whose last level is one cell."""
    with pytest.raises(ValidationError, match=f"use {channels // 2} at most"):
        HeadConfig(channels=channels, norm_groups=channels)


def test_a_rate_of_sampling_is_of_a_detr_alone() -> None:
    values = {"student": {"backbone": {"name": "resnet18"}}, "optimizer": {"sampling_lr_factor": 0.1}}
    with pytest.raises(ValidationError, match="knob of the DETRs; leave it out for a gfl") as caught:
        TrainConfig.model_validate({"data": WHOLE["data"], **values})
    assert caught.value.errors()[0]["loc"] == ("optimizer", "sampling_lr_factor")
    values["student"]["detector"] = "rt_detr"
    assert TrainConfig.model_validate({"data": WHOLE["data"], **values}).optimizer.sampling_lr_factor == 0.1


LARGEST_VIT = {"width": 1024, "heads": 16, "maps": [24], "mlp_ratio": 8}
LARGEST_DETR = {"width": 1024, "feedforward": 8192, "encoder_layers": 12, "decoder_layers": 12}


@pytest.mark.parametrize(
    ("student", "section", "told"),
    [
        (
            {"detector": "d_fine", "detr": {**LARGEST_DETR, "expansion": 4.0, "depth": 4.0, "bins": 128}},
            "detr",
            r"detr.width 1024, detr.feedforward 8192, .* 3 classes make a d_fine of 5,\d+ million parameters; 500 mil",
        ),
        ({"detector": "rt_detr", "detr": {**LARGEST_DETR, "expansion": 4.0}}, "detr", "detr.decoder_layers 12"),
        ({"head": {"channels": 4096, "depth": 16}}, "head", "head.channels 4096, head.depth 16, .* make a gfl of"),
        ({"neck": {"channels": 4096}}, "neck", "neck.channels 4096"),
        (
            {"detector": "faster_rcnn", "neck": {"channels": 4096}, "regions": {"channels": 4096}},
            "regions",
            "regions.channels 4096, neck.channels 4096",
        ),
        ({"backbone": {"name": "resnet101", "width": 256, "init": "random"}}, "backbone", "backbone.width 256 make"),
        (
            {"detector": "lw_detr", "backbone": {"name": "lw_detr_vit", "vit": LARGEST_VIT}, "detr": {"width": 1024}},
            "backbone.vit",
            "backbone.vit.width 1024, .* make a lw_detr",
        ),
    ],
)
def test_sizes_that_are_too_many_parameters_together_are_refused(
    student: dict[str, Any], section: str, told: str
) -> None:
    """Each of them is within its own bounds. Of a teacher and of what is evaluated, too."""
    student = {"backbone": {"name": "resnet18", "init": "random"}, **student}
    data = {**WHOLE["data"], "classes": ["a", "b", "c"]}
    teacher = {"weights": {"file": "t.pth"}, "model": student, "classes": ["a", "b", "c"]}
    small = {"backbone": {"name": "resnet18"}}
    for values, place in (
        ({"student": student}, ("student", *section.split("."))),
        ({"student": small, "teacher": teacher}, ("teacher", "model", *section.split("."))),
    ):
        with pytest.raises(ValidationError, match=told) as caught:
            TrainConfig.model_validate({"data": data, **values})
        assert [fault["loc"] for fault in caught.value.errors()] == [place]
    with pytest.raises(ValidationError, match="million are the most") as caught:
        ExportConfig.model_validate({"weights": {"file": "t.pth"}, "model": student})
    assert caught.value.errors()[0]["loc"] == ("model", *section.split("."))


YOLOX_S: dict[str, Any] = {"detector": "yolox", "backbone": {"name": "cspdarknet_s"}}


def test_yolox_with_its_own_backbone_has_its_published_rest() -> None:
    nano, small, other = (
        ModelConfig.model_validate({"detector": "yolox", "backbone": {"name": name, "init": "random"}})
        for name in ("cspdarknet_nano", "cspdarknet_s", "resnet18")
    )
    assert (nano.neck.kind, nano.neck.channels, nano.neck.depthwise, nano.head.depthwise) == (
        "yolox_pafpn", 64, True, True,
    )  # fmt: skip
    assert (small.neck.channels, small.neck.depthwise, small.head.depthwise) == (128, False, False)
    assert (small.strides, small.pixels.std, small.pixels.padding) == ([8, 16, 32], (1.0, 1.0, 1.0), 114.0)
    assert (other.neck.kind, other.strides, other.pixels.order) == ("fpn", [8, 16, 32, 64, 128], "rgb")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"neck": {"kind": "fpn", "depthwise": True}}, "neck.depthwise is a knob of yolox_pafpn"),
        ({"neck": {"kind": "pafpn", "depthwise": True}}, "neck.depthwise is a knob of yolox_pafpn"),
        ({"strides": [8, 16, 32, 64]}, "a yolox_pafpn neck makes P3, P4 and P5 alone"),
        ({"head": {"norm": "group"}}, "the towers of yolox have norm batch, not group"),
        ({"losses": {"giou": 1.0}}, "losses.giou is a knob of .*; leave it out for yolox"),
        (
            {"detector": "gfl", "losses": {"objectness": 2.0}},
            "losses.objectness is a knob of yolox; leave it out for gfl",
        ),
        ({"detector": "gfl", "head": {"depthwise": True}}, "head.depthwise is a knob of yolox; leave it out for gfl"),
    ],
)
def test_what_yolox_or_another_detector_would_not_heed_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelConfig.model_validate({**YOLOX_S, **change})


@pytest.mark.parametrize("detector", sorted(DENSE))
def test_a_training_learns_of_something(detector: str) -> None:
    """A detector none of whose losses counts learns from a teacher, or not at all."""
    student: dict[str, Any] = {"backbone": {"name": "resnet18"}, "detector": detector}
    values = {"data": WHOLE["data"], "student": student}
    weights = TrainConfig.model_validate(values).student.detection_weights
    assert len(weights) >= 2
    # Every weight is 0 or more without a bound at 1, which exponents and shares have.
    assert all(str(LossConfig.model_fields[name].metadata).count("10000.0") for name in weights)
    student["losses"] = dict.fromkeys(weights, 0.0)
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(values)
    (fault,) = caught.value.errors()
    assert fault["loc"] == ("student", "losses")
    assert "give one of them a weight, or add a teacher" in fault["msg"]
    TrainConfig.model_validate({**values, "teacher": WHOLE["teacher"]})
    student["losses"] = {next(iter(weights)): 1.0}
    TrainConfig.model_validate(values)
