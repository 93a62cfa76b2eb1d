"""Names that are proposed for one that is not known."""

from __future__ import annotations

from typing import Any

import pytest

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig, TrainConfig
from crosskd.spec.nearest import did_you_mean, model_at, nearest, propose
from crosskd.spec.presets import recipe_text


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("studnet", {"student", "teacher"}, "Did you mean `student`?"),
        ("AP", {"ap", "loss"}, "Did you mean `ap`?"),
        ("ap", {"AP", "loss"}, "Did you mean `AP`?"),  # spelt as it is known
        ("entirely else", {"student", "teacher"}, ""),
        (None, {"none", "group"}, "Did you mean `none`?"),  # YAML's null, where the text was meant
        (["sgd"], {"adamw"}, ""),
        ("x" * 1_000_000, {"x"}, ""),
        ("", {"x"}, ""),
        ("x", set(), ""),
    ],
)
def test_the_nearest_is_proposed_and_nothing_that_is_far(name: Any, known: set[str], found: str) -> None:
    assert did_you_mean(name, known) == found


def test_several_are_told_from_the_nearest_on() -> None:
    assert nearest("resnet19", ["resnet101", "vgg", "resnet18"], 3) == ["resnet18", "resnet101"]


def test_what_to_do_lists_all_that_are_known() -> None:
    assert propose("stats", {"status", "label"}) == "Did you mean `status`? Known here: label, status."
    assert propose("zzz", {"status", "label"}) == "Remove it. Known here: label, status."
    assert propose("zzz", set()) == "Remove it. None is known here."


def test_names_of_the_registry_and_of_recipes_have_it_too() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown detector 'fco'; Did you mean `fcos`\? Use one of: atss, d_fine, deformable_detr, faster_rcnn",
    ):
        ModelConfig.model_validate({"detector": "fco", "backbone": {"name": "resnet18"}})
    with pytest.raises(ConfigError, match=r"Did you mean `gfl`\?"):
        registry.lookup(registry.DETECTORS, "gfI", "detector")
    with pytest.raises(ConfigError, match=r"Did you mean `demo_student`\?"):
        recipe_text("demo_studnet")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ((), "TrainConfig"),
        (("student", "head"), "HeadConfig"),
        (("teacher", "weights"), None),  # a union leaves it open
        (("teacher", "weights", "JobRef"), None),
        (("nothing",), "TrainConfig"),
    ],
)
def test_the_section_that_holds_a_field_is_found(path: tuple[str, ...], model: str | None) -> None:
    found = model_at(TrainConfig, path)
    assert (found and found.__name__) == model
