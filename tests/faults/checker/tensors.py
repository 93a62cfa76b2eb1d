"""What is in a safetensors file, without what is said about it: two runs may differ in their metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

HEADER_BYTES = 8  # little-endian length of the JSON header that follows


def digests(path: Path) -> dict[str, str]:
    """By tensor name: type, shape and sha256 of the bytes. Equal exactly where the tensors are, bit for bit."""
    with path.open("rb") as file:
        return read(file)


def read(file: BinaryIO) -> dict[str, str]:
    """As `digests`. Raises `ValueError` for what is no safetensors file."""
    length = int.from_bytes(file.read(HEADER_BYTES), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(header.items()):
        begin, end = entry["data_offsets"]
        file.seek(HEADER_BYTES + length + begin)
        sha256 = hashlib.sha256(file.read(end - begin)).hexdigest()
        found[name] = f"{entry['dtype']} {entry['shape']} {sha256}"
    return found
