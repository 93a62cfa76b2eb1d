"""The Focus stem: which pixel becomes which channel, and sides that are odd."""

from __future__ import annotations

import pytest
import torch

from crosskd.backbones.csp import darknet
from crosskd.backbones.csp_darknet import CSPDarknet, Focus
from crosskd.spec.config import BackboneConfig


def test_four_pixels_become_one_cell_column_by_column() -> None:
    focus = Focus(1, 4, darknet(depthwise=False)).eval()
    with torch.no_grad():
        focus.conv.conv.weight.zero_()
        for channel in range(4):
            focus.conv.conv.weight[channel, channel, 1, 1] = (1 + focus.conv.bn.eps) ** 0.5  # as the norm found it
        out = focus(torch.tensor([[[[1.0, 3.0], [2.0, 4.0]]]]))
    torch.testing.assert_close(out.flatten(), torch.nn.functional.silu(torch.tensor([1.0, 2.0, 3.0, 4.0])))


@pytest.mark.parametrize("name", ["cspdarknet_nano", "cspdarknet_tiny"])
def test_odd_sides_are_rounded_up_as_those_of_other_backbones(name: str) -> None:
    backbone = CSPDarknet(BackboneConfig(name=name, width=8)).eval()
    maps = backbone(torch.randn(1, 3, 65, 131))
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 17, 33), (32, 9, 17), (64, 5, 9), (128, 3, 5)]
    assert {norm.eps for norm in backbone.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {1e-3}
