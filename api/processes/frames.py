"""What the API and its processes for images say to each other: a JSON object, then bytes whose length it names.

JSON and not Python's own form: a process that a hostile image has taken over must not be able to run code here.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

_LENGTH = struct.Struct(">II")
MAX_HEADER = 64 << 20  # bytes; a thousand detections are a hundred thousand


class Closed(Exception):
    """The other end is gone, or speaks no frames."""


def write(stream: IO[bytes], header: dict[str, Any], content: bytes = b"") -> None:
    """Raises `OSError` where nobody reads any more."""
    text = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(text), len(content)))
    stream.write(text)
    stream.write(content)
    stream.flush()


def read(stream: IO[bytes], *, max_content: int) -> tuple[dict[str, Any], bytes]:
    """Raises `Closed`."""
    header_size, size = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if header_size > MAX_HEADER or size > max_content:
        raise Closed
    try:
        header = json.loads(_exactly(stream, header_size))
    except ValueError:
        raise Closed from None
    if not isinstance(header, dict):
        raise Closed
    return header, _exactly(stream, size)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    try:
        data = stream.read(count) if count else b""
    except (OSError, ValueError):
        raise Closed from None
    if len(data) < count:
        raise Closed
    return data
