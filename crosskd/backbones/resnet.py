"""ResNet (arXiv 1512.03385) as a feature extractor: torchvision's blocks and parameter names, any base width."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from crosskd import registry
from crosskd.backbones import pretrained
from crosskd.config import BackboneConfig
from crosskd.errors import ConfigError

STAGES = 4


class ResNet(nn.Module):
    """images [N, 3, H, W] -> [C2, C3, C4, C5], C_i [N, channels[i - 2], H / 2^i, W / 2^i], rounded up.

    The first `frozen_stages` stages (0: the stem alone) have no gradient and stay in evaluation mode. With
    `norm_eval` every batch norm normalises by its running statistics, also in training; its affine part learns.
    In training, a batch that leaves a batch norm one value per channel raises `ConfigError`.
    """

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__()
        entry = registry.BACKBONES[config.name]
        width = config.width or entry.width
        self.channels = entry.channels(width)
        self.frozen_stages = -1 if config.frozen_stages is None else config.frozen_stages
        self.norm_eval = bool(config.norm_eval)
        block = BasicBlock if entry.block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        entering = width
        for stage, count in enumerate(entry.layers):
            layer = _stage(block, entering, width * 2**stage, count, stride=1 if stage == 0 else 2)
            self.add_module(f"layer{stage + 1}", layer)
            entering = self.channels[stage]
        self._initialise()
        if load:
            pretrained.load(self, config)
        self._freeze()

    def _initialise(self) -> None:
        """He initialisation, as torchvision does it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, self.bn1, *(self.get_submodule(f"layer{i + 1}") for i in range(self.frozen_stages))]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in range(STAGES):
            if stage == STAGES - 1 and self.training:
                self._require_statistics(x, images)
            x = self.get_submodule(f"layer{stage + 1}")(x)
            features.append(x)
        return features

    def _require_statistics(self, x: Tensor, images: Tensor) -> None:
        """Refuse to normalise one value per channel by its own mean and deviation, as torch does with less to say.

        `x` is C4. C5 is the smallest map: where it has two values, every other one has.
        """
        count, _, height, width = x.shape
        if count * -(-height // 2) * -(-width // 2) > 1 or self.norm_eval or self.frozen_stages == STAGES:
            return
        raise ConfigError(
            f"batch norm cannot learn from one image of {images.shape[-2]} x {images.shape[-1]} pixels: "
            "C5 has a single cell",
            where="/batch_size",
            remedy="Raise batch_size or augment.short_edges, or set student.backbone.norm_eval.",
        )

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def _stage(
    block: type[BasicBlock | Bottleneck], entering: int, planes: int, count: int, *, stride: int
) -> nn.Sequential:
    leaving = planes * block.expansion
    shortcut = None
    if stride != 1 or entering != leaving:
        shortcut = nn.Sequential(
            nn.Conv2d(entering, leaving, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(leaving)
        )
    first = block(entering, planes, stride, shortcut)
    return nn.Sequential(first, *(block(leaving, planes) for _ in range(count - 1)))
