"""What the teacher cache is kept by: all that decides a teacher's answer to a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.spec.config import PixelConfig, TeacherCacheConfig
from crosskd.spec.distill.needs import HeadCut, Need
from crosskd.structures import Shown, Size

FORMAT = 1  # of entries, and of the code that makes them; another one finds nothing of this one
PACKAGES = ("crosskd", "torch", "torchvision", "transformers", "timm")  # whose code is the teacher


def identity(teacher: Detector, needs: Sequence[Need], pixels: PixelConfig, config: TeacherCacheConfig) -> str:
    """Sha256 of the teacher's tensors and knobs, of what is kept of it and how, and of how images are normalised.

    The tensors themselves, so that classes that were left out, and how a file was translated, count as well; and the
    code that computes with them, since the folder outlives an update of the service.
    """
    seen = hashlib.sha256()
    facts = [
        FORMAT,
        *map(_release, PACKAGES),
        teacher.config.model_dump_json(),
        teacher.num_classes,
        pixels.model_dump_json(),
        config.dtype,
    ]
    seen.update(repr([*facts, *asked(needs)]).encode())
    for name, x in sorted(teacher.state_dict().items()):
        seen.update(repr((name, x.dtype, tuple(x.shape))).encode())
        seen.update(_bytes(x))
    return seen.hexdigest()


def asked(needs: Iterable[Need]) -> list[str]:
    """What is kept, in words: two distillations that want the same of a teacher share it."""
    found = {
        f"HeadCut {need.of('teacher')} {need.after_relu}" if isinstance(need, HeadCut) else type(need).__name__
        for need in needs
        if "teacher" in need.sides
    }
    return sorted(found)


def view_key(shown: Shown, canvas: Size, kind: str) -> str:
    """Of an image on a canvas of (height, width); `kind` says in what precision the teacher runs."""
    return hashlib.sha256(repr((shown.digest, shown.mirrored, canvas, kind)).encode()).hexdigest()


def precision(images: Tensor) -> str:
    """In what a network computes now."""
    device = images.device.type
    return str(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype)


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not needed, or a folder of sources
        return ""


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
