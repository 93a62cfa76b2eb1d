"""The header of a safetensors file, read by hand: eight bytes of length, then JSON. No tensor is touched, nor torch.

Format: https://huggingface.co/docs/safetensors. Bounds are checked, so a hostile file costs little.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_HEADER = 16_000_000  # bytes: room for 100,000 tensors, and what hostile JSON of this size costs is bearable
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_BYTES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}

Shape = tuple[int, ...]


class NotSafetensors(Exception):
    """The file is no safetensors file, or a broken one."""


@dataclass(frozen=True)
class WeightsHeader:
    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str]

    @property
    def foreign(self) -> bool:
        """Named as MMDetection or torchvision names its parameters; the worker translates them."""
        return any(name.startswith(("bbox_head.", "backbone.body.", "backbone.backbone.")) for name in self.shapes)

    def json_metadata(self, key: str) -> Any:
        """A metadata entry that holds JSON; None where it is missing or is no JSON."""
        try:
            return json.loads(self.metadata[key])
        except (KeyError, ValueError, RecursionError):
            return None


def read_header(file: BinaryIO) -> WeightsHeader:
    """Names, shapes and metadata. Raises `NotSafetensors`, also where tensors overlap or the file is cut off."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length < 2 or length > min(MAX_HEADER, size - 8):
        raise NotSafetensors("it does not begin with the length of a safetensors header")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise NotSafetensors("its header is not JSON") from None
    if not isinstance(header, dict):
        raise NotSafetensors("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise NotSafetensors("its metadata is not a map of strings")
    _check_text([*header, *metadata, *metadata.values()])
    spans = [_span(name, entry) for name, entry in header.items()]
    _check_layout(spans, size - 8 - length)
    return WeightsHeader({name: tuple(entry["shape"]) for name, entry in header.items()}, metadata)


def _check_text(texts: list[str]) -> None:
    """JSON can spell half a surrogate pair; the safetensors library refuses such a file, too."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise NotSafetensors("its header holds text that is not Unicode") from None


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Begin and end of a tensor's bytes, after checking them against its type and shape."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = len(shape) <= 16 and all(type(n) is int and 0 <= n < 2**63 for n in [*shape, begin, end])
        if not counts or end - begin != math.prod(shape) * _BYTES[dtype]:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise NotSafetensors(f"its entry for {name[:200]!r} is malformed") from None
    return begin, end


def _check_layout(spans: list[tuple[int, int]], size: int) -> None:
    """Tensors follow each other without a gap and fill the file."""
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise NotSafetensors("its tensors overlap or leave gaps")
        at = end
    if at != size:
        raise NotSafetensors(f"it should hold {at} bytes of tensors but holds {size}: it was cut off or grew")
