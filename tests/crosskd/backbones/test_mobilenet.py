"""The backbone is torchvision's MobileNetV2, without what serves the classifier alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import mobilenetv2
from torchvision.models.feature_extraction import create_feature_extractor

from crosskd.backbones.mobilenet import MobileNetV2
from crosskd.errors import ConfigError
from crosskd.spec.config import BackboneConfig

STAGES = [range(1), range(1, 4), range(4, 7), range(7, 14), range(14, 18)]  # places in `features`


def small(**more: object) -> MobileNetV2:
    return MobileNetV2(BackboneConfig.model_validate({"name": "mobilenet_v2", "width": 8, **more}))


@pytest.mark.parametrize("width", [8, 32, 48])
def test_it_computes_what_torchvision_computes_with_the_same_state(width: int) -> None:
    torch.manual_seed(0)
    theirs = mobilenetv2.MobileNetV2(width_mult=width / 32).eval()
    ours = small(width=width, init="random").eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    images = torch.randn(1, 3, 64, 96)
    ends = [f"features.{stage[-1]}" for stage in STAGES[1:]]
    with torch.no_grad():
        expected = create_feature_extractor(theirs, ends)(images)
        maps = ours(images)
    for end, features in zip(ends, maps, strict=True):
        torch.testing.assert_close(features, expected[end])
    assert [m.shape[1] for m in maps] == list(ours.channels)


def test_the_maps_have_the_strides_that_are_promised() -> None:
    maps = small()(torch.randn(1, 3, 100, 132))
    assert [tuple(m.shape[2:]) for m in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize("frozen", [-1, 0, 2, 4])
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(frozen: int) -> None:
    model = small(frozen_stages=frozen).train()
    held = {place for stage in STAGES[: frozen + 1] for place in stage}
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    out = model(torch.randn(2, 3, 64, 64))[-1].sum()
    if out.requires_grad:
        out.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (int(name.split(".")[1]) in held), name
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name]) == (int(name.split(".")[1]) in held), name


def test_norm_eval_and_norm_frozen_hold_every_batch_norm() -> None:
    frozen, still = (
        [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for model in (
            small(norm_frozen=True).train(),
            small(norm_eval=True).train(),
        )
    )
    assert len(frozen) == len(still) == 51
    assert not any(m.training or m.weight.requires_grad for m in frozen)
    assert all(m.weight.requires_grad and not m.training for m in still)


def test_one_value_for_a_batch_norm_to_learn_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="one image of 32 x 32 pixels"):
        small().train()(torch.randn(1, 3, 32, 32))
