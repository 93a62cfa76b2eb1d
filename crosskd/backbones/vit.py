"""Vision transformers with windows, of transformers: the backbones of LW-DETR and RF-DETR; `crosskd[detr]`."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from crosskd.backbones import pretrained
from crosskd.backbones.library import missing_library
from crosskd.backbones.staged import StagedBackbone
from crosskd.spec.backbones.vit import VITS, library_values
from crosskd.spec.config import BackboneConfig
from crosskd.spec.detr.types import LIBRARY

_EMBEDDINGS = "RfDetrDinov2Embeddings"
_PRETRAINING = "embeddings.mask_token"  # what only its own training has
_MOST = 128  # blocks of a file


class WindowedViT(StagedBackbone):
    """images [N, 3, H, W] -> the maps `vit.maps`, all at one stride: [N, width, H / patch, W / patch].

    H and W are multiples of `vit.step`. No stage can be frozen. `init` may name a file with the backbone's tensors by
    the library's names; what stands in it behind the last block that is used is left out. Raises `ConfigError` without
    the library; `WeightsError`.
    """

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        assert config.vit is not None
        known = VITS[config.name]
        try:
            module = import_module(known.module)
        except ModuleNotFoundError as error:
            if error.name != LIBRARY:
                raise
            raise missing_library(config.name, "/student/backbone/name") from error
        with ExitStack() as patches:
            if hasattr(module, _EMBEDDINGS):
                patches.enter_context(mock.patch.object(module, _EMBEDDINGS, _in_rows(getattr(module, _EMBEDDINGS))))
            net = getattr(module, known.model)(library_config(config))
        self.net: Any = net.to(torch.empty(0).device)  # its constructors do not all heed `torch.device("meta")`
        if load:
            behind = tuple(f"encoder.layer.{block}." for block in range(config.vit.blocks, _MOST))
            pretrained.load(self.net, config, unused=(_PRETRAINING, *behind))
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        return []

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.net(images).feature_maps)


def library_config(config: BackboneConfig) -> Any:
    """The library's configuration of the backbone."""
    assert config.vit is not None
    kind = getattr(import_module(LIBRARY), VITS[config.name].config)
    return kind(**library_values(config.name, config.vit))


def _in_rows(library: Any) -> Any:
    """The library's embeddings, whose windows are rectangles of patches also where an image is no square.

    It takes as many rows for a window as a window has columns, and puts the maps together the right way.
    """

    class Embeddings(library):  # type: ignore[misc]
        def window_partition(self, embeddings: Tensor, height: int, width: int) -> Tensor:
            windows: Tensor = super().window_partition(embeddings, width, height)
            return windows

    return Embeddings
