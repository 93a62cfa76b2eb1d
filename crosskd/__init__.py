"""The training core, a library. `load` alone is here, for who only wants to use weights. Imports no torch by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from crosskd.inference import LoadedDetector
    from crosskd.spec.model import ModelConfig

__all__ = ["load"]


def load(
    path: str | PathLike[str],
    *,
    device: str | torch.device = "auto",
    model: ModelConfig | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    max_image_pixels: int = 64_000_000,
) -> LoadedDetector:
    """The detector in a weights file, ready to detect: `crosskd.load("best.safetensors").detect("street.jpg")`.

    The file is ours (safetensors, or a training's checkpoint), MMDetection's or torchvision's. Nothing in it is run.
    `device` is "auto" (the GPU where there is one) or any that torch knows. `model`, the values of a `ModelConfig`, and
    `classes`, names in label order, are needed only where the file does not tell them; they go before what it tells.
    An image with more than `max_image_pixels` pixels is refused unread.

    Raises:
        WeightsError: the file cannot be read, or its tensors are not those of the model.
        ConfigError: nothing says which model or which classes it holds, or the device is not there.
    """
    from crosskd.inference import load_detector

    return load_detector(path, device=device, model=model, classes=classes, max_image_pixels=max_image_pixels)
