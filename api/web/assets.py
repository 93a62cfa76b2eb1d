"""The files of the pages: our scripts, styles and icon, read once, and a digest that stands in their addresses."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """A file as it is sent."""

    body: bytes
    gzipped: bytes
    media_type: str
    etag: str


def asset(body: bytes, media_type: str) -> Asset:
    """The file of these bytes."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Asset(body, gzip.compress(body, mtime=0), media_type, etag)


@cache
def assets() -> dict[str, Asset]:
    """All files of the pages, by name."""
    found = {}
    for entry in resources.files("api.web").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(entry.name[entry.name.rfind(".") :])
        if media_type is not None:
            found[entry.name] = asset(entry.read_bytes(), media_type)
    return found


@cache
def version() -> str:
    """The digest of all files together: with another one they have other addresses, so browsers may keep them."""
    all_bytes = b"".join(name.encode() + found.body for name, found in sorted(assets().items()))
    return hashlib.sha256(all_bytes).hexdigest()[:16]
