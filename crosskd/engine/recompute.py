"""Activation checkpointing: what parts of a network make on the way is made again for the gradient instead of kept.

By Chen et al. 2016 (arXiv 1604.06174), with `torch.utils.checkpoint`. Only the inputs of these parts stay.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from crosskd import ranks


def recompute_within(methods: Iterable[tuple[nn.Module, str]]) -> None:
    """Let `methods`, each a module and the name of its method, be run again in the backward pass.

    Losses and gradients stay as they are, random numbers included; batch norms learn their statistics in the forward
    pass alone. Without a gradient a method runs as before. Nothing is wrapped: modules, parameters and their names are
    what they were.
    """
    for module, name in methods:
        setattr(module, name, _Recomputed(module, getattr(module, name)))


class _Recomputed:
    """A method whose intermediate results are not kept."""

    def __init__(self, module: nn.Module, plain: Callable[..., Any]) -> None:
        self.module, self.plain = module, plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        return checkpoint(self.plain, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Of the forward pass, and of the second run. On a GPU that one is in a thread of its own."""
        return contextlib.nullcontext(), _again(self.module, synchronised=ranks.synchronised())

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copied module, as the average of the weights is, has the plain method, bound to the copy."""
        return copy.deepcopy(self.plain, memo)


@contextlib.contextmanager
def _again(module: nn.Module, *, synchronised: bool) -> Iterator[None]:
    """Batch norms normalise as they did, and do not count the batch a second time."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        with ranks.synchronised_statistics(synchronised):
            yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
