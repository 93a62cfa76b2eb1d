"""Vision transformers with windows: their windows, their weights, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from crosskd.backbones.vit import WindowedViT
from crosskd.errors import WeightsError
from crosskd.spec.backbones.vit import VITS
from crosskd.spec.config import BackboneConfig

VIT: dict[str, Any] = {"width": 16, "heads": 2, "windows": 2, "patch": 4, "image_side": 16, "maps": [1, 2]}


def build(name: str, *, init: Any = None, **sizes: Any) -> WindowedViT:
    torch.manual_seed(0)
    config = BackboneConfig.model_validate({"name": name, "vit": {**VIT, **sizes}, "init": init})
    return WindowedViT(config).eval()


@pytest.mark.parametrize("name", VITS)
def test_maps_have_a_cell_for_each_patch(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        maps = model(torch.randn(2, 3, 16, 32))
    assert [tuple(x.shape) for x in maps] == [(2, 16, 4, 8)] * 2
    assert model.channels == (16, 16)


def test_a_window_of_rf_detr_is_a_rectangle_of_patches_also_where_an_image_is_no_square() -> None:
    """The library's own takes as many rows as a window has columns: its maps then lie in other places."""
    net = build("rf_detr_dinov2").net
    places = torch.cartesian_prod(torch.arange(4), torch.arange(8)).float()  # row and column of each patch
    tokens = torch.cat((torch.full((1, 2), -1.0), places))[None]
    windows = net.embeddings.window_partition(tokens, 16, 32)[:, 1:]
    assert [window.amin(0).tolist() for window in windows] == [[0, 0], [0, 4], [2, 0], [2, 4]]
    assert [window.amax(0).tolist() for window in windows] == [[1, 3], [1, 7], [3, 3], [3, 7]]
    assert torch.equal(net.window_unpartition(windows, 16, 32).reshape(-1, 2), places)


@pytest.mark.parametrize("name", VITS)
def test_a_file_by_the_librarys_names_is_read_and_blocks_that_nobody_needs_are_left(name: str, tmp_path: Path) -> None:
    longer = build(name, maps=[1, 2, 3])
    path = tmp_path / "backbone.safetensors"
    save_file({**longer.net.state_dict(), "embeddings.mask_token": torch.zeros(1, 16)}, path)
    model = build(name, init={"file": str(path)}, maps=[1, 2])
    given = longer.net.state_dict()
    assert all(torch.equal(value, given[key]) for key, value in model.net.state_dict().items())
    with pytest.raises(WeightsError, match="position_embeddings is"):
        build(name, init={"file": str(path)}, image_side=32)
    with pytest.raises(WeightsError, match=f"Use weights of {name} of transformers"):
        build(name, init={"file": str(path)}, maps=[4])


@pytest.mark.parametrize(
    ("name", "section", "place", "match"),
    [
        ("lw_detr_vit", {"width": 20}, "width", "multiple of 8"),
        ("lw_detr_vit", {"width": 2048}, "width", "less than or equal to 1024"),
        ("lw_detr_vit", {"heads": 5}, "heads", "no multiple of heads"),
        ("lw_detr_vit", {"maps": []}, "maps", "at least 1"),
        ("lw_detr_vit", {"maps": [2, 2]}, "maps", "each map once"),
        ("lw_detr_vit", {"maps": [0]}, "maps", "greater than or equal to 1"),
        ("lw_detr_vit", {"maps": [25]}, "maps", "less than or equal to 24"),
        ("lw_detr_vit", {"maps": [1, 2], "window_blocks": [2]}, "window_blocks", "numbers from 0 to 1"),
        ("lw_detr_vit", {"patch": 16, "image_side": 8}, "image_side", "less than a patch of 16 pixels"),
        ("lw_detr_vit", {"windows": 0}, "windows", "greater than or equal to 1"),
        ("lw_detr_vit", {"mask": True}, "mask", "Extra inputs"),
        ("rf_detr_dinov2", {"window_blocks": [0]}, "window_blocks", "whose number is not in `maps`"),
        ("resnet18", {"patch": 8}, "", "leave it out for resnet18"),
        ("lw_detr_vit", [1], "", "valid dictionary"),
    ],
)
def test_sizes_out_of_bounds_are_refused_at_their_place(name: str, section: Any, place: str, match: str) -> None:
    with pytest.raises(ValidationError, match=match) as caught:
        BackboneConfig.model_validate({"name": name, "vit": section})
    assert caught.value.errors()[0]["loc"][:2] == (("vit", place) if place else ("vit",))


def test_defaults_are_the_backbones_own_and_nothing_of_it_can_be_frozen() -> None:
    small, dino = (BackboneConfig.model_validate({"name": name}).vit for name in ("lw_detr_vit", "rf_detr_dinov2"))
    assert small is not None
    assert dino is not None
    assert (small.width, small.blocks, small.step) == (192, 9, 64)
    assert (dino.width, dino.blocks, dino.step) == (384, 11, 56)
    with pytest.raises(ValidationError, match="names no stages"):
        BackboneConfig.model_validate({"name": "lw_detr_vit", "frozen_stages": 1})
    with pytest.raises(ValidationError, match="one width"):
        BackboneConfig.model_validate({"name": "lw_detr_vit", "width": 64})
