"""Names and shapes of a detector's tensors, from its configuration alone. Imports no torch.

With it a weights file's header is checked, and a model's size told, where torch is not installed. A test holds
it against real detectors.
"""

from __future__ import annotations

import math

from crosskd import registry
from crosskd.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "bins")
_SIDES = 4
_LATERAL = 3


def expected_shapes(model: ModelConfig, num_classes: int) -> Shapes:
    """Exactly the names and shapes of `Detector.state_dict()`, in its order."""
    entry = registry.BACKBONES[model.backbone.name]
    width = model.backbone.width or entry.width
    shapes = {f"backbone.{name}": shape for name, shape in _resnet(entry, width).items()}
    channels = model.neck.channels
    for i, entering in enumerate(entry.channels(width)[-_LATERAL:]):
        shapes |= _conv(f"neck.lateral.{i}", entering, channels, 1)
    for i in range(len(model.strides)):
        shapes |= _conv(f"neck.output.{i}", channels, channels, 3)
    return shapes | _head(model, num_classes)


def parameter_count(model: ModelConfig, num_classes: int) -> int:
    """Number of parameters, without the statistics of batch norm and without constants."""
    shapes = expected_shapes(model, num_classes)
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_STATISTICS))


def _head(model: ModelConfig, num_classes: int) -> Shapes:
    head = model.head
    shapes: Shapes = {"head.bins": (head.reg_max + 1,)}
    entering = model.neck.channels
    for tower in ("cls_tower", "box_tower"):
        entering = model.neck.channels
        for i in range(head.depth):
            shapes |= _conv(f"head.{tower}.{i}.conv", entering, head.channels, 3, bias=False)
            shapes |= _affine(f"head.{tower}.{i}.norm", head.channels)
            entering = head.channels
    shapes |= _conv("head.cls", entering, num_classes, 3)
    shapes |= _conv("head.box", entering, _SIDES * (head.reg_max + 1), 3)
    return shapes | {f"head.scales.{i}": () for i in range(len(model.strides))}


def _resnet(entry: registry.Backbone, width: int) -> Shapes:
    shapes = _conv("conv1", 3, width, 7, bias=False) | _batch_norm("bn1", width)
    entering = width
    for stage, count in enumerate(entry.layers):
        planes, leaving = width * 2**stage, entry.channels(width)[stage]
        for i in range(count):
            name = f"layer{stage + 1}.{i}"
            shapes |= _block(name, entering, planes, leaving, bottleneck=entry.block == "bottleneck")
            if entering != leaving or (i == 0 and stage > 0):  # the first block of later stages also strides
                shapes |= _conv(f"{name}.downsample.0", entering, leaving, 1, bias=False)
                shapes |= _batch_norm(f"{name}.downsample.1", leaving)
            entering = leaving
    return shapes


def _block(name: str, entering: int, planes: int, leaving: int, *, bottleneck: bool) -> Shapes:
    convs = [(entering, planes, 1), (planes, planes, 3), (planes, leaving, 1)]
    if not bottleneck:
        convs = [(entering, planes, 3), (planes, leaving, 3)]
    shapes: Shapes = {}
    for i, (a, b, kernel) in enumerate(convs, start=1):
        shapes |= _conv(f"{name}.conv{i}", a, b, kernel, bias=False) | _batch_norm(f"{name}.bn{i}", b)
    return shapes


def _conv(name: str, entering: int, leaving: int, kernel: int, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (leaving, entering, kernel, kernel)}
    return shapes | ({f"{name}.bias": (leaving,)} if bias else {})


def _affine(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _batch_norm(name: str, channels: int) -> Shapes:
    statistics: Shapes = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return _affine(name, channels) | statistics | {f"{name}.num_batches_tracked": ()}
