"""What the machine can do: which device, how many threads, which number format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crosskd.errors import ConfigError, OutOfMemory

Precision = Literal["fp32", "bf16", "fp16"]
_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """`auto` takes the current GPU where there is one. Raises `ConfigError` for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "torch sees no CUDA device here", where="/device", remedy="Use `auto` or `cpu`, or a machine with a GPU."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_threads(count: int | None) -> None:
    """Let torch use `count` CPU threads; None leaves it as it is."""
    if count is not None:
        torch.set_num_threads(count)


@dataclass(frozen=True)
class MixedPrecision:
    """Autocast, and the loss scaling that fp16 needs."""

    device: torch.device
    precision: Precision
    scaler: torch.amp.GradScaler

    @classmethod
    def on(cls, device: torch.device, precision: Precision) -> MixedPrecision:
        """Raises `ConfigError` where `device` does not compute in `precision`."""
        if precision == "fp16" and device.type == "cpu":
            raise ConfigError("fp16 does not train on a CPU", where="/precision", remedy="Use `bf16` or `fp32` here.")
        if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("this GPU has no bf16", where="/precision", remedy="Use `fp16` or `fp32` here.")
        return cls(device, precision, torch.amp.GradScaler(device.type, enabled=precision == "fp16"))

    def autocast(self) -> torch.autocast:
        """A context in which convolutions and matrix products run in `precision`."""
        return torch.autocast(self.device.type, dtype=_FORMATS.get(self.precision), enabled=self.precision != "fp32")


@contextlib.contextmanager
def memory_errors(images: Tensor) -> Iterator[None]:
    """Turn a lack of memory into `OutOfMemory`, naming the shape of the batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        # The CPU's allocator has no error class of its own.
        lacks = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not lacks:
            raise
        count, _, height, width = images.shape
        raise OutOfMemory(
            f"{images.device.type} memory ran out on a batch of {count} images of {height} x {width} pixels",
            where="/batch_size",
            remedy="Lower batch_size and raise accumulate by the same factor, lower augment.short_edges, or use bf16.",
        ) from error
