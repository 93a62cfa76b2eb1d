"""Where artifacts lie: in a folder or in a bucket (`api/stores/`). A key, `<job>/<id>-<name>`, is written once; its
bytes never change afterwards.

Publishing has two phases. A file is staged, verified, then published under a new key that no row names yet; the
transaction that names the key in the database makes it visible. A crash in between leaves a file that nobody
names, which `services.files.artifacts.sweep` removes; it never leaves a row without its file.

Staged bytes outlive the request that brought them, under a name of their own: whoever comes back brings the rest.
A storage that workers can reach by themselves (`DirectUploads`) takes them without this process in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType
from typing import Annotated, BinaryIO, NamedTuple, Protocol

from fastapi import Depends, Request

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
_PART = re.compile(r"[0-9a-f]{64}")
STAGING = "staging"  # the folder of what is not published yet; no job is called so


class PartLocked(Exception):
    """Somebody else is writing the very same part."""


class OffsetMismatch(Exception):
    """The part has another size than the one to go on from."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the part has {size} bytes")
        self.size = size


class StorageUnavailable(OSError):
    """The storage does not answer, or refuses us; it may come back. The message names no secret.

    `code` is the storage's own word for what is wrong, if it has one, such as AccessDenied.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class IncompleteUpload(Exception):
    """A file that should have arrived in the storage has not, or not all of it."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"byte {offset} and what follows have not arrived")
        self.offset = offset


class CorruptUpload(Exception):
    """What has arrived in the storage is not what was announced."""


class StoredFile(NamedTuple):
    key: str
    age: float  # seconds since it was written
    size: int  # bytes


class PresignedUrl(NamedTuple):
    """Where to GET a file: whoever has the address may read it for a while, without a token."""

    url: str
    size: int  # bytes that lie there


class PresignedPart(NamedTuple):
    """A part of a file, and where to PUT it. Whoever has the address may bring just that part, for a while."""

    url: str
    offset: int
    size: int
    arrived: bool


class DirectUploads(Protocol):
    """What a storage offers that workers bring files to by themselves. `part` (64 hex digits) names a file."""

    def presigned_parts(self, part: str, size: int) -> list[PresignedPart]:
        """Where the parts of a file of `size` bytes go, and which of them are there already."""

    def publish(self, part: str, size: int, sha256: bytes, checksums: list[bytes], key: str) -> None:
        """Make what has arrived durable under a key that was never used before, once it proves to be what it should.

        `checksums` are the MD5s of the parts, reckoned by who brought them.

        Raises:
            IncompleteUpload: a part is not there yet.
            CorruptUpload: size or checksum differ; nothing stands under the key.
        """

    def discard(self, part: str, size: int) -> None:
        """Forget what has arrived of it."""


class StagedUpload(Protocol):
    """Bytes on their way in, held by one writer. What is neither published nor discarded waits for the rest."""

    size: int

    def write(self, chunk: bytes) -> None:
        """Append."""

    def sha256(self) -> bytes:
        """Of all bytes, also of those that came earlier."""

    def discard(self) -> None:
        """Forget them."""

    def __enter__(self) -> StagedUpload: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A place for artifacts. Every method blocks; a caller with an event loop uses a thread.

    All of them raise `OSError`: of a full disk as the system tells it, `StorageUnavailable` if a bucket cannot be
    reached.
    """

    @property
    def direct_uploads(self) -> DirectUploads | None:
        """What workers bring files to by themselves; None: they come through this process alone."""

    def stage(self, part: str, start: int = 0) -> StagedUpload:
        """Begin the file of any size that `part` (64 hex digits) names, or go on at byte `start`.

        Raises:
            PartLocked: another request, in whichever process, is at it.
            OffsetMismatch: to go on, it would have to start elsewhere.
        """

    def staged_size(self, part: str) -> int:
        """How many bytes of it there are."""

    def publish(self, staged: StagedUpload, key: str) -> None:
        """Make the staged bytes durable under a key that was never used before."""

    def open(self, key: str) -> BinaryIO:
        """The bytes, seekable. In a folder, a file that is open stays readable when its key is deleted.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def size(self, key: str) -> int:
        """Bytes of a file, without reading them. Raises as `open` does."""

    def presigned_url(self, key: str) -> PresignedUrl | None:
        """Where to read a file without this process in between; None: only by `open`. Raises as `open` does."""

    def delete(self, key: str) -> None:
        """Forget a key; one that is gone already is no error."""

    def files(self) -> Iterator[StoredFile]:
        """Every published file, in no order."""

    def probe(self) -> None:
        """Write something, and remove it. Raises `OSError` if files could not be taken now."""

    def sweep_staging(self, older_than: float) -> int:
        """Remove what uploads that died have left; how many. `older_than` in seconds since the last write."""


def check_key(key: str) -> str:
    """The key. Raises `ValueError` for one that could lead elsewhere."""
    if not _KEY.fullmatch(key) or key.startswith(f"{STAGING}/"):
        raise ValueError(f"{key!r} is no storage key")
    return key


def check_part(part: str) -> str:
    """The name of a part. Raises `ValueError`."""
    if not _PART.fullmatch(part):
        raise ValueError(f"{part!r} is no name of a part")
    return part


def _storage(request: Request) -> Storage:
    storage: Storage = request.app.state.storage
    return storage


StorageDep = Annotated[Storage, Depends(_storage)]
