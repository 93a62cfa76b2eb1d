"""Digests of files, read in pieces so that memory stays flat whatever the size."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

CHUNK = 1 << 20


def sha256_of(path: Path) -> bytes:
    """The sha256 of the file at `path`, 32 bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def content_digest(sha256: bytes) -> str:
    """The `Content-Digest` header (RFC 9530) of a body with this sha256."""
    return f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:"
