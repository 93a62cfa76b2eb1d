"""The shipped table of timm models is what the installed timm says."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import timm

from crosskd.backbones.timm_table import STRIDES, Unsuitable, describe, pixels, table, text
from crosskd.spec import registry
from crosskd.spec.backbones.registry import TIMM_TABLE, timm_version

CONTENT: dict[str, Any] = json.loads(TIMM_TABLE.read_text())
MODELS: dict[str, dict[str, Any]] = CONTENT["models"]
FAMILIES = ["resnet1??", "resnext*", "convnext_*", "efficientnet_b*", "mobilenetv3*", "regnetx*", "hrnet*", "vgg*"]
SMALL = sorted(name for name, row in MODELS.items() if row["parameters"] < 10e6)


def test_it_was_made_with_the_installed_version() -> None:
    assert CONTENT["timm"] == timm_version() == timm.__version__


def test_it_is_written_as_the_command_writes_it() -> None:
    assert TIMM_TABLE.read_text() == text(MODELS)
    assert list(MODELS) == [name for name in timm.list_models() if name in MODELS]


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_families_are_in_it(family: str) -> None:
    assert set(timm.list_models(family)) <= set(MODELS)


def test_each_row_has_its_form() -> None:
    for name, row in MODELS.items():
        assert list(row)[:5] == ["channels", "strides", "levels", "parameters", "weights"], name
        more = (["idle"] if row.get("idle") else []) + (["mean", "std"] if "mean" in row else [])
        assert list(row)[5:] == more, name
        assert row["strides"] == list(STRIDES[-len(row["strides"]) :])
        assert len(row["strides"]) in (3, 4)
        assert len(row["channels"]) == len(row["levels"]) == len(row["strides"])
        assert row["levels"] == sorted(set(row["levels"]))
        assert min(row["channels"]) > 0
        assert row["parameters"] > 0
        assert isinstance(row["weights"], bool)
        entry = registry.BACKBONES[f"timm/{name}"]
        assert (entry.channels(), entry.levels) == (tuple(row["channels"][-3:]), tuple(row["levels"][-3:]))


def test_pixels_are_what_timms_weights_were_made_for() -> None:
    assert {name: {key: row[key] for key in ("mean", "std") if key in row} for name, row in MODELS.items()} == {
        name: pixels(name) for name in MODELS
    }
    assert sum("mean" in row for row in MODELS.values()) > 100


def test_rows_are_what_timm_builds() -> None:
    for name in [*random.Random().sample(SMALL, 4), "convnext_tiny", "test_mambaout"]:  # others on every run
        assert describe(name) == MODELS[name], name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_vit", "one size"),
        ("test_maxvit", "one size"),
        ("convmixer_768_32", "strides"),
    ],
)
def test_what_cannot_be_a_backbone_is_left_out(name: str, reason: str) -> None:
    assert name not in MODELS
    with pytest.raises(Unsuitable, match=reason):
        describe(name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_table_is_what_the_installed_timm_gives() -> None:
    assert table() == MODELS
