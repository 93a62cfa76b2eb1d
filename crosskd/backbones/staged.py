"""What the backbones share: which stages are frozen, and how batch norm behaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crosskd.errors import ConfigError
from crosskd.spec.config import BackboneConfig

STRIDE = 32  # of C5


def require_values(module: nn.Module, x: Tensor, what: str) -> None:
    """Raise `ConfigError` where a `module` in training would normalise `x`, its map `what`, of one value per channel.

    torch would end with less to say.
    """
    if not module.training or x.numel() > x.shape[1]:
        return
    raise ConfigError(
        f"the neck and the head of this detector have batch norm, which cannot learn from a batch of one image whose "
        f"{what} has a single cell",
        where="/batch_size",
        remedy="Raise batch_size or augment.short_edges.",
    )


class StagedBackbone(nn.Module, ABC):
    """images [N, 3, H, W] -> [C2, C3, C4, C5], C_i [N, channels[i - 2], H / 2^i, W / 2^i], rounded up.

    What reads them takes the last three: a backbone may leave C2 out.
    The first `frozen_stages` stages (0: the stem alone) have no gradient and stay in evaluation mode. With
    `norm_eval` every batch norm normalises by its running statistics, also in training, and its affine part learns;
    with `norm_frozen` that does not learn either. In training, a batch that leaves a batch norm one value per channel
    raises `ConfigError`.
    """

    unused: ClassVar[tuple[str, ...]] = ()  # begin the names that only the classifier of its source has
    own: ClassVar[tuple[str, ...]] = ()  # begin the names that this classifier lacks

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.name = config.name
        self.channels = config.channels
        self.frozen_stages = -1 if config.frozen_stages is None else config.frozen_stages
        self.norm_eval = bool(config.norm_eval)
        self.norm_frozen = config.norm_frozen
        self.norm_eps = config.norm_eps

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """The modules of the stem, then those of each stage."""

    def recomputed(self) -> list[nn.Module]:
        """The modules whose `forward` activation checkpointing runs again: each learning stage's that have parts.

        A backbone that shows no stages is run again as a whole.
        """
        learning = self.stages()[self.frozen_stages + 1 :]
        return [part for stage in learning for part in stage if any(part.children())] if self.stages() else [self]

    def freeze(self) -> None:
        """Take the gradient from what is frozen and fix the norms; to be called once the modules are there."""
        if self.norm_eps is not None:
            for norm in self._norms():
                norm.eps = self.norm_eps
        for module in self._frozen():
            module.requires_grad_(False)
        if self.norm_frozen:
            for norm in self._norms():
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        if self.norm_eval:
            for norm in self._norms():
                norm.eval()
        return self

    def require_statistics(self, images: Tensor) -> None:
        """Refuse to normalise one value per channel by its own mean and deviation, as torch does with less to say.

        C5 is the smallest map: where it has two values, every other one has.
        """
        count, _, height, width = images.shape
        cells = count * -(-height // STRIDE) * -(-width // STRIDE)
        if cells > 1 or not any(norm.training for norm in self._norms()):
            return
        raise ConfigError(
            f"batch norm cannot learn from one image of {height} x {width} pixels: C5 has a single cell",
            where="/batch_size",
            remedy="Raise batch_size or augment.short_edges, or set student.backbone.norm_eval.",
        )

    def _frozen(self) -> list[nn.Module]:
        return [module for stage in self.stages()[: self.frozen_stages + 1] for module in stage]

    def _norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]
