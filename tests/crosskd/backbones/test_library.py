"""Backbones of transformers: their tensors by the torch-free table, their maps, and what is published of them."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch

from crosskd.backbones.library import LibraryBackbone, settings_of
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.backbones.library import HGNETS
from crosskd.spec.config import BackboneConfig, ModelConfig
from crosskd.spec.weights.shapes import backbone_shapes

ALL = [name for name, entry in registry.BACKBONES.items() if entry.family in ("rt_detr_resnet", "hgnet_v2")]
SMALLEST = 8  # a width


@pytest.mark.parametrize("name", ALL)
def test_the_table_is_the_librarys_state_dict_at_any_width(name: str) -> None:
    entry = registry.BACKBONES[name]
    for width in (entry.width, math.ceil(SMALLEST / entry.divisor) * entry.divisor):
        config = BackboneConfig(name=name, width=width)
        with torch.device("meta"):
            real = LibraryBackbone(config)
        told = {key: tuple(tensor.shape) for key, tensor in real.state_dict().items()}
        assert list(backbone_shapes(config).items()) == list(told.items())
        assert config.frozen_stages == -1


@pytest.mark.parametrize("name", sorted(HGNETS))
def test_timm_counts_as_many_parameters(name: str) -> None:
    """It has the same networks, written by others."""
    shapes = backbone_shapes(BackboneConfig(name=name))
    counted = sum(math.prod(shape) for key, shape in shapes.items() if "running" not in key and "batches" not in key)
    assert counted == registry.BACKBONES[f"timm/{name.replace('hgnet_v2', 'hgnetv2')}"].parameters


@pytest.mark.parametrize("name", ["hgnet_v2_b0", "rt_detr_resnet18"])
def test_maps_stages_and_pixels_are_as_with_other_backbones(name: str) -> None:
    backbone = LibraryBackbone(BackboneConfig(name=name, width=SMALLEST, frozen_stages=1, norm_eval=True)).train()
    maps = backbone(torch.randn(2, 3, 65, 97))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (channels, *cells)
        for channels, cells in zip(backbone.channels, [(17, 25), (9, 13), (5, 7), (3, 4)], strict=True)
    ]
    idle = {key.split(".")[0] for key, value in backbone.named_parameters() if not value.requires_grad}
    assert idle == {"embedder", "encoder"}
    assert len(backbone.stages()) == 5
    model = ModelConfig.model_validate({"backbone": {"name": name}})
    assert (model.pixels.mean, model.pixels.std) == ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def test_a_width_is_whole_and_the_library_is_told_to_be_missing() -> None:
    assert settings_of("hgnet_v2_b0", 8)["stage_out_channels"] == [32, 128, 256, 512]
    with pytest.raises(ValueError, match="multiple of 8"):
        BackboneConfig(name="hgnet_v2_b2", width=12)
    missing = ModuleNotFoundError("No module named 'transformers'", name="transformers")
    with (
        mock.patch("crosskd.backbones.library.import_module", side_effect=missing),
        pytest.raises(ConfigError, match="needs the transformers package"),
    ):
        LibraryBackbone(BackboneConfig(name="hgnet_v2_b0"))
