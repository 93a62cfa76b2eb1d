"""One view of an image in the teacher cache: tensors, and the bytes of a file that holds them and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from crosskd.detectors.view import STATISTICS

Entry = dict[str, Tensor]  # as `detectors.view.Kept`, of one image, on the CPU
DIGEST = hashlib.sha256().digest_size


class Damaged(Exception):
    """The bytes are not those that were written."""


def size_of(entry: Entry) -> int:
    """Bytes of its tensors."""
    return sum(x.numel() * x.element_size() for x in entry.values())


def narrowed(kept: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """As it is stored: in float16 what has more, but statistics; what float16 cannot hold becomes its largest value."""
    if dtype != torch.float16:
        return dict(kept)
    most = torch.finfo(torch.float16).max
    return {
        name: x.clamp(-most, most).half() if x.is_floating_point() and _narrows(name, x) else x
        for name, x in kept.items()
    }


def widened(kept: Mapping[str, Tensor], wanted: torch.dtype) -> dict[str, Tensor]:
    """From what is stored to what the teacher computes in.

    Under autocast to float16 halves are its own. Under that to bfloat16 none is: they were float32, and autocast takes
    no others beside.
    """
    if wanted == torch.float16:
        return dict(kept)
    whole = torch.float32 if wanted == torch.bfloat16 else wanted
    return {name: x.to(whole) if x.dtype == torch.float16 else x for name, x in kept.items()}


def _narrows(name: str, x: Tensor) -> bool:
    return x.element_size() > 2 and not name.startswith(STATISTICS)


def pack(key: str, entry: Entry) -> bytes:
    """A sha256 of the key and of what follows: a safetensors file that has the entry."""
    body = save(entry)
    return _digest(key, body) + body


def unpack(key: str, content: bytes) -> Entry:
    """Raises `Damaged`, also for the entry of another key."""
    body = content[DIGEST:]
    if _digest(key, body) != content[:DIGEST]:
        raise Damaged
    try:
        return load(body)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged from error


def _digest(key: str, body: bytes) -> bytes:
    seen = hashlib.sha256(key.encode())
    seen.update(body)
    return seen.digest()
