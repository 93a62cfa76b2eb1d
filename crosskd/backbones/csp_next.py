"""CSPNeXt (arXiv 2212.07784), RTMDet's backbone, as a feature extractor: MMDetection's parameter names, any width."""

from __future__ import annotations

from torch import nn

from crosskd.backbones.csp import CSPNEXT, ConvNormAct
from crosskd.backbones.csp_stages import CSPBackbone
from crosskd.spec.config import BackboneConfig


class CSPNeXt(CSPBackbone):
    """Stem: three convolutions. Its layers weigh their channels."""

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        width = self.channels[0] // 2
        stem = nn.Sequential(
            ConvNormAct(3, width // 2, 3, stride=2),
            ConvNormAct(width // 2, width // 2, 3),
            ConvNormAct(width // 2, width, 3),
        )
        self.build(config, stem, CSPNEXT, attention=True, load=load)
