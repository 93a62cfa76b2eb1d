"""What the machine can do: which device, how many threads, which number format."""

from __future__ import annotations

import contextlib
import resource
import sys
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
        if precision == "bf16" and device.type == "cuda" and not _computes_bf16():
            raise ConfigError("this GPU has no bf16", where="/precision", remedy="Use `fp16` or `fp32` here.")
        return cls(device, precision, torch.amp.GradScaler(device.type, enabled=precision == "fp16"))

    def autocast(self) -> torch.autocast:
        """A context in which convolutions and matrix products run in `precision`."""
        return torch.autocast(self.device.type, dtype=_FORMATS.get(self.precision), enabled=self.precision != "fp32")


def _computes_bf16() -> bool:
    """Whether the GPU itself does: torch also counts emulation, which is slower than fp32."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process has held so far, of the GPU's memory or (on a CPU) of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # the one counts bytes, Linux KiB


def utilisation(device: torch.device, cores: float) -> float | None:
    """The busy share of a GPU, 0..1, or None where its driver does not tell; of a CPU, the `cores` in use."""
    if device.type != "cuda":
        return cores
    from pynvml import NVMLError  # NVIDIA's own bindings: only a machine with a GPU needs them

    try:
        return torch.cuda.utilization(device) / 100
    except (NVMLError, RuntimeError):  # no access from this container, or a part of a GPU, which is not measured
        return None


# What has no error class of its own says it in its text: the CPU's allocator, and libraries that allocate themselves.
_LACKS = ("DefaultCPUAllocator", "ALLOC_FAILED", "CUDA error: out of memory")


@contextlib.contextmanager
def memory_errors(
    device: torch.device | str, images: Tensor | None = None, *, sizes: str = "augment.short_edges"
) -> Iterator[None]:
    """Turn a lack of memory into `OutOfMemory`, naming the shape of the batch; None: there is no batch yet.

    `sizes` is the knob that says how large the images are.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        lacks = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in _LACKS)
        if not lacks:
            raise
        memory = f"{torch.device(device).type} memory ran out"
        if images is None:
            raise OutOfMemory(
                f"{memory} before the first batch: the models and their averages alone do not fit",
                where="/student",
                remedy="Use a smaller student or teacher, leave ema out, or end what else uses this device.",
            ) from error
        count, _, height, width = images.shape
        raise OutOfMemory(
            f"{memory} on a batch of {count} images of {height} x {width} pixels",
            where="/batch_size",
            remedy=f"Lower batch_size and raise accumulate by the same factor, lower {sizes}, or use bf16.",
        ) from error
