"""A model of the timm package as a backbone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from crosskd.backbones.timm_features import TimmFeatures
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec import registry
from crosskd.spec.backbones.registry import timm_version
from crosskd.spec.config import BackboneConfig
from tests.support import small

# One for each kind of extractor that timm has, one with the channels last, one without batch norm.
NAMES = ["test_resnet", "test_efficientnet", "test_convnext", "test_mambaout", "test_nfnet"]


def backbone(name: str = "test_resnet", **more: Any) -> TimmFeatures:
    return TimmFeatures(BackboneConfig.model_validate({"name": f"timm/{name}", "init": "random", **more}))


@pytest.mark.parametrize("name", NAMES)
def test_the_maps_have_the_channels_and_strides_that_are_promised(name: str) -> None:
    model = backbone(name).train()
    maps = model(torch.randn(2, 3, 96, 128))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, 96 // stride, 128 // stride) for channels, stride in zip(model.channels, (8, 16, 32), strict=True)
    ]
    assert len(model.channels) == 3
    torch.stack([m.sum() for m in maps]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_whole_classifier_fills_the_features(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    for parameter in whole.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    model = backbone(name, init={"file": str(tmp_path / "whole.pth")}).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        for features in model(images):
            same = [map_ for map_ in expected if map_.shape == features.shape]
            assert any(torch.allclose(features, map_, rtol=1e-4, atol=1e-5) for map_ in same)


def test_a_file_of_the_features_alone_or_of_our_own_backbone_fills_them_too(tmp_path: Path) -> None:
    first = backbone("test_convnext")
    torch.save(first.state_dict(), tmp_path / "ours.pth")
    torch.save(first.net.state_dict(), tmp_path / "features.pth")
    for file in ("ours.pth", "features.pth"):
        second = backbone("test_convnext", init={"file": str(tmp_path / file)})
        assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(backbone("test_nfnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"does not fit timm/test_convnext.*are missing") as caught:
        backbone("test_convnext", init={"file": str(tmp_path / "other.pth")})
    assert "timm's test_convnext" in caught.value.remedy


def test_batch_norm_is_held_as_in_any_backbone() -> None:
    norms = [m for m in backbone(norm_frozen=True).train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training or m.weight.requires_grad for m in norms)
    with pytest.raises(ConfigError, match="one image of 32 x 32 pixels"):
        backbone().train()(torch.randn(1, 3, 32, 32))
    assert backbone("test_nfnet").train()(torch.randn(1, 3, 32, 32))[-1].shape[-2:] == (1, 1)


def test_parameters_that_no_map_depends_on_ask_for_no_gradient() -> None:
    model = backbone("hrnet_w18_small").train()
    torch.autograd.backward([m.sum() for m in model(torch.randn(2, 3, 64, 64))])
    idle = registry.BACKBONES["timm/hrnet_w18_small"].unused_parameters
    assert idle
    for name, parameter in model.net.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == (name not in idle)


def test_a_detector_learns_on_it() -> None:
    model = small.detector(backbone={"name": "timm/test_efficientnet", "width": None, "init": "random"}).train()
    images, targets = small.batch()
    small.total(model(images, targets)).backward()
    gradients = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_published_weights_are_the_default_where_timm_has_them() -> None:
    assert BackboneConfig(name="timm/test_resnet").init == "imagenet"
    without = next(name for name, entry in registry.BACKBONES.items() if not entry.weights and "timm/" in name)
    assert BackboneConfig(name=without).init == "random"
    with pytest.raises(ValidationError, match="no imagenet weights"):
        BackboneConfig(name=without, init="imagenet")


def test_weights_out_of_reach_are_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(
        WeightsError, match=r"timm/test_resnet could not be fetched from .*: no route to host"
    ) as caught:
        TimmFeatures(BackboneConfig(name="timm/test_resnet"))
    assert caught.value.where == "/student/backbone/init"
    address = (
        f"https://huggingface.co/{timm.get_pretrained_cfg('test_resnet').hf_hub_id}/resolve/main/model.safetensors"
    )
    assert f"Fetch model.safetensors from {address} elsewhere and name it by `init" in caught.value.remedy
    TimmFeatures(BackboneConfig(name="timm/test_resnet"), load=False)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="timm/test_resnet needs the timm package") as caught:
        backbone()
    assert "crosskd[timm]" in caught.value.remedy


def test_a_timm_that_builds_otherwise_than_the_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.BACKBONES["timm/test_resnet"]
    monkeypatch.setitem(registry.BACKBONES, "timm/test_resnet", replace(entry, out_channels=(1, 2, 3)))
    with pytest.raises(ConfigError, match=r"says \[1, 2, 3\]") as caught:
        backbone()
    assert f"Install timm {timm_version()}" in caught.value.remedy


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"width": 32}, "has one width"),
        ({"frozen_stages": 0}, "use frozen_stages -1"),
        ({"style": "caffe"}, "has no caffe style"),
        ({"drop_path": 0.1}, "has no drop path"),
    ],
)
def test_knobs_that_it_would_not_heed_are_refused(knob: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        backbone(**knob)


def test_a_name_that_is_nearly_right_is_set_right() -> None:
    with pytest.raises(ValidationError, match=r"one of \d+ timm/\.\.\. models, such as .*timm/convnext_tiny"):
        BackboneConfig(name="timm/convnext_tini")
    with pytest.raises(ValidationError, match="unknown backbone"):
        BackboneConfig(name="timm/vit_base_patch16_224")
