"""Swin Transformer (arXiv 2103.14030) as a feature extractor: torchvision's blocks and parameter names."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer

from crosskd.backbones import pretrained
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

PATCH = 4
WINDOW = 7
HEADS = (3, 6, 12, 24)
STAGES = 4
NORMED = (1, 2, 3)  # stages, counted from 0, whose maps go to the pyramid: C3, C4, C5


class Swin(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: the patch embedding; stages: the blocks of
    one resolution and the patch merging behind them.

    C3, C4 and C5 pass a layer norm each (`norms.1` to `norms.3`), which a classifier does not have, and which begins
    as the identity of a normalised map. Drop path grows linearly from 0 at the first block to `drop_path` at the last;
    it is drawn from torch's generator, one number per image and branch.
    Images are padded to whole patches, maps inside the blocks to whole windows. Unlike the authors' code, torchvision
    does not shift windows along a side of at most one window, which concerns maps of 7 cells or fewer.
    """

    unused = ("head.", "norm.")
    own = ("norms.",)

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        whole = SwinTransformer(
            patch_size=[PATCH, PATCH],
            embed_dim=self.channels[0],
            depths=list(registry.BACKBONES[config.name].layers),
            num_heads=list(HEADS),
            window_size=[WINDOW, WINDOW],
            stochastic_depth_prob=config.drop_path or 0.0,
        )
        self.features: nn.Sequential = whole.features
        self.norms = nn.ModuleDict({str(stage): nn.LayerNorm(self.channels[stage]) for stage in NORMED})
        if load:
            pretrained.load(self, config, unused=self.unused, own=self.own)
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        norms = [[self.norms[str(stage)]] if stage in NORMED else [] for stage in range(STAGES)]
        return [[self.features[0]], *([*self.features[1 + 2 * i : 3 + 2 * i], *norms[i]] for i in range(STAGES))]

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        x = self.features[0](F.pad(images, (0, -width % PATCH, 0, -height % PATCH)))  # [N, H / 4, W / 4, C]
        maps = []
        for stage in range(STAGES):
            if stage:
                x = self.features[2 * stage](x)
            x = self.features[1 + 2 * stage](x)
            out = self.norms[str(stage)](x) if stage in NORMED else x
            maps.append(out.permute(0, 3, 1, 2).contiguous())
        return maps
