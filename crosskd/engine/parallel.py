"""One model on several ranks: gradients averaged by DistributedDataParallel, batch norms over all ranks if wanted."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from crosskd import ranks
from crosskd.errors import ConfigError

# The option by which no step sends buffers; older versions of torch have it under the second name only.
_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}


def data_parallel(trainee: nn.Module, *, idle: Sequence[str] = ()) -> nn.Module | None:
    """`trainee` as the ranks train it together, starting from the main rank's weights; None in a single process.

    The gradient of each step is the mean of the ranks' gradients. Batch norms in training keep the statistics of
    their own rank (the main rank's are delivered), or with synchronised statistics those of the total batch. `idle`
    names parameters that a step may leave without a gradient: a rank that waited for theirs would wait for ever, and
    to look for them each step goes through the whole graph.
    """
    if ranks.world_size() == 1:
        return None
    if ranks.synchronised():
        synchronise_norms(trainee)
    options: dict[str, Any] = {"find_unused_parameters": bool(idle), "gradient_as_bucket_view": True, **_NO_BUFFERS}
    return DistributedDataParallel(trainee, **options)


def no_sync(model: nn.Module, on: bool) -> AbstractContextManager[None]:
    """While `on`, gradients gather on their own rank: for all batches of an optimizer step but its last."""
    if on and isinstance(model, DistributedDataParallel):
        keep: AbstractContextManager[None] = model.no_sync()
        return keep
    return contextlib.nullcontext()


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank the main rank's norm statistics, so that all evaluate one and the same model. Collective."""
    if ranks.world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def synchronise_norms(model: nn.Module) -> None:
    """Let the batch norms of `model` normalise by the statistics of all ranks' batches.

    Raises `ConfigError` for one that cannot: where it normalises by running statistics, there is nothing to do.
    """
    model.train()  # what stays in evaluation mode now does so in every step
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d  # the very module, its parameters and name, with another forward
        elif isinstance(module, _BatchNorm) and module.training and not isinstance(module, SyncedBatchNorm2d):
            raise ConfigError(
                f"{name} is a {type(module).__name__}, whose statistics cannot be taken over several processes",
                where="/sync_statistics",
                remedy="Set student.backbone.norm_eval, or leave sync_statistics out.",
            )


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks, on the CPU too, where torch's own SyncBatchNorm does not run."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and ranks.synchronised()):
            return super().forward(x)
        kind = x.dtype
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if kind in (torch.float16, torch.bfloat16) else x
            mean, squares, count = ranks.pooled_moments(x)
            self._remember(mean.detach().flatten(), (squares.detach() / (count - 1)).flatten())
            out = (x - mean) * torch.rsqrt(squares / count + self.eps)
            if self.affine:
                out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(kind)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        part = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
        self.running_var.lerp_(variance.to(self.running_var.dtype), part)
