"""Any model of the timm package that gives maps at strides 8, 16 and 32 as a feature extractor; `crosskd[timm]`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from crosskd.backbones import pretrained
from crosskd.backbones.staged import StagedBackbone
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.backbones.registry import timm_version
from crosskd.spec.config import BackboneConfig, FileRef

log = logging.getLogger(__name__)


class TimmFeatures(StagedBackbone):
    """images [N, 3, H, W] -> [C3, C4, C5]; see `StagedBackbone`.

    No stage can be frozen. `init: imagenet` means timm's own default weights, from where timm has them; a file may
    hold the whole classifier or the features alone, by timm's names. Raises `ConfigError` without the package, or
    where the installed timm differs from the shipped table; `WeightsError`.
    """

    def __init__(self, config: BackboneConfig, *, load: bool = True) -> None:
        super().__init__(config)
        entry = registry.BACKBONES[config.name]
        name = config.name.removeprefix(registry.TIMM)
        published = load and config.init == "imagenet"
        try:
            self.net: Any = build(name, entry.levels, pretrained=published)
        except ModuleNotFoundError as error:
            if error.name != "timm":
                raise
            raise ConfigError(
                f"{config.name} needs the timm package, which is not installed here",
                where="/student/backbone/name",
                remedy="Install it on the machine that trains: `pip install 'crosskd[timm]'`.",
            ) from error
        except (OSError, RuntimeError) as error:
            if not published:
                raise
            url, cached = _published(name)
            raise pretrained.unreachable(config.name, url, error, cached=cached) from error
        if tuple(self.net.feature_info.channels()) != self.channels:
            raise ConfigError(
                f"the installed timm builds {config.name} with {self.net.feature_info.channels()} channels, "
                f"but the table of this version of crosskd says {list(self.channels)}",
                where="/student/backbone/name",
                remedy=f"Install timm {timm_version()}, with which the table was made.",
            )
        if load and isinstance(config.init, FileRef):
            _fill(self.net, config, config.init)
        self.freeze()
        for name in entry.unused_parameters:
            self.net.get_parameter(name).requires_grad_(False)

    def stages(self) -> list[list[nn.Module]]:
        return []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.require_statistics(images)
        return run(self.net, images)


def build(name: str, levels: Sequence[int], *, pretrained: bool = False) -> Any:
    """timm's extractor of the maps `levels`. timm is imported here and nowhere above: it is an optional extra."""
    import timm

    return timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=tuple(levels))


def run(net: Any, images: Tensor) -> list[Tensor]:
    """The maps of timm's extractor, [N, C, H, W] each: some models have the channels last."""
    last = getattr(net, "output_fmt", "NCHW") == "NHWC"
    return [m.permute(0, 3, 1, 2).contiguous() if last else m for m in net(images)]


def _published(name: str) -> tuple[str, bool]:
    """Where timm's default weights of a model lie, and whether torch keeps such a file under its own name."""
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None:
        return "", False
    if published.hf_hub_id:
        file = published.hf_hub_filename or "model.safetensors"
        return f"https://huggingface.co/{published.hf_hub_id}/resolve/main/{file}", False
    return str(published.url or ""), True


def _fill(net: nn.Module, config: BackboneConfig, init: FileRef) -> None:
    """The tensors of the whole classifier, or of the features alone, into `net`; what `net` has not is left out."""
    file, wanted, given = Path(init.file).name, net.state_dict(), pretrained.read_init(init)
    names, left = by_net(wanted, given)
    if missing := pretrained.missing_names(wanted, names):
        raise pretrained.misfit(config, file, given, left, wanted, missing)
    pretrained.fill(net, {ours: given[theirs] for ours, theirs in names.items()}, file, config)
    log.info("%s: %s", file, pretrained.loaded(len(names), left))


def by_net(wanted: Iterable[str], given: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The names of timm's extractor -> those of a file, and the file's names that it does not have.

    As features, timm calls `stages.0.x` of the classifier `stages_0.x` or `model.stages.0.x`.
    """
    plain = {_plain(name): name for name in wanted}
    names = {ours: name for name in given if (ours := plain.get(_plain(name))) is not None}
    return names, [name for name in given if _plain(name) not in plain]


def _plain(name: str) -> str:
    return name.removeprefix("net.").removeprefix("model.").replace(".", "_")
