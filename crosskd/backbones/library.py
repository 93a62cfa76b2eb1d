"""Two backbones of transformers as feature extractors: RT-DETR's ResNet-vd and D-FINE's HGNetV2; `crosskd[detr]`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.backbones import pretrained
from crosskd.backbones.staged import StagedBackbone
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.backbones.library import HGNET, hgnet_settings, resnet_settings
from crosskd.spec.config import BackboneConfig
from crosskd.spec.detr.types import EXTRA, LIBRARY

_MODELS = {
    "rt_detr_resnet": ("rt_detr.modeling_rt_detr_resnet", "RTDetrResNetBackbone", "RTDetrResNetConfig"),
    "hgnet_v2": ("hgnet_v2.modeling_hgnet_v2", "HGNetV2Backbone", "HGNetV2Config"),
}


def settings_of(name: str, width: int) -> dict[str, Any]:
    """The library's configuration of the registry's backbone `name`, whose channels are scaled to `width`."""
    entry = registry.BACKBONES[name]
    if entry.family == HGNET:
        return hgnet_settings(name, width)
    return resnet_settings(entry.family, entry.block, entry.layers, width)


class LibraryBackbone(StagedBackbone):
    """images [N, 3, H, W] -> [C2, C3, C4, C5]; see `StagedBackbone`. Stem: `embedder`; stages: those of `encoder`.

    The library's modules by their names there. A file for `init` may hold the classifier. Raises `ConfigError` where
    the library is not installed.
    """

    unused = ("classifier.", "fc.")

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        assert config.width is not None
        built = _build(config.name, config.width)
        self.embedder, self.encoder = built.embedder, built.encoder
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if load:
            pretrained.load(self, config, unused=self.unused)
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        return [[self.embedder], *([stage] for stage in self.encoder.stages)]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.require_statistics(images)
        x, maps = self.embedder(images), []
        for stage in self.encoder.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _build(name: str, width: int) -> Any:
    told = settings_of(name, width)
    module, model, config = _MODELS[told.pop("model_type")]
    try:
        library, defined = import_module(LIBRARY), import_module(f"{LIBRARY}.models.{module}")
    except ModuleNotFoundError as error:
        if error.name != LIBRARY:
            raise
        raise missing_library(name, "/student/backbone/name") from error
    return getattr(defined, model)(getattr(library, config)(**told)).to(torch.empty(0).device)


def missing_library(what: str, where: str) -> ConfigError:
    """That `what` cannot be built where the library is not installed."""
    return ConfigError(
        f"{what} needs the {LIBRARY} package, which is not installed here",
        where=where,
        remedy=f"Install it on the machine that trains: `pip install 'crosskd[{EXTRA}]'`.",
    )
