"""ResNet (arXiv 1512.03385) as a feature extractor: torchvision's blocks and parameter names, any base width."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from crosskd.backbones import pretrained
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig

STAGES = 4


class ResNet(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: conv1 and bn1; stages: layer1..layer4.

    In caffe's style, the original one, a bottleneck strides in its first 1 x 1 convolution; in PyTorch's in the
    3 x 3 one behind it. Names and shapes are the same, the weights of the one are of no use to the other.
    """

    unused = ("fc.",)

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        entry = registry.BACKBONES[config.name]
        width = self.channels[0] if entry.block == "basic" else self.channels[0] // Bottleneck.expansion
        block = BasicBlock if entry.block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels = width
        for stage, count in enumerate(entry.layers):
            layer = _stage(block, in_channels, width * 2**stage, count, stride=1 if stage == 0 else 2)
            if config.style == "caffe":
                _stride_first(layer[0])
            self.add_module(f"layer{stage + 1}", layer)
            in_channels = self.channels[stage]
        self._initialise()
        if load:
            pretrained.load(self, config, unused=self.unused)
        self.freeze()

    def _initialise(self) -> None:
        """He initialisation, as torchvision does it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], *([self.get_submodule(f"layer{i + 1}")] for i in range(STAGES))]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.require_statistics(images)
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in range(STAGES):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            features.append(x)
        return features


def _stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, planes: int, count: int, *, stride: int
) -> nn.Sequential:
    out_channels = planes * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    first = block(in_channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out_channels, planes) for _ in range(count - 1)))


def _stride_first(block: nn.Module) -> None:
    """Caffe's bottleneck: the stride moves from the 3 x 3 convolution to the 1 x 1 before it."""
    if isinstance(block, Bottleneck):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
