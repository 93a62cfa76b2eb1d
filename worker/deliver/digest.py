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


def recorded_digest(path: Path) -> str | None:
    """The sha256 that was written beside a checkpoint, in hex; None if there is none.

    Raises:
        OSError: it cannot be read.
    """
    beside = digest_file(path)
    return next(iter(beside.read_text().split()), None) if beside.is_file() else None


def digest_file(path: Path) -> Path:
    """Where the digest of a checkpoint is written, as the core does it."""
    return path.with_name(f"{path.name}.sha256")


def content_digest(sha256: bytes) -> str:
    """The `Content-Digest` header (RFC 9530) of a body with this sha256."""
    return f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:"
