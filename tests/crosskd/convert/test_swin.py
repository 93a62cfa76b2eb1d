"""Swin in MMDetection's form: names, and the order of the channels that patch merging puts side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import PatchMerging

from crosskd.convert.formats import from_native, to_native
from crosskd.convert.swin import from_mmdet, to_mmdet
from crosskd.detectors.detector import Detector, build_detector
from crosskd.spec.config import BackboneConfig, ModelConfig

CHANNELS = 6


def expected_names() -> set[str]:
    """The backbone's entries of a Swin-T with outputs 1, 2, 3, as MMDetection's modules are nested."""
    affine, linear = ("weight", "bias"), ("norm1", "norm2", "ffn.layers.0.0", "ffn.layers.1")
    names = {f"patch_embed.{part}.{kind}" for part in ("projection", "norm") for kind in affine}
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            inside = [f"{part}.{kind}" for part in linear for kind in affine]
            inside += [f"attn.w_msa.{part}.{kind}" for part in ("qkv", "proj") for kind in affine]
            inside += [f"attn.w_msa.relative_position_{part}" for part in ("bias_table", "index")]
            names |= {f"stages.{stage}.blocks.{block}.{name}" for name in inside}
        if stage < 3:
            names |= {f"stages.{stage}.downsample.{name}" for name in ("norm.weight", "norm.bias", "reduction.weight")}
    return names | {f"norm{stage}.{kind}" for stage in (1, 2, 3) for kind in affine}


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(1)
    config = ModelConfig.model_validate(
        {
            "detector": "retinanet",
            "backbone": BackboneConfig(name="swin_t", width=24, init="random"),
            "neck": {"channels": 16, "p6_from": "c5"},
            "head": {"channels": 16, "depth": 1},
        }
    )
    model = build_detector(config, 3, pretrained=False)
    with torch.no_grad():
        for parameter in model.backbone.parameters():  # also the affine parts of norms, which begin as the identity
            parameter.normal_(std=0.1)
    return model


def test_the_names_are_mmdetections(detector: Detector) -> None:
    written = from_native(detector.state_dict(), "mmdet", detector.config)
    backbone = {name.removeprefix("backbone.") for name in written if name.startswith("backbone.")}
    assert backbone == expected_names()
    assert written["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"].shape == (49, 49)
    assert {"neck.fpn_convs.3.conv.weight", "bbox_head.retina_cls.weight"} < written.keys()


def test_there_and_back_is_the_identity(detector: Detector) -> None:
    state = detector.state_dict()
    written = from_native(state, "mmdet", detector.config)
    back = to_native(written, "mmdet", detector.config)
    assert back.unexpected == []
    assert back.state.keys() == state.keys()
    assert all(torch.equal(back.state[name], tensor) for name, tensor in state.items())
    again = from_native(back.state, "mmdet", detector.config)
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items())


class UnfoldMerging(nn.Module):
    """Patch merging as MMDetection's documentation has it: `nn.Unfold` gathers the cells; norm, reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * CHANNELS)
        self.reduction = nn.Linear(4 * CHANNELS, 2 * CHANNELS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H / 2, W / 2, 2 C], padded at the bottom and on the right to even sides."""
        height, width = x.shape[1:3]
        maps = F.pad(x.permute(0, 3, 1, 2), (0, width % 2, 0, height % 2))
        cells = nn.Unfold(kernel_size=2, stride=2)(maps).transpose(1, 2)  # [N, L, 4 C]
        merged: Tensor = self.reduction(self.norm(cells))
        return merged.reshape(len(x), -(-height // 2), -(-width // 2), 2 * CHANNELS)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 2)])
def test_reordered_weights_merge_patches_to_the_same_numbers(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    theirs = UnfoldMerging().double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours = PatchMerging(CHANNELS).double()
    prefix = "backbone.features.2."
    state = {name: from_mmdet(prefix + name, tensor) for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, *size, CHANNELS, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    # And it is the order that does it.
    ours.load_state_dict(theirs.state_dict())
    assert not torch.allclose(ours(x), theirs(x), atol=0.1)
    for name, tensor in state.items():
        assert torch.equal(to_mmdet(prefix + name, tensor), theirs.state_dict()[name])


def test_only_what_merging_reads_is_reordered() -> None:
    channels = torch.arange(8.0)
    for name in ("backbone.features.1.0.norm1.weight", "backbone.features.0.2.bias", "backbone.norms.1.weight"):
        assert from_mmdet(name, channels) is channels
    # Two channels, cells row by row -> cells column by column, two channels each.
    assert from_mmdet("backbone.features.4.norm.bias", channels).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


def test_a_tensor_of_an_impossible_shape_is_left_to_the_check_of_shapes() -> None:
    for shape in ((7,), ()):
        assert from_mmdet("backbone.features.2.norm.weight", torch.zeros(shape)).shape == shape
