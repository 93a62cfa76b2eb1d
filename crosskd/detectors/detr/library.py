"""A DETR of transformers, built of our configuration: without its backbone, and with its own losses in full precision.

Nothing is fetched, and nothing of a checkpoint is looked at: the library's classes alone are taken, by the closed list
of `crosskd.spec.detr.types`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.backbones.library import missing_library
from crosskd.backbones.vit import library_config
from crosskd.errors import Diverged
from crosskd.losses import at_least_float32
from crosskd.spec.backbones.vit import VITS
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.section import DetrConfig, library_values
from crosskd.spec.detr.types import LIBRARY, TYPES, ModelType
from crosskd.structures import Size

GROUPS = 32  # of the library's group norms
PRIOR = 0.01  # of a class, at the start
_ANY_BACKBONE = {"model_type": "resnet", "out_indices": [2, 3, 4]}
SMALL = -2.0  # logit of a box's sides at the start


class GivenMaps(nn.Module):
    """Stands where the library's model has its backbone, and gives it the maps that were made already.

    They are given for one call, by `view.call`. To the model they are the maps behind its projections, too.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)  # by this name the library asks for them
        self.maps: list[Tensor] = []

    def forward(self, images: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002 - as it is called
        """The maps, each with `mask` [N, H, W] at its size [N, H_l, W_l]: the nearest pixel's, as in the library."""
        return [(x, F.interpolate(mask[None].float(), size=x.shape[-2:]).to(torch.bool)[0]) for x in self.maps]


class GivenMap(GivenMaps):
    """For a model that reads one map, and no list of them."""

    def forward(self, images: Tensor, mask: Tensor) -> Any:
        return super().forward(images, mask)[0]


def kind_of(config: ModelConfig) -> ModelType:
    return TYPES[config.detector]  # type: ignore[index]  # of this family there are no others


def build(config: ModelConfig, num_classes: int, channels: Sequence[int]) -> Any:
    """The library's model with random weights, whose backbone gives maps of so many `channels`, C3 to C5.

    Raises `ConfigError` where the library is not installed.
    """
    kind = kind_of(config)
    assert config.detr is not None
    try:
        library, module = import_module(LIBRARY), import_module(kind.module)
    except ModuleNotFoundError as error:
        if error.name != LIBRARY:
            raise
        raise missing_library(config.detector, "/student/detector") from error
    values = library_values(config.detr, kind) | {"tie_word_embeddings": _one_head_for_all_layers(config.detr, kind)}
    if kind.fits_maps:
        width = config.detr.maps_width
        values |= {"encoder_in_channels": list(channels), "decoder_in_channels": [width] * len(channels)}
    # A configuration of a backbone it must have; the backbone itself is never built by it.
    own = library_config(config.backbone) if kind.backbone is not None else {**_ANY_BACKBONE}
    settings = getattr(library, kind.config)(**values, num_labels=num_classes, backbone_config=own)
    builder = "load_backbone" if kind.backbone is None else VITS[kind.backbone].model
    with mock.patch.object(module, builder, return_value=GivenMaps(channels)):
        model = getattr(module, kind.model)(settings)
    model = model.to(torch.empty(0).device)  # its old-fashioned constructors do not heed `torch.device("meta")`
    _share_heads(model)
    begin_as_published(model)
    model.strides = list(config.strides)  # as every family's head tells them
    model.loss_function = partial(in_full_precision, model.loss_function)
    return model


def _one_head_for_all_layers(section: DetrConfig, kind: ModelType) -> bool:
    """Deformable DETR without refinement; the library's default would tie the layers of every other one, too."""
    return "box_refine" in kind.knobs and not section.box_refine and section.decoder_layers > 1


def _share_heads(model: Any) -> None:
    """Where the decoder refines boxes by the very heads that predict them, there is one of each and not a copy."""
    for name in ("class_embed", "bbox_embed"):
        if hasattr(model, name) and getattr(model.model.decoder, name, None) is not None:
            setattr(model, name, getattr(model.model.decoder, name))


@torch.no_grad()
def begin_as_published(model: Any) -> None:
    """What the library leaves at random since it mostly loads weights: norms, and Deformable DETR's first predictions.

    Its norms would begin near 0 in RT-DETR. In Deformable DETR no class is likely and boxes are small (arXiv
    2010.04159, its code). In LW-DETR and RF-DETR queries look where the proposals are (2406.03459, its code); the
    library means to begin so, but asks for the embedding by another name than its model has.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    if hasattr(model.model, "reference_point_embed"):
        nn.init.zeros_(model.model.reference_point_embed.weight)
        return
    if hasattr(model.config, "weight_loss_bbox"):
        return
    for layer in model.class_embed:
        nn.init.constant_(layer.bias, -math.log(1 / PRIOR - 1))
    for head in model.bbox_embed:
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    for head in list(model.bbox_embed)[:1]:
        nn.init.constant_(head.layers[-1].bias[2:], SMALL)


@contextmanager
def traceable(config: ModelConfig) -> Iterator[None]:
    """In the block the library can be gone through by shapes alone: for a count of products, and for a graph.

    It does not compare values with each other. And it makes no number of a size that is free, which a graph would have
    for good: of the length of a tensor, of the sides of maps, of a table of these, of their rows and columns.
    """
    module = import_module(kind_of(config).module)
    with (
        mock.patch.object(module, "torch_compilable_check", return_value=None),
        mock.patch.object(module, "len", _length, create=True),
        mock.patch.object(module, "torch_int", _as_it_is, create=True),
        mock.patch.object(torch, "as_tensor", partial(_as_tensor, torch.as_tensor)),
        mock.patch.object(torch, "linspace", partial(_linspace, torch.linspace)),
    ):
        yield


def _length(value: Any) -> int:
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def _as_it_is(value: Any) -> Any:
    return value


def _as_tensor(plain: Callable[..., Tensor], data: Any, **how: Any) -> Tensor:
    """Of rows of sizes [R, 2], one by one; of all else, torch's own `plain`."""
    if not (isinstance(data, list) and data and all(isinstance(row, tuple) for row in data)):
        return plain(data, **how)
    made = torch.empty((len(data), len(data[0])), **how)
    for row, sizes in enumerate(data):
        for column, size in enumerate(sizes):
            made[row, column] = size
    return made


def _linspace(plain: Callable[..., Tensor], start: float, end: Any, steps: Any, **how: Any) -> Tensor:
    """Of a free number of `steps`: the library has the rows and columns of maps so, one apart."""
    if not isinstance(steps, torch.SymInt):
        return plain(start, end, steps, **how)
    return torch.arange(steps, **how) + start


def in_full_precision(loss: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """The library's loss, and its matching, without autocast.

    Raises `Diverged` where a prediction is NaN: the library's matching would end in a `ValueError` about its boxes.
    """
    said = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
    if torch.stack([value.isnan().any() for value in said]).any():
        raise Diverged(
            "the student's predictions are no longer numbers",
            where="/optimizer/lr",
            remedy="Lower the learning rate, warm up longer, or set clip_norm.",
        )
    values = [_full(value) for value in given]
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        return loss(*values, **{name: _full(value) for name, value in named.items()})


def _full(value: Any) -> Any:
    return at_least_float32(value) if isinstance(value, Tensor) and value.is_floating_point() else value


def pixel_mask(sizes: Sequence[Size] | Tensor, whole: Size, device: torch.device) -> Tensor:
    """[N, H, W] bool: where each image of (height, width) `sizes` is no padding, of batches of the `whole` size."""
    limits = sizes if isinstance(sizes, Tensor) else torch.tensor(sizes, device=device)
    rows = torch.arange(whole[0], device=device) < limits[:, :1]  # [N, H]
    columns = torch.arange(whole[1], device=device) < limits[:, 1:]  # [N, W]
    return rows[:, :, None] & columns[:, None]
