"""Megvii's YOLOX (github.com/Megvii-BaseDetection/YOLOX): its parameter names and ours, one to one. Only read.

They compute what MMDetection's do with the same tensors. The neck's last convolutions are the stems of its head.
"""

from __future__ import annotations

from collections.abc import Iterable

from crosskd.convert.names import AFFINE, OURS, THEIRS, Pairs, translate

DETECTOR = "yolox"  # all that they publish
BRANCHES = (("cls", "cls"), ("box", "reg"), ("objectness", "obj"))
LEVELS = 3
# Parts of a neck with the channels of the levels that they lead to.
_NECK = (
    ("reduce_layers.0", "lateral_conv0"),
    ("reduce_layers.1", "reduce_conv1"),
    ("downsamples.0", "bu_conv2"),
    ("downsamples.1", "bu_conv1"),
)
_NECK_LAYERS = (
    ("top_down_blocks.0", "C3_p4"),
    ("top_down_blocks.1", "C3_p3"),
    ("bottom_up_blocks.0", "C3_n3"),
    ("bottom_up_blocks.1", "C3_n4"),
)
ASSUMED = (
    "assumed: BGR pixels as they are, around them 114, and thresholds by default, as Megvii publishes its models since "
    "version 0.1.1. Older files (`legacy`) were trained on normalised RGB, which no tensor tells: then name the model "
    "(--model) with `pixels`"
)


def is_megvii(names: Iterable[str]) -> bool:
    """Whether these are the names of such a detector."""
    return any(name.startswith("head.cls_preds.") for name in names)


def from_megvii(name: str) -> str | None:
    """Their name -> ours; None for what YOLOX does not have."""
    return translate(name, _PAIRS, THEIRS)


def to_megvii(name: str) -> str | None:
    """Our name -> theirs; None for what it has no place for."""
    return translate(name, _PAIRS, OURS)


def _conv(ours: str, theirs: str) -> Pairs:
    """A convolution with its norm, plain or in two steps; both are patterns."""
    return [
        (rf"{ours}\.(conv\..+)", rf"{theirs}\.(conv\..+)"),
        (rf"{ours}\.(bn\..+)", rf"{theirs}\.(bn\..+)"),
        (rf"{ours}\.depthwise_conv\.(.+)", rf"{theirs}\.dconv\.(.+)"),
        (rf"{ours}\.pointwise_conv\.(.+)", rf"{theirs}\.pconv\.(.+)"),
    ]


def _layer(ours: str, theirs: str) -> Pairs:
    """A cross-stage partial layer."""
    names = (("main_conv", "conv1"), ("short_conv", "conv2"), ("final_conv", "conv3"))
    pairs = [pair for mine, other in names for pair in _conv(rf"{ours}\.{mine}", rf"{theirs}\.{other}")]
    for conv in ("conv1", "conv2"):
        pairs += _conv(rf"{ours}\.blocks\.(\d+)\.{conv}", rf"{theirs}\.m\.(\d+)\.{conv}")
    return pairs


def _backbone() -> Pairs:
    pairs = [*_conv(r"backbone\.stem\.conv", r"backbone\.backbone\.stem\.conv")]
    for stage in range(1, 5):
        ours, theirs, last = rf"backbone\.stage{stage}", rf"backbone\.backbone\.dark{stage + 1}", stage == 4
        pairs += _conv(rf"{ours}\.0", rf"{theirs}\.0")
        if last:
            for conv in ("conv1", "conv2"):
                pairs += _conv(rf"{ours}\.1\.{conv}", rf"{theirs}\.1\.{conv}")
        place = 2 if last else 1
        pairs += _layer(rf"{ours}\.{place}", rf"{theirs}\.{place}")
    return pairs


def _neck() -> Pairs:
    pairs = [*_conv(r"neck\.out_convs\.(\d+)", r"head\.stems\.(\d+)")]
    for make, parts in ((_conv, _NECK), (_layer, _NECK_LAYERS)):
        for ours, theirs in parts:
            pairs += make(r"neck\." + ours.replace(".", r"\."), rf"backbone\.{theirs}")
    return pairs


def _head() -> Pairs:
    pairs: list[tuple[str, str]] = [
        (rf"head\.{ours}\.(\d+)\.{AFFINE}", rf"head\.{theirs}_preds\.(\d+)\.{AFFINE}") for ours, theirs in BRANCHES
    ]
    for level in range(LEVELS):
        for ours, theirs in BRANCHES[:2]:
            tower, convs = rf"head\.{ours}_tower\.(\d+)", rf"head\.{theirs}_convs\.{level}\.(\d+)"
            conv = rf"{tower}\.conv\.{level}"
            pairs += [
                (rf"{conv}\.{AFFINE}", rf"{convs}\.conv\.{AFFINE}"),
                (rf"{tower}\.norm\.{level}\.(\w+)", rf"{convs}\.bn\.(\w+)"),
            ]
            for mine, other in (("depthwise", "dconv"), ("pointwise", "pconv")):
                pairs.append((rf"{conv}\.{mine}\.{AFFINE}", rf"{convs}\.{other}\.conv\.{AFFINE}"))
                pairs.append((rf"{conv}\.{mine}_norm\.(\w+)", rf"{convs}\.{other}\.bn\.(\w+)"))
    return pairs


_PAIRS: Pairs = [*_backbone(), *_neck(), *_head()]
