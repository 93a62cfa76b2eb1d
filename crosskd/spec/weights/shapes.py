"""Names and shapes of a detector's tensors, from its configuration alone. Imports no torch and no timm.

With it a weights file's header is checked, and a model's size told, where torch is not installed. A test holds
it against real detectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from crosskd.spec import registry
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.backbones.library import HGNET, RT_DETR_RESNET, hgnet_shapes, resnet_shapes
from crosskd.spec.backbones.registry import Backbone
from crosskd.spec.backbones.vit import vit_shapes
from crosskd.spec.detr.tensors import detr_shapes, is_alias
from crosskd.spec.model import HeadConfig, ModelConfig

Shapes = dict[str, tuple[int, ...]]

_NO_PARAMETERS = (
    "running_mean", "running_var", "num_batches_tracked", "head.bins", "relative_position_index", "points_scale"
)  # fmt: skip
_LATERAL = 3
_BACKBONE = "backbone."


class ExpectedShapes(dict[str, tuple[int, ...]]):
    """Name -> shape; `allows_unlisted(name)` says that a further name may be there, with any shape."""

    def __init__(self, shapes: Shapes, open_prefix: str | None = None) -> None:
        super().__init__(shapes)
        self.open_prefix = open_prefix

    def allows_unlisted(self, name: str) -> bool:
        return self.open_prefix is not None and name.startswith(self.open_prefix)


def expected_shapes(model: ModelConfig, num_classes: int) -> ExpectedShapes:
    """The names and shapes of `Detector.state_dict()`, in its order.

    Exactly those; but of a timm backbone, whose names timm alone knows, none: everything under `backbone.` is then
    untold, and only the neck and the head are checked by this.
    """
    backbone = model.backbone
    entry = registry.BACKBONES[backbone.name]
    out_channels = backbone.channels
    shapes = {f"{_BACKBONE}{name}": shape for name, shape in backbone_shapes(backbone).items()}
    if model.detr is not None:
        read = out_channels if backbone.vit is not None else out_channels[-_LATERAL:]
        shapes |= detr_shapes(model.detector, model.detr, num_classes, read)
        return ExpectedShapes(shapes, _BACKBONE if entry.family == "timm" else None)
    if model.two_stage:
        out_channels = entry.coarsest if model.coarsest else out_channels
        return ExpectedShapes(shapes | _region_fpn(model, out_channels) | _region_head(model, num_classes))
    shapes |= _fpn(model, out_channels) if model.neck.kind == "fpn" else _pafpn(model, out_channels)
    return ExpectedShapes(shapes | _head(model, num_classes), _BACKBONE if entry.family == "timm" else None)


def parameter_count(model: ModelConfig, num_classes: int) -> int:
    """Number of parameters, without the statistics of batch norm and without constants."""
    told = sum(math.prod(shape) for shape in parameter_shapes(model, num_classes).values())
    return told + registry.BACKBONES[model.backbone.name].parameters


def parameter_shapes(model: ModelConfig, num_classes: int) -> Shapes:
    """Of `expected_shapes` those of parameters, each once: without statistics, constants and second names."""
    shapes: Shapes = expected_shapes(model, num_classes)
    if model.detr is not None:
        shapes = {name: x for name, x in shapes.items() if not is_alias(model.detector, model.detr, name)}
    return {name: shape for name, shape in shapes.items() if not name.endswith(_NO_PARAMETERS)}


def _fpn(model: ModelConfig, out_channels: tuple[int, ...]) -> Shapes:
    channels, shapes = model.neck.channels, Shapes()
    for i, in_channels in enumerate(out_channels[-_LATERAL:]):
        shapes |= _conv(f"neck.lateral.{i}", in_channels, channels, 1)
    for i in range(len(model.strides)):
        in_channels = out_channels[-1] if i == _LATERAL and model.neck.p6_from == "c5" else channels
        shapes |= _conv(f"neck.output.{i}", in_channels, channels, 3)
    return shapes


def _pafpn(model: ModelConfig, out_channels: tuple[int, ...]) -> Shapes:
    c3, c4, c5 = out_channels[-_LATERAL:]
    neck, shapes = model.neck, Shapes()
    style = _Style(neck.kind == "yolox_pafpn", neck.depthwise)
    for i, (high, low) in enumerate(((c5, c4), (c4, c3))):
        shapes |= _conv_norm(f"neck.reduce_layers.{i}", high, low, 1)
    for i, low in enumerate((c4, c3)):
        shapes |= _csp_layer(f"neck.top_down_blocks.{i}", 2 * low, low, neck.blocks, style)
    for i, low in enumerate((c3, c4)):
        shapes |= _conv3x3(f"neck.downsamples.{i}", low, low, style)
    for i, (low, high) in enumerate(((c3, c4), (c4, c5))):
        shapes |= _csp_layer(f"neck.bottom_up_blocks.{i}", 2 * low, high, neck.blocks, style)
    for i, width in enumerate((c3, c4, c5)):
        shapes |= _conv_norm(f"neck.out_convs.{i}", width, neck.channels, 1 if style.darknet else 3)
    return shapes


def _head(model: ModelConfig, num_classes: int) -> Shapes:
    head, entry = model.head, registry.DETECTORS[model.detector]
    shapes: Shapes = {"head.bins": (head.reg_max + 1,)} if model.detector == "gfl" else {}
    in_channels = model.neck.channels
    for tower in ("cls_tower", "box_tower"):
        in_channels = model.neck.channels
        for i in range(head.depth):
            for level in range(len(model.strides)) if entry.own_convs else (None,):
                place = "" if level is None else f".{level}"
                shapes |= _tower_conv(f"head.{tower}.{i}.conv{place}", in_channels, head)
            if head.norm == "group":
                shapes |= _affine(f"head.{tower}.{i}.norm", head.channels)
            for level in range(len(model.strides) if head.norm == "batch" and not head.depthwise else 0):
                shapes |= _batch_norm(f"head.{tower}.{i}.norm.{level}", head.channels)
            in_channels = head.channels
    layers = {"cls": model.anchors_per_cell * num_classes, "box": model.anchors_per_cell * model.box_channels}
    for layer, out_channels in layers.items():
        if not entry.own_layers:
            shapes |= _conv(f"head.{layer}", in_channels, out_channels, 3)
        for level in range(len(model.strides) if entry.own_layers else 0):
            shapes |= _conv(f"head.{layer}.{level}", in_channels, out_channels, 1)
    for level in range(len(model.strides) if entry.objectness else 0):
        shapes |= _conv(f"head.objectness.{level}", in_channels, model.anchors_per_cell, 1)
    if entry.centerness:
        shapes |= _conv("head.centerness", in_channels, model.anchors_per_cell, 3)
    if entry.scales:
        shapes |= {f"head.scales.{i}": () for i in range(len(model.strides))}
    return shapes


def _tower_conv(name: str, in_channels: int, head: HeadConfig) -> Shapes:
    if not head.depthwise:
        return _conv(name, in_channels, head.channels, 3, bias=head.tower_bias)
    shapes = _conv(f"{name}.depthwise", 1, in_channels, 3, bias=False)
    shapes |= _batch_norm(f"{name}.depthwise_norm", in_channels)
    shapes |= _conv(f"{name}.pointwise", in_channels, head.channels, 1, bias=head.tower_bias)
    return shapes | _batch_norm(f"{name}.pointwise_norm", head.channels)


_POOLED = 7  # cells a side of a pooled region
_DEPTHS = {"v1": 1, "v2": 2}  # convolutions before the proposals


def _region_fpn(model: ModelConfig, out_channels: tuple[int, ...]) -> Shapes:
    assert model.regions is not None
    channels, shapes, normed = model.neck.channels, Shapes(), model.regions.version == "v2"
    for part, kernel in (("inner_blocks", 1), ("layer_blocks", 3)):
        for level, in_channels in enumerate(out_channels):
            name = f"neck.{part}.{level}"
            shapes |= _conv(f"{name}.0", in_channels if kernel == 1 else channels, channels, kernel, bias=not normed)
            shapes |= _batch_norm(f"{name}.1", channels) if normed else {}
    return shapes


def _region_head(model: ModelConfig, num_classes: int) -> Shapes:
    assert model.regions is not None
    regions, channels, shapes = model.regions, model.neck.channels, Shapes()
    for i in range(_DEPTHS[regions.version]):
        shapes |= _conv(f"head.rpn.conv.{i}.0", channels, channels, 3)
    anchors = regions.anchors_per_cell
    shapes |= _conv("head.rpn.cls_logits", channels, anchors, 1) | _conv("head.rpn.bbox_pred", channels, 4 * anchors, 1)
    pooled = channels * _POOLED**2
    if regions.version == "v1":
        shapes |= _linear("head.region.fc6", pooled, regions.channels)
        shapes |= _linear("head.region.fc7", regions.channels, regions.channels)
    else:
        for i in range(4):
            shapes |= _conv(f"head.region.{i}.0", channels, channels, 3, bias=False)
            shapes |= _batch_norm(f"head.region.{i}.1", channels)
        shapes |= _linear("head.region.5", pooled, regions.channels)  # behind the flattening
    return (
        shapes
        | _linear("head.cls", regions.channels, num_classes + 1)
        | _linear("head.box", regions.channels, 4 * num_classes)
    )


# --- backbones -------------------------------------------------------------------------------------------------------


def backbone_shapes(config: BackboneConfig) -> Shapes:
    """The names and shapes of a backbone's own tensors, its stem's weight first; of a timm backbone none."""
    entry, width = registry.BACKBONES[config.name], config.width
    if entry.family == "timm":
        return {}
    if config.vit is not None:
        return {f"net.{name}": shape for name, shape in vit_shapes(config.name, config.vit).items()}
    if entry.family == "mobilenet_v3":
        return _mobilenet_v3(entry)
    if entry.family in (RT_DETR_RESNET, HGNET):
        assert width is not None
        if entry.family == HGNET:
            return hgnet_shapes(config.name, width)
        return resnet_shapes(entry.block, entry.layers, width)
    build = {
        "resnet": _resnet,
        "mobilenet": _mobilenet,
        "swin": _swin,
        "cspnext": _csp,
        "cspdarknet": _csp,
    }[entry.family]
    width = width or entry.width
    assert width is not None
    return build(entry, width)


def _resnet(entry: Backbone, width: int) -> Shapes:
    shapes = _conv("conv1", 3, width, 7, bias=False) | _batch_norm("bn1", width)
    in_channels = width
    for stage, count in enumerate(entry.layers):
        planes, out_channels = width * 2**stage, entry.channels(width)[stage]
        for i in range(count):
            name = f"layer{stage + 1}.{i}"
            shapes |= _block(name, in_channels, planes, out_channels, bottleneck=entry.block == "bottleneck")
            if in_channels != out_channels or (i == 0 and stage > 0):  # the first block of later stages also strides
                shapes |= _conv(f"{name}.downsample.0", in_channels, out_channels, 1, bias=False)
                shapes |= _batch_norm(f"{name}.downsample.1", out_channels)
            in_channels = out_channels
    return shapes


def _block(name: str, in_channels: int, planes: int, out_channels: int, *, bottleneck: bool) -> Shapes:
    convs = [(in_channels, planes, 1), (planes, planes, 3), (planes, out_channels, 1)]
    if not bottleneck:
        convs = [(in_channels, planes, 3), (planes, out_channels, 3)]
    shapes: Shapes = {}
    for i, (a, b, kernel) in enumerate(convs, start=1):
        shapes |= _conv(f"{name}.conv{i}", a, b, kernel, bias=False) | _batch_norm(f"{name}.bn{i}", b)
    return shapes


# The paper's table 2 (arXiv 1801.04381): expansion of the hidden channels, channels at width 32, number of blocks.
_INVERTED = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))


def _mobilenet(entry: Backbone, width: int) -> Shapes:
    in_channels = entry.scaled(32, width)
    shapes = _conv("features.0.0", 3, in_channels, 3, bias=False) | _batch_norm("features.0.1", in_channels)
    place = 1
    for expansion, channels, count in _INVERTED:
        for _ in range(count):
            out_channels = entry.scaled(channels, width)
            shapes |= _inverted(f"features.{place}.conv", in_channels, expansion, out_channels)
            in_channels, place = out_channels, place + 1
    return shapes


def _inverted(name: str, in_channels: int, expansion: int, out_channels: int) -> Shapes:
    """Widen (unless `expansion` is 1), convolve each channel for itself, narrow."""
    hidden = in_channels * expansion
    convs = [(in_channels, hidden, 1), (1, hidden, 3)] if expansion > 1 else [(1, hidden, 3)]
    shapes: Shapes = {}
    for i, (a, b, kernel) in enumerate(convs):
        shapes |= _conv(f"{name}.{i}.0", a, b, kernel, bias=False) | _batch_norm(f"{name}.{i}.1", b)
    i = len(convs)
    return (
        shapes
        | _conv(f"{name}.{i}", hidden, out_channels, 1, bias=False)
        | _batch_norm(f"{name}.{i + 1}", out_channels)
    )


# The paper's table 1 (arXiv 1905.02244): kernel, hidden channels, channels, whether squeezed and excited.
_LARGE = (
    (3, 16, 16, False), (3, 64, 24, False), (3, 72, 24, False), (5, 72, 40, True), (5, 120, 40, True),
    (5, 120, 40, True), (3, 240, 80, False), (3, 200, 80, False), (3, 184, 80, False), (3, 184, 80, False),
    (3, 480, 112, True), (3, 672, 112, True), (5, 672, 160, True), (5, 960, 160, True), (5, 960, 160, True),
)  # fmt: skip


def _mobilenet_v3(entry: Backbone) -> Shapes:
    in_channels, last = 16, entry.out_channels[-1]
    shapes = _conv("features.0.0", 3, in_channels, 3, bias=False) | _batch_norm("features.0.1", in_channels)
    for place, (kernel, hidden, out_channels, squeezed) in enumerate(_LARGE, start=1):
        shapes |= _squeezing(f"features.{place}.block", in_channels, kernel, hidden, out_channels, squeezed)
        in_channels = out_channels
    name = f"features.{len(_LARGE) + 1}"
    return shapes | _conv(f"{name}.0", in_channels, last, 1, bias=False) | _batch_norm(f"{name}.1", last)


def _squeezing(name: str, in_channels: int, kernel: int, hidden: int, out_channels: int, squeezed: bool) -> Shapes:
    """Widen (unless it is as wide), convolve each channel for itself, weigh the channels, narrow."""
    convs = [(1, hidden, kernel), (hidden, out_channels, 1)]
    convs = convs if hidden == in_channels else [(in_channels, hidden, 1), *convs]
    shapes, place = Shapes(), 0
    for a, b, size in convs:
        if size == 1 and squeezed and b == out_channels:
            few = _squeezed_channels(hidden)
            shapes |= _conv(f"{name}.{place}.fc1", hidden, few, 1) | _conv(f"{name}.{place}.fc2", few, hidden, 1)
            place += 1
        shapes |= _conv(f"{name}.{place}.0", a, b, size, bias=False) | _batch_norm(f"{name}.{place}.1", b)
        place += 1
    return shapes


def _squeezed_channels(hidden: int) -> int:
    """A quarter, as MobileNetV2 rounds channels: to a multiple of 8, at most a tenth less."""
    rounded = max(8, int(hidden / 4 + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * hidden / 4 else rounded


@dataclass(frozen=True)
class _Style:
    """Of cross-stage partial layers: CSPDarknet's, also in two steps, or CSPNeXt's."""

    darknet: bool
    depthwise: bool = False


def _csp(entry: Backbone, width: int) -> Shapes:
    shapes: Shapes = {}
    style = _Style(entry.family == "cspdarknet", entry.depthwise)
    if style.darknet:
        shapes |= _conv_norm("stem.conv", 4 * 3, width, 3)
    else:
        for i, (a, b) in enumerate(((3, width // 2), (width // 2, width // 2), (width // 2, width))):
            shapes |= _conv_norm(f"stem.{i}", a, b, 3)
    in_channels = width
    for stage, (channels, count) in enumerate(zip(entry.channels(width), entry.layers, strict=True), start=1):
        shapes |= _conv3x3(f"stage{stage}.0", in_channels, channels, style)
        last = stage == len(entry.layers)
        if last:  # the pyramid of pooled neighbourhoods
            shapes |= _conv_norm(f"stage{stage}.1.conv1", channels, channels // 2, 1)
            shapes |= _conv_norm(f"stage{stage}.1.conv2", channels // 2 * 4, channels, 1)
        layer = f"stage{stage}.{2 if last else 1}"
        shapes |= _csp_layer(layer, channels, channels, count, style)
        if not style.darknet:
            shapes |= _conv(f"{layer}.attention.fc", channels, channels, 1)
        in_channels = channels
    return shapes


def _csp_layer(name: str, in_channels: int, out_channels: int, blocks: int, style: _Style) -> Shapes:
    half = out_channels // 2
    shapes = _conv_norm(f"{name}.main_conv", in_channels, half, 1)
    shapes |= _conv_norm(f"{name}.short_conv", in_channels, half, 1)
    shapes |= _conv_norm(f"{name}.final_conv", 2 * half, out_channels, 1)
    for i in range(blocks):
        block = f"{name}.blocks.{i}"
        shapes |= _conv_norm(f"{block}.conv1", half, half, 1 if style.darknet else 3)
        shapes |= (
            _conv3x3(f"{block}.conv2", half, half, style)
            if style.darknet
            else _separable(block + ".conv2", half, half, 5)
        )
    return shapes


def _conv3x3(name: str, in_channels: int, out_channels: int, style: _Style) -> Shapes:
    if style.depthwise:
        return _separable(name, in_channels, out_channels, 3)
    return _conv_norm(name, in_channels, out_channels, 3)


def _separable(name: str, in_channels: int, out_channels: int, kernel: int) -> Shapes:
    depthwise = _conv_norm(f"{name}.depthwise_conv", 1, in_channels, kernel)
    return depthwise | _conv_norm(f"{name}.pointwise_conv", in_channels, out_channels, 1)


_WINDOW, _HEADS, _PATCH, _MLP = 7, 3, 4, 4  # Swin-T's; heads: of the first stage


def _swin(entry: Backbone, width: int) -> Shapes:
    out_channels = entry.channels(width)
    shapes = _conv("features.0.0", 3, width, _PATCH) | _affine("features.0.2", width)
    for stage, count in enumerate(entry.layers):
        if stage:
            before, name = out_channels[stage - 1], f"features.{2 * stage}"
            shapes |= _linear(f"{name}.reduction", 4 * before, 2 * before, bias=False)
            shapes |= _affine(f"{name}.norm", 4 * before)
        for i in range(count):
            shapes |= _window_block(f"features.{2 * stage + 1}.{i}", out_channels[stage], _HEADS * 2**stage)
    for stage in (1, 2, 3):
        shapes |= _affine(f"norms.{stage}", out_channels[stage])
    return shapes


def _window_block(name: str, channels: int, heads: int) -> Shapes:
    return (
        _affine(f"{name}.norm1", channels)
        | {
            f"{name}.attn.relative_position_bias_table": ((2 * _WINDOW - 1) ** 2, heads),
            f"{name}.attn.relative_position_index": (_WINDOW**4,),
        }
        | _linear(f"{name}.attn.qkv", channels, 3 * channels)
        | _linear(f"{name}.attn.proj", channels, channels)
        | _affine(f"{name}.norm2", channels)
        | _linear(f"{name}.mlp.0", channels, _MLP * channels)
        | _linear(f"{name}.mlp.3", _MLP * channels, channels)
    )


# --- layers ----------------------------------------------------------------------------------------------------------


def _conv(name: str, in_channels: int, out_channels: int, kernel: int, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (out_channels, in_channels, kernel, kernel)}
    return shapes | ({f"{name}.bias": (out_channels,)} if bias else {})


def _conv_norm(name: str, in_channels: int, out_channels: int, kernel: int) -> Shapes:
    convolution = _conv(f"{name}.conv", in_channels, out_channels, kernel, bias=False)
    return convolution | _batch_norm(f"{name}.bn", out_channels)


def _linear(name: str, in_channels: int, out_channels: int, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (out_channels, in_channels)}
    return shapes | ({f"{name}.bias": (out_channels,)} if bias else {})


def _affine(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _batch_norm(name: str, channels: int) -> Shapes:
    statistics: Shapes = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return _affine(name, channels) | statistics | {f"{name}.num_batches_tracked": ()}
