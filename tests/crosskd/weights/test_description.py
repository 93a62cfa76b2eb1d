"""What a weights file says of itself, as every reader of it hears it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.data.transforms import fitted, recorded_scale, validation_edge
from crosskd.errors import WeightsError
from crosskd.spec.config import AugmentConfig, ScaleConfig
from crosskd.spec.evaluate_export import augment_at
from crosskd.weights.description import Description, describe
from crosskd.weights.native import write_weights
from tests.support import small


def said(**recorded: str) -> Description:
    return Description("w.safetensors", recorded, "/weights")


def test_a_file_of_ours_says_everything_and_another_one_nothing(tmp_path: Path) -> None:
    model = small.detector()
    augment = AugmentConfig(short_edges=[64, 96], long_edge=256, antialias=False)
    path = tmp_path / "w.safetensors"
    extra = {"augment": recorded_scale(augment)}
    write_weights(path, model.state_dict(), model=model.config, classes=["B", "\u00e9"], extra=extra)
    found = describe(path)
    assert (found.model(), found.classes()) == (model.config, ["B", "\u00e9"])
    assert found.scale() == ScaleConfig(
        short_edge=96, long_edge=256, pad_to=32, antialias=False, sixteen_bit="high_byte"
    )
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    bare = describe(tmp_path / "bare.pth")
    assert (bare.model(), bare.classes(), bare.scale()) == (None, None, None)


@pytest.mark.parametrize(
    ("augment", "size"),
    [
        ({"short_edges": [64, 96], "long_edge": 256}, (96, 128)),
        ({"short_edges": [64, 96], "long_edge": 256, "val_short_edge": 48}, (48, 64)),
        ({"short_edges": [64], "long_edge": 80, "val_short_edge": 200}, (60, 80)),
    ],
)
def test_the_recorded_scale_is_the_scale_of_the_evaluation(augment: dict[str, Any], size: tuple[int, int]) -> None:
    config = AugmentConfig(**augment)
    scale = said(augment=recorded_scale(config)).scale()
    assert scale is not None
    for each in (config, augment_at(scale)):
        assert fitted((48, 64), validation_edge(each), each.long_edge) == size


@pytest.mark.parametrize(
    ("fact", "recorded"),
    [
        ("model", "{}"),
        ("model", "resnet"),
        ("classes", "7"),
        ("classes", "[" * 100_000),
        *(("scale", text) for text in ("", "[]", '{"long_edge": 3}', "[" * 100_000)),
        ("scale", json.dumps({"val_short_edge": "a", "long_edge": 3, "pad_to": 1})),
    ],
)
def test_what_nobody_can_read_is_told_when_it_is_asked_for(fact: str, recorded: str) -> None:
    description = said(**{"augment" if fact == "scale" else fact: recorded})
    with pytest.raises(WeightsError, match=rf"w\.safetensors describes its {fact} in a way that this") as caught:
        getattr(description, fact)()
    assert (caught.value.where, bool(caught.value.remedy)) == ("/weights", True)
    others = {"model", "classes", "scale"} - {fact}
    assert [getattr(description, other)() for other in others] == [None, None]


def test_a_class_named_twice_is_a_fault_where_names_must_differ() -> None:
    twice = said(classes='["A", "B", "A"]')
    assert twice.classes() == ["A", "B", "A"]
    with pytest.raises(WeightsError, match="a class is named twice"):
        twice.classes(distinct=True)
