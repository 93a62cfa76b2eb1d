"""CSPDarknet, YOLOX's backbone (arXiv 2107.08430), as a feature extractor: MMDetection's parameter names, any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.backbones.csp import ConvNormAct, Style, darknet
from crosskd.backbones.csp_stages import CSPBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig


class Focus(nn.Module):
    """Each 2 x 2 pixels become one cell of four times the channels, then a convolution: stride 2.

    The upper left pixels come first, then the lower left, the upper right and the lower right ones. Behind an odd
    side, which no padded image has by default, stands one more row or column of zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * in_channels, out_channels, 3, norm=style.norm)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        corners = [x[..., down::2, right::2] for right in (0, 1) for down in (0, 1)]
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out


class CSPDarknet(CSPBackbone):
    """Stem: `Focus`. Of nano the convolutions of 3 x 3 cells come in two steps."""

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        style = darknet(depthwise=registry.BACKBONES[config.name].depthwise)
        self.build(config, Focus(3, self.channels[0] // 2, style), style, attention=False, load=load)
