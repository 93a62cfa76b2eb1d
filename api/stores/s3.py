"""Artifacts in a bucket. What workers bring to the API itself is staged in a folder, then sent to the bucket.

Workers can do without: they are given addresses in the bucket, one for each part of a file (`S3DirectUploads`). Parts
lie under `staging/`, which nobody reads; what is published is a copy that no address to write was ever given for, so
its bytes cannot change any more. The copy is made, and its checksum told, by the bucket; only a file of several parts
is put together here, because S3 joins none that were not announced as one upload.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from api.settings import Settings
from api.storage import (
    STAGING,
    CorruptUpload,
    IncompleteUpload,
    PresignedPart,
    PresignedUrl,
    StagedUpload,
    StorageUnavailable,
    StoredFile,
    check_key,
    check_part,
)
from api.stores.bucket import Bucket, BucketObject
from api.stores.local import PROBE, LocalStagedUpload, LocalStorage

if TYPE_CHECKING:
    from obstore import Attributes

MOST_PARTS = 10_000  # of a file: its plan and its commit must fit into a body
_STAGED = re.compile(rf"{STAGING}/([0-9a-f]{{64}}(?=/\d+-\d+$)|probe-[0-9a-f]{{32}}$)")


class S3Storage:
    """A bucket, and a folder on this machine for what is on its way through the API."""

    def __init__(self, settings: Settings) -> None:
        self.bucket = Bucket(settings)
        self.direct_uploads = S3DirectUploads(self.bucket, settings.storage_part_size)
        self._local = LocalStorage(settings.storage)

    def stage(self, part: str, start: int = 0) -> StagedUpload:
        return self._local.stage(part, start)

    def staged_size(self, part: str) -> int:
        return self._local.staged_size(part)

    def publish(self, staged: StagedUpload, key: str) -> None:
        if not isinstance(staged, LocalStagedUpload):
            raise TypeError(f"{type(staged).__name__} was not staged here")
        with staged.path.open("rb") as file:
            self.bucket.put_file(check_key(key), file, attributes(key))
        # Read back: of an object that was written in parts the bucket tells no checksum that could be foreseen.
        if _sha256(self.bucket, key) != staged.sha256():
            self.bucket.delete(key)
            raise StorageUnavailable("the bucket does not hold what was sent to it")
        staged.discard()

    def open(self, key: str) -> BinaryIO:
        return self.bucket.open(check_key(key))

    def size(self, key: str) -> int:
        return self.bucket.find(check_key(key)).size

    def presigned_url(self, key: str) -> PresignedUrl:
        return PresignedUrl(self.bucket.sign("GET", check_key(key)), self.bucket.find(key).size)

    def delete(self, key: str) -> None:
        self.bucket.delete(check_key(key))

    def files(self) -> Iterator[StoredFile]:
        for found in self.bucket.list():
            if not found.path.startswith(f"{STAGING}/"):
                yield StoredFile(found.path, found.age, found.size)

    def probe(self) -> None:
        self._local.probe()
        path = f"{STAGING}/probe-{os.urandom(16).hex()}"
        self.bucket.put(path, PROBE)
        self.bucket.delete(path)

    def sweep_staging(self, older_than: float) -> int:
        removed = self._local.sweep_staging(older_than)
        uploads: dict[str, list[BucketObject]] = {}
        for found in self.bucket.list(STAGING):
            if ours := _STAGED.match(found.path):  # others may have a folder of this name in the same bucket
                uploads.setdefault(ours[1], []).append(found)
        for parts in uploads.values():
            # By the youngest: over a slow line the first parts of a large file are old before its last have come.
            if min(part.age for part in parts) > older_than:
                for part in parts:
                    self.bucket.delete(part.path)
                removed += len(parts)
        return removed


class S3DirectUploads:
    """What workers bring to a bucket by themselves, in parts of `part_size` bytes and a rest; larger ones, if those
    would be more than `MOST_PARTS`.
    """

    def __init__(self, bucket: Bucket, part_size: int) -> None:
        self._bucket = bucket
        self._part_size = part_size

    def presigned_parts(self, part: str, size: int) -> list[PresignedPart]:
        there = {found.path: found.size for found in self._bucket.list(_folder(part))}
        return [
            PresignedPart(self._bucket.sign("PUT", path), offset, length, there.get(path) == length)
            for path, offset, length in self._layout(part, size)
        ]

    def publish(self, part: str, size: int, sha256: bytes, checksums: list[bytes], key: str) -> None:
        layout, key = self._layout(part, size), check_key(key)
        if len(checksums) != len(layout):  # they are of a plan from before the part size was set otherwise
            raise IncompleteUpload(0)
        for path, offset, length in layout:
            with suppress(FileNotFoundError):
                if self._bucket.find(path).size == length:
                    continue
            raise IncompleteUpload(offset)
        try:
            digest = None
            if len(layout) > 1:
                digest = self._join(layout, key)
            else:
                self._bucket.copy(layout[0][0], key)
        except FileNotFoundError:  # discarded by who has just published the same
            raise IncompleteUpload(0) from None
        try:
            self._verify(self._bucket.find(key), size, sha256, digest, checksums)
        except CorruptUpload:
            self._bucket.delete(key)
            raise

    def discard(self, part: str, size: int) -> None:
        for path, _, _ in self._layout(part, size):
            self._bucket.delete(path)

    def _layout(self, part: str, size: int) -> list[tuple[str, int, int]]:
        """Path, offset and size of each part. The path tells both: another part size later is another layout."""
        step = max(self._part_size, -(-size // MOST_PARTS))
        offsets = range(0, max(size, 1), step)
        lengths = [min(step, size - offset) for offset in offsets]
        return [(f"{_folder(part)}/{at}-{length}", at, length) for at, length in zip(offsets, lengths, strict=True)]

    def _join(self, layout: list[tuple[str, int, int]], key: str) -> bytes:
        """Put the parts together; the sha256 of what came of it."""
        digest = hashlib.sha256()

        def chunks() -> Iterator[memoryview]:
            for path, _, _ in layout:
                for chunk in self._bucket.chunks(path):
                    digest.update(chunk)
                    yield chunk

        self._bucket.join(key, chunks(), attributes(key))
        return digest.digest()

    def _verify(
        self, found: BucketObject, size: int, sha256: bytes, digest: bytes | None, checksums: list[bytes]
    ) -> None:
        """Raises `CorruptUpload`. The bucket's own checksum saves reading the file, if it tells one that we know."""
        if found.size != size:
            raise CorruptUpload(f"it has {found.size} bytes, not {size}")
        if digest is None and found.etag == checksums[0].hex():
            return
        if (digest or _sha256(self._bucket, found.path)) != sha256:
            raise CorruptUpload("its bytes are not those of the digest")


def attributes(key: str) -> Attributes:
    """What the bucket tells to who reads an object by its address."""
    name = key.partition("/")[2].partition("-")[2]
    return {"Content-Type": "application/octet-stream", "Content-Disposition": f'attachment; filename="{name}"'}


def _folder(part: str) -> str:
    return f"{STAGING}/{check_part(part)}"


def _sha256(bucket: Bucket, key: str) -> bytes:
    digest = hashlib.sha256()
    for chunk in bucket.chunks(key):
        digest.update(chunk)
    return digest.digest()
