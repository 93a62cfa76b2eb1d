"""Sums over the ranks of a training, in the middle of its losses.

A loss is a sum S over a batch divided by a number D that also depends on the batch. With one process per device each
rank has its own S_r and D_r, and DistributedDataParallel averages the gradients of the ranks' losses. By default each
rank so computes its share separately (some divisors are averaged; see `losses`). Inside `synchronised_statistics(True)`
the shares become the loss of one process that has the total batch: with D the divisor of all ranks together, rank r's
loss is S_r / (D / ranks), and the mean of these over ranks is sum(S_r) / D.

Every sum here is a collective: all ranks have to come to it, in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_SYNCHRONISED = ContextVar("synchronised", default=False)


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def synchronised() -> bool:
    """Whether batch statistics and divisors are those of the total batch."""
    return _SYNCHRONISED.get() and world_size() > 1


@contextlib.contextmanager
def synchronised_statistics(on: bool) -> Iterator[None]:
    """Take batch statistics and divisors over all ranks meanwhile, if `on`."""
    token = _SYNCHRONISED.set(on)
    try:
        yield
    finally:
        _SYNCHRONISED.reset(token)


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of `x` over ranks. The gradient comes back from the losses of all of them, summed like `x`."""
    if world_size() == 1:
        return x
    summed: Tensor = _AllReduceSum.apply(x)
    return summed


class _AllReduceSum(torch.autograd.Function):
    """`torch.distributed.nn.functional.all_reduce` does the same; torch does not keep its place stable."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


def pooled_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel over the maps of all ranks, and how many values that were.

    x [N, C, H, W], of any size on each rank, -> [1, C, 1, 1], [1, C, 1, 1], []. The ranks' own moments are joined
    (Chan, Golub and LeVeque 1979), not sums of squares: where a mean is large these would cancel.
    """
    values = x.numel() // x.shape[1]
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return pooled(mean, variance * values, mean.new_full((1,), values))


def pooled(mean: Tensor, squares: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`pooled_moments` of what each rank knows of its own maps: mean [C], sum of squared deviations [C], count [1]."""
    place = torch.zeros(world_size(), 1, dtype=mean.dtype, device=mean.device)
    place[rank()] = 1
    # [ranks, 2 * C + 1]: each rank has filled in its own row
    table = all_reduce_sum(place * torch.cat((mean, squares, values)))
    joined = joined_moments(*torch.split(table, [len(mean), len(mean), 1], dim=1))
    return joined[0].reshape(1, -1, 1, 1), joined[1].reshape(1, -1, 1, 1), joined[2].detach()


def joined_moments(means: Tensor, squares: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of several sets of values those of all together: [S, C], [S, C], [S, 1] -> [C], [C], []."""
    whole = values.sum()
    mean = (means * values).sum(0) / whole
    return mean, (squares + values * (means - mean).square()).sum(0), whole
