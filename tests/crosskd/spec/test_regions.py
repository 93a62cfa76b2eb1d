"""A model's section is a union on `detector`: each family has its own sections, and refuses the others'."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crosskd.spec.config import CrossKDConfig, ModelConfig, StudentConfig
from tests.support import small

REGIONS: dict[str, Any] = {"detector": "faster_rcnn", "backbone": {"name": "resnet18", "init": "random"}}
DENSE: dict[str, Any] = {"detector": "gfl", "backbone": {"name": "resnet18", "init": "random"}}


def test_a_two_stage_model_has_regions_and_no_dense_head_and_is_read_back() -> None:
    model = ModelConfig.model_validate(REGIONS)
    values = model.model_dump(mode="json")
    assert not values.keys() & {"head", "losses"}
    assert values["regions"]["version"] == "v1"
    assert values["strides"] == [4, 8, 16, 32, 64]
    assert "strides" not in model.model_fields_set
    for kind in (ModelConfig, StudentConfig):
        again = kind.model_validate(values)
        assert again.model_dump(mode="json") == values
    assert "head" in ModelConfig.model_json_schema(mode="serialization")["properties"]


def test_a_dense_model_is_written_as_it_was_before_there_were_others() -> None:
    values = ModelConfig.model_validate(DENSE).model_dump()
    assert "regions" not in values
    assert {"head", "losses"} <= values.keys()
    assert "class_temperature" not in CrossKDConfig().model_dump()


@pytest.mark.parametrize(
    ("values", "place", "match"),
    [
        ({**DENSE, "regions": {}}, ("regions",), "section of faster_rcnn"),
        ({**REGIONS, "head": {"depth": 2}}, ("head",), "section of the dense detectors"),
        ({**REGIONS, "losses": {"focal": 2}}, ("losses",), "section of the dense detectors"),
        ({**REGIONS, "strides": [8, 16, 32]}, ("strides",), r"has strides \[4"),
        ({**REGIONS, "neck": {"p6_from": "c5"}}, ("neck", "p6_from"), "P6 is pooled"),
        ({**REGIONS, "neck": {"kind": "pafpn"}}, ("neck", "kind"), "P6 is pooled"),
        ({**REGIONS, "backbone": {"name": "timm/resnet10t"}}, ("backbone", "name"), "reads C2"),
        ({**REGIONS, "regions": {"version": "v3"}}, ("regions", "version"), "v1"),
        ({**REGIONS, "regions": {"samples": 0}}, ("regions", "samples"), "greater than or equal to 1"),
        ({**REGIONS, "regions": {"depth": 1}}, ("regions", "depth"), "Extra inputs"),
    ],
)
def test_what_belongs_to_another_family_is_refused(values: dict[str, Any], place: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValidationError, match=match) as caught:
        ModelConfig.model_validate(values)
    assert caught.value.errors()[0]["loc"] == place


def test_two_stage_and_null_regions_are_the_defaults() -> None:
    assert ModelConfig.model_validate({**REGIONS, "regions": None}) == ModelConfig.model_validate(REGIONS)
    assert small.two_stage_config().two_stage


def test_the_pyramid_of_two_maps_is_a_mobilenets_alone() -> None:
    values = {**REGIONS, "strides": [32, 32, 64]}
    mobile = ModelConfig.model_validate({**values, "backbone": {"name": "mobilenet_v3_large", "init": "random"}})
    assert mobile.coarsest
    with pytest.raises(ValidationError, match=r"has strides \[4, 8, 16, 32, 64\]; leave"):
        ModelConfig.model_validate(values)
    wide = {"channels": 32, "anchor_sizes": [32, 64]}
    assert ModelConfig.model_validate({**REGIONS, "regions": wide}).model_dump()["regions"]["anchor_sizes"] == [32, 64]
    assert "anchor_sizes" not in ModelConfig.model_validate(REGIONS).model_dump()["regions"]
