"""Writes the table of the timm models that can be a backbone: `python -m crosskd.backbones.timm_table`. Takes minutes.

A configuration names a timm model, and the service must know it without timm: this table ships with the package.
Every model is built and run on torch's meta device, which computes shapes alone. Left out is a model that has no
maps at strides 8, 16 and 32, or that is made for images of one size. `idle` are parameters that no such map depends on,
as in HRNet, whose last fusion also makes a map at stride 4: processes that train together wait for every gradient, so
these must not ask for one.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN as MEAN
from timm.data.constants import IMAGENET_DEFAULT_STD as STD
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crosskd.backbones.timm_features import build, run
from crosskd.spec.backbones.registry import TIMM_TABLE

log = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
PYRAMID = STRIDES[1:]
SIZE = (160, 256)  # pixels of the images that are tried: no square, and no size that any model is made for


class Unsuitable(Exception):
    """Why a model is not in the table."""


Function = Callable[..., Any]


class _Instead(TorchFunctionMode):
    """Meanwhile other functions are called in place of some of torch's. On the meta device torch carries out in Python
    what has no kernel there, step by step of its formula; where shapes alone count, that is most of the time."""

    def __init__(self, others: Mapping[Function, Function]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(self, function: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.others.get(function, function)(*args, **(kwargs or {}))


def _as_it_is(values: Tensor, *_: Any, **__: Any) -> Tensor:
    return values


def _affine(values: Tensor, weight: Tensor | None, bias: Tensor | None, *_: Any, **__: Any) -> Tensor:
    """What batch norm is for shapes and gradients: as many values, which depend on its parameters."""
    if weight is None or bias is None:
        return values
    shape = (1, -1, *[1] * (values.dim() - 2))
    return torch.addcmul(bias.view(shape), values, weight.view(shape))


# How weights are drawn: by `nn.init`, and by timm's own truncated normal distribution.
UNDRAWN: dict[Function, Function] = {
    Tensor.normal_: _as_it_is,
    Tensor.uniform_: _as_it_is,
    Tensor.erfinv_: _as_it_is,
    Tensor.clamp_: _as_it_is,
}
AFFINE: dict[Function, Function] = {torch.batch_norm: _affine}


def describe(name: str) -> dict[str, Any]:
    """The row of a model: the deepest map at each of `STRIDES`, and its parameters. Raises `Unsuitable`."""
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        raise Unsuitable("made for images of one size")
    with warnings.catch_warnings(action="ignore"), torch.device("meta"), _Instead(UNDRAWN):
        try:
            info: Any = timm.create_model(name, features_only=True, pretrained=False).feature_info
        except (RuntimeError, AttributeError, TypeError) as error:
            raise Unsuitable("no extractor of features") from error
        every = range(len(info))
        deepest = {stride: level for level, stride in zip(every, info.reduction(list(every)), strict=True)}
        strides = [stride for stride in STRIDES if stride in deepest]
        if strides[-len(PYRAMID) :] != list(PYRAMID):
            raise Unsuitable(f"maps at strides {sorted(deepest)}")
        levels = [deepest[stride] for stride in strides]
        net = build(name, levels[-len(PYRAMID) :])
    with warnings.catch_warnings(action="ignore"), torch.device("meta"), _Instead(AFFINE):
        idle = _try(net)
    row = {
        "channels": info.channels(levels),
        "strides": strides,
        "levels": levels,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "weights": published is not None and bool(published.has_weights),
    }
    return row | ({"idle": idle} if idle else {}) | pixels(name)


def pixels(name: str) -> dict[str, list[float]]:
    """The mean and deviation of the pixels, 0 to 1, that a model's weights were made for, where not ImageNet's."""
    published = timm.get_pretrained_cfg(name)
    if published is None or (tuple(published.mean), tuple(published.std)) == (MEAN, STD):
        return {}
    return {"mean": list(published.mean), "std": list(published.std)}


def _try(net: Any) -> list[str]:
    """A forward pass without numbers: the names of the parameters that get no gradient. Raises `Unsuitable`."""
    expected = [
        (2, channels, SIZE[0] // stride, SIZE[1] // stride)
        for channels, stride in zip(net.feature_info.channels(), PYRAMID, strict=True)
    ]
    try:
        maps = run(net.train(), torch.zeros(2, 3, *SIZE))
    except Exception as error:  # whatever a model of a third party does with a size that it cannot take
        raise Unsuitable(f"images of {SIZE} fail: {str(error).partition(chr(10))[0][:100]}") from error
    if [tuple(m.shape) for m in maps] != expected:
        raise Unsuitable(f"maps of {[tuple(m.shape) for m in maps]}, not {expected}")
    leaves = _leaves(maps)
    return [name for name, parameter in net.named_parameters() if id(parameter) not in leaves]


def _leaves(maps: Iterable[Tensor]) -> set[int]:
    """The ids of the tensors that a backward pass from `maps` would give a gradient."""
    waiting: list[Any] = [m.grad_fn for m in maps]
    seen, found = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following
    return found


def table() -> dict[str, dict[str, Any]]:
    """Name -> row, of every model of the installed timm that is suitable."""
    rows = {}
    for name in timm.list_models():
        try:
            rows[name] = describe(name)
        except Unsuitable as reason:
            log.info("%s: %s", name, reason)
    return rows


def text(rows: dict[str, dict[str, Any]]) -> str:
    """The file's content, one line a model."""
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    return f'{{"timm": {json.dumps(timm.__version__)}, "models": {{\n' + ",\n".join(lines) + "\n}}\n"


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    rows = table()
    TIMM_TABLE.write_text(text(rows))
    log.info("%d of %d models written to %s", len(rows), len(timm.list_models()), TIMM_TABLE)
