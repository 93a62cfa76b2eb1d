"""The backbone is torchvision's Swin-T, with a layer norm behind each stage that goes to the pyramid."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import StochasticDepth

from crosskd.backbones.swin import Swin
from crosskd.engine.random_state import random_state, restore_random_state
from crosskd.spec.config import BackboneConfig

ENDS = ["features.1", "features.3", "features.5", "features.7"]


def small(**more: object) -> Swin:
    return Swin(BackboneConfig.model_validate({"name": "swin_t", "width": 24, **more}))


def test_it_computes_what_torchvision_computes_with_the_same_state_and_then_norms() -> None:
    torch.manual_seed(0)
    theirs = SwinTransformer([4, 4], 24, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7]).eval()
    ours = small().eval()
    state = {name: value for name, value in theirs.state_dict().items() if name.startswith("features.")}
    assert not ours.load_state_dict(state, strict=False).unexpected_keys
    for norm in ours.norms.values():
        torch.nn.init.normal_(norm.weight)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, ENDS)(images)
        maps = ours(images)
        torch.testing.assert_close(maps[0], expected[ENDS[0]].permute(0, 3, 1, 2))
        for stage in (1, 2, 3):
            norm = ours.norms[str(stage)]
            wanted = F.layer_norm(expected[ENDS[stage]], (24 * 2**stage,), norm.weight, norm.bias)
            torch.testing.assert_close(maps[stage], wanted.permute(0, 3, 1, 2))


def test_any_image_size_works_and_padding_to_whole_patches_is_with_zeros() -> None:
    torch.manual_seed(0)
    model = small().eval()
    images = torch.randn(1, 3, 98, 131)
    maps = model(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 25, 33), (48, 13, 17), (96, 7, 9), (192, 4, 5)]
    assert list(model.channels) == [24, 48, 96, 192]
    for got, padded in zip(maps, model(F.pad(images, (0, 1, 0, 2))), strict=True):
        assert torch.equal(got, padded)


def test_drop_path_grows_to_the_published_rate_and_follows_the_generator() -> None:
    model = small()
    rates = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])
    images = torch.randn(4, 3, 64, 64)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(images)[-1]

    model.train()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    model.eval()
    assert torch.equal(draw(1), draw(2))
    still = small(drop_path=0.0).train()
    assert torch.equal(still(images)[-1], still(images)[-1])


@pytest.mark.parametrize("frozen", [-1, 0, 2, 4])
def test_frozen_stages_have_no_gradient_and_drop_no_path(frozen: int) -> None:
    model = small(frozen_stages=frozen).train()
    out = torch.stack([m.sum() for m in model(torch.randn(1, 3, 64, 64))]).sum()
    if out.requires_grad:
        out.backward()
    for name, parameter in model.named_parameters():
        kind, place = name.split(".")[:2]
        stage = int(place) + 1 if kind == "norms" else (int(place) + 1) // 2  # merging belongs to the stage before it
        assert (parameter.grad is None) == (stage <= frozen), name
    for place, module in enumerate(model.features):
        assert module.training == ((place + 1) // 2 > frozen)


def test_what_a_checkpoint_keeps_of_the_generators_brings_the_same_paths_back() -> None:
    model, images = small(drop_path=0.5).train(), torch.randn(2, 3, 64, 64)
    kept = random_state()
    with torch.no_grad():
        steps = [model(images)[-1] for _ in range(3)]
        assert not torch.equal(steps[0], steps[1])
        restore_random_state(kept)
        assert all(torch.equal(model(images)[-1], step) for step in steps)
