"""The closed list of names a configuration may use. Imports no torch, so the API can check a name without it.

A name leads to `module:Class`, which only the training process imports. A configuration never carries a
dotted path: that would be remote code execution.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar

from crosskd.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Backbone:
    """A backbone and the facts that shape everything behind it.

    `expansion * width * (1, 2, 4, 8)` are the channels of C2..C5, at strides 4, 8, 16, 32.
    """

    target: str
    block: Literal["basic", "bottleneck"]
    layers: tuple[int, int, int, int]
    width: int = 64
    imagenet: bool = True  # torchvision publishes weights for it, at its default width

    def channels(self, width: int | None = None) -> tuple[int, int, int, int]:
        base = (width or self.width) * (4 if self.block == "bottleneck" else 1)
        return (base, 2 * base, 4 * base, 8 * base)


@dataclass(frozen=True)
class Detector:
    target: str
    cut: int  # the cut that the paper publishes for it


@dataclass(frozen=True)
class Term:
    target: str


_RESNET = "crosskd.backbones.resnet:ResNet"

BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(_RESNET, "basic", (2, 2, 2, 2)),
    "resnet34": Backbone(_RESNET, "basic", (3, 4, 6, 3)),
    "resnet50": Backbone(_RESNET, "bottleneck", (3, 4, 6, 3)),
    "resnet101": Backbone(_RESNET, "bottleneck", (3, 4, 23, 3)),
    "resnet_tiny": Backbone(_RESNET, "basic", (1, 1, 1, 1), width=16, imagenet=False),
}

DETECTORS: dict[str, Detector] = {
    "gfl": Detector("crosskd.detectors.gfl:GFL", cut=3),
}

TERMS: dict[str, Term] = {
    "crosskd": Term("crosskd.distill.crosskd:CrossKD"),
    "pkd": Term("crosskd.distill.pkd:PKD"),
}


def load(target: str) -> Any:
    """Import the class behind a registry entry's `module:Class`. Imports torch."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def lookup(table: dict[str, T], name: str, kind: str) -> T:
    """The entry called `name`, or a `ConfigError` that lists every name there is."""
    try:
        return table[name]
    except KeyError:
        raise ConfigError(f"unknown {kind} {name!r}", remedy=f"Use one of: {', '.join(sorted(table))}.") from None
