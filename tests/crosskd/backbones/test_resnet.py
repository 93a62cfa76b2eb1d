"""The backbone is torchvision's ResNet, or caffe's, and frozen where it says so."""

from __future__ import annotations

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from crosskd.backbones.resnet import ResNet
from crosskd.errors import ConfigError
from crosskd.spec.config import BackboneConfig

LAYERS = ["layer1", "layer2", "layer3", "layer4"]
LEAVES = ("weight", "bias")


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


def test_a_caffe_bottleneck_strides_in_its_first_convolution() -> None:
    torch.manual_seed(0)
    model = ResNet(BackboneConfig(name="resnet50", width=8, style="caffe")).eval()
    block = model.layer2[0]
    x = torch.randn(1, 32, 9, 10)

    def norm(bn: nn.BatchNorm2d, y: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    with torch.no_grad():
        y = norm(block.bn1, F.conv2d(x, block.conv1.weight, stride=2)).relu()
        y = norm(block.bn2, F.conv2d(y, block.conv2.weight, padding=1)).relu()
        y = norm(block.bn3, F.conv2d(y, block.conv3.weight))
        shortcut = norm(block.downsample[1], F.conv2d(x, block.downsample[0].weight, stride=2))
        torch.testing.assert_close(block(x), (y + shortcut).relu())
        strides = [b.conv1.stride for stage in model.stages()[1:] for layer in stage for b in layer]
        assert strides == [(1, 1)] * 3 + [(2, 2)] + [(1, 1)] * 3 + [(2, 2)] + [(1, 1)] * 5 + [(2, 2)] + [(1, 1)] * 2
    assert [m.shape[1:] for m in model(torch.randn(1, 3, 33, 64))][-1] == (256, 2, 2)


def test_caffe_style_leaves_basic_blocks_as_they_are() -> None:
    torch.manual_seed(0)
    plain, caffe = tiny().eval(), tiny(style="caffe").eval()
    caffe.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(plain(images)[-1], caffe(images)[-1])


def test_a_wholly_frozen_batch_norm_learns_nothing_at_all() -> None:
    model = tiny(norm_frozen=True, frozen_stages=0).train()
    assert model.norm_eval
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    norms = {f"{name}.{leaf}" for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) for leaf in LEAVES}
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learns == {name for name, _ in model.named_parameters()} - norms - {"conv1.weight"}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_norm_eval_leaves_statistics_alone_and_still_learns() -> None:
    model = tiny(norm_eval=True).train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    model(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    assert model.bn1.weight.grad is not None
    assert torch.equal(model.bn1.running_mean, torch.zeros(8))  # type: ignore[arg-type]


def test_the_eps_of_every_norm_can_be_chosen() -> None:
    norms = [m for m in tiny(norm_eps=1e-3).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    assert {norm.eps for norm in tiny().modules() if isinstance(norm, nn.BatchNorm2d)} == {1e-5}
    model = tiny(norm_eps=0, norm_frozen=True).train()
    assert torch.isfinite(model(torch.randn(2, 3, 64, 64))[-1]).all()


def test_norms_that_learn_statistics_need_an_eps() -> None:
    with pytest.raises(ValidationError, match="norm_eps 0 needs norm_eval"):
        tiny(norm_eps=0)
    with pytest.raises(ValidationError, match="swin_t has no batch norm"):
        BackboneConfig(name="swin_t", init="random", norm_eps=1e-5)
