"""A stored file as a process can read it, wherever it lies, and as its digest says it is."""

from __future__ import annotations

import hashlib
import tempfile
from typing import BinaryIO

from api.errors import Gone
from api.storage import Storage

READ_SIZE = 1 << 20  # bytes


def stored_copy(storage: Storage, key: str, sha256: str, what: str) -> BinaryIO:
    """A temporary file with its bytes. Raises `Gone` where the storage has them no more; `what` they are says it."""
    digest = hashlib.sha256()
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with storage.open(key) as source:
            while chunk := source.read(READ_SIZE):
                digest.update(chunk)
                copy.write(chunk)
    except FileNotFoundError:
        copy.close()
        raise _gone(what) from None
    except BaseException:
        copy.close()
        raise
    if digest.hexdigest() != sha256:
        copy.close()
        raise _gone(what)
    copy.flush()
    return copy


def _gone(what: str) -> Gone:
    return Gone(
        f"the stored {what} are gone or damaged",
        remedy="The storage does not match the database; restore it from a backup.",
    )
