"""A backbone's first weights: from a file, or from where they are published."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import resnet18
from torchvision.models.swin_transformer import SwinTransformer

from crosskd.backbones import pretrained
from crosskd.backbones.resnet import ResNet
from crosskd.errors import WeightsError
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

SWIN = {"patch_size": [4, 4], "embed_dim": 24, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
OURS = [name for name, entry in registry.BACKBONES.items() if entry.family not in ("timm", "vit")]


def tiny(**more: object) -> ResNet:
    return ResNet(BackboneConfig.model_validate({"name": "resnet_tiny", "width": 8, **more}))


def build(**config: Any) -> Any:
    checked = BackboneConfig.model_validate(config)
    return registry.load(registry.BACKBONES[checked.name].target)(checked)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_it_starts_from_a_file_of_torchvision_names(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    state = {**tiny().state_dict(), "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"backbone.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    model = tiny(init={"file": str(path)})
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert model.frozen_stages == 1


def test_every_tensor_of_another_shape_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save(tiny(width=16).state_dict(), path)
    with pytest.raises(WeightsError) as caught:
        tiny(init={"file": str(path)})
    assert "conv1.weight is [16, 3, 7, 7], the model has [8, 3, 7, 7]" in str(caught.value)
    assert "layer4.0.conv2.weight is" in str(caught.value)


def test_a_file_of_another_depth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    state = tiny().state_dict()
    del state["layer4.0.conv2.weight"]
    torch.save({**state, "layer4.1.conv1.weight": torch.zeros(1)}, path)
    message = r"1 tensors are missing \['layer4.0.conv2.weight'\] and 1 are unknown"
    with pytest.raises(WeightsError, match=message) as caught:
        tiny(init={"file": str(path)})
    assert caught.value.where == "/student/backbone/init"


@pytest.mark.parametrize(
    ("config", "classifier"),
    [
        ({"name": "resnet18"}, resnet18),
        ({"name": "mobilenet_v2", "width": 8}, lambda: MobileNetV2(width_mult=0.25)),
        ({"name": "swin_t", "width": 24}, lambda: SwinTransformer(**SWIN, window_size=[7, 7])),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_torchvisions_classifier_fills_the_whole_backbone(
    tmp_path: Path, config: dict[str, Any], classifier: Any
) -> None:
    theirs = classifier()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    path = tmp_path / "classifier.pth"
    torch.save(theirs.state_dict(), path)
    state, ours = theirs.state_dict(), build(**config, init={"file": str(path)}).state_dict()
    own = {"norms.1.weight", "norms.1.bias", "norms.2.weight", "norms.2.bias", "norms.3.weight", "norms.3.bias"}
    assert ours.keys() - state.keys() == (own if config["name"] == "swin_t" else set())
    assert all(torch.equal(value, state[name]) for name, value in ours.items() if name in state)


def test_a_file_may_bring_swins_own_norms(tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in build(name="swin_t", width=24).state_dict().items()}
    torch.save(state, tmp_path / "swin.pth")
    filled = build(name="swin_t", width=24, init={"file": str(tmp_path / "swin.pth")})
    assert torch.equal(filled.norms["3"].weight, torch.full((192,), 2.0))


@pytest.mark.parametrize("name", OURS)
def test_imagenet_is_offered_where_torchvision_has_it(name: str) -> None:
    if registry.BACKBONES[name].weights:
        assert "IMAGENET1K_V1" in get_model_weights(name).__members__
        assert BackboneConfig(name=name).init == "imagenet"
    else:
        assert BackboneConfig(name=name).init == "random"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "swin_t"])
def test_without_a_network_the_error_says_where_the_file_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(WeightsError, match=rf"fetched from https://.*{name}.*pth.*init: \{{file: \.\.\.\}}") as caught:
        pretrained.load(nn.Identity(), BackboneConfig(name=name))
    file = get_model_weights(name)["IMAGENET1K_V1"].url.rpartition("/")[2]
    assert caught.value.remedy.startswith(f"Fetch {file} from https://")
    assert f"put it into {tmp_path}/hub/checkpoints on the machine that trains" in caught.value.remedy
