"""How the batch norms of published models are set up. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchNorm:
    """How a batch norm is set up; torch's own numbers where nothing else is published."""

    eps: float = 1e-5
    momentum: float = 0.1  # of the newest batch in the running statistics


TORCH_NORM = BatchNorm()
YOLOX_NORM = BatchNorm(eps=1e-3, momentum=0.03)
