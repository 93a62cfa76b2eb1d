"""The backbone is torchvision's ResNet, with its weights, and frozen where it says so."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from crosskd.backbones import pretrained
from crosskd.backbones.resnet import ResNet
from crosskd.config import BackboneConfig
from crosskd.errors import ConfigError, WeightsError

LAYERS = ["layer1", "layer2", "layer3", "layer4"]


def tiny(**more: object) -> ResNet:
    return ResNet(BackboneConfig.model_validate({"name": "resnet_tiny", "width": 8, **more}))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_it_computes_what_torchvision_computes_with_the_same_state(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    ours = ResNet(BackboneConfig(name=name, init="random")).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, LAYERS)(images)
        for level, features in zip(LAYERS, ours(images), strict=True):
            torch.testing.assert_close(features, expected[level])


def test_the_maps_have_the_channels_and_strides_that_are_promised() -> None:
    model = tiny(width=16)
    maps = model(torch.randn(1, 3, 100, 132))
    assert [m.shape[1] for m in maps] == list(model.channels) == [16, 32, 64, 128]
    assert [tuple(m.shape[2:]) for m in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize("frozen", [-1, 0, 1, 4])
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(frozen: int) -> None:
    model = tiny(init="random", frozen_stages=frozen, norm_eval=False).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    out = model(torch.randn(2, 3, 64, 64))[-1].sum()
    if out.requires_grad:
        out.backward()
    held = {"conv1": 0, "bn1": 0, **{layer: i + 1 for i, layer in enumerate(LAYERS)}}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (held[name.partition(".")[0]] <= frozen), name
    for name, value in before.items():
        unchanged = torch.equal(value, model.state_dict()[name])
        assert unchanged == (held[name.partition(".")[0]] <= frozen), name


def test_one_value_for_a_batch_norm_to_learn_from_is_refused_with_a_remedy() -> None:
    """torch says `Expected more than 1 value per channel when training`, and no more."""
    one, two = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 64)
    with pytest.raises(ConfigError, match="one image of 32 x 32 pixels") as caught:
        tiny().train()(one)
    assert caught.value.where == "/batch_size"
    assert "norm_eval" in caught.value.remedy
    assert tiny().train()(two)[-1].shape[-2:] == (1, 2)
    assert tiny().train()(torch.cat([one, one]))[-1].shape == (2, 64, 1, 1)
    for still in (tiny().eval(), tiny(norm_eval=True).train(), tiny(frozen_stages=4).train()):
        assert still(one)[-1].shape == (1, 64, 1, 1)


def test_norm_eval_leaves_statistics_alone_and_still_learns() -> None:
    model = tiny(norm_eval=True).train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    model(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    assert model.bn1.weight.grad is not None
    assert torch.equal(model.bn1.running_mean, torch.zeros(8))  # type: ignore[arg-type]


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


def test_without_a_network_the_error_says_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(WeightsError, match=r"fetched from https://.*resnet18.*pth.*init: \{file: \.\.\.\}"):
        pretrained.load(nn.Identity(), BackboneConfig(name="resnet18"))
