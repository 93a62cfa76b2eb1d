"""A bucket that speaks S3, by obstore: small files in memory, large ones as streams, and one kind of error."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, cast

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from typing_extensions import override

from api.settings import Settings
from api.storage import StorageUnavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import Attributes, ReadableFile

READ_SIZE = 4 << 20  # bytes of one request for a part of an object
SPAN = 128 << 20  # bytes of one request where all of it is read: a request as a whole has its time, too
WRITE_SIZE = 16 << 20  # bytes of a part of a large object: there are at most 10,000 of them
WRITERS = 2  # parts on their way at once; each is in memory
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}


class BucketObject(NamedTuple):
    """What a bucket tells of an object."""

    path: str
    size: int  # bytes
    age: float  # seconds since it was written
    etag: str  # the MD5 in hex, of an object that was written in one piece and is not encrypted with a key of its own


class Bucket:
    """One bucket, below a prefix.

    Every method raises `StorageUnavailable` if it cannot be reached or refuses us, and `FileNotFoundError` for an
    object that is not there.
    """

    def __init__(self, settings: Settings) -> None:
        name, _, prefix = (settings.storage_url or "").removeprefix("s3://").partition("/")
        self.name = name
        self._store = _store(settings, name, prefix, settings.storage_endpoint)
        public = settings.storage_public_endpoint
        self._public = _store(settings, name, prefix, public) if public else self._store
        self._link = timedelta(seconds=settings.storage_link_seconds)

    def find(self, path: str) -> BucketObject:
        with _translated_errors(path):
            return _found(obstore.head(self._store, path))

    def list(self, prefix: str | None = None) -> Iterator[BucketObject]:
        """Every object below a folder, in no order."""
        with _translated_errors(prefix or self.name):
            for some in obstore.list(self._store, prefix):
                yield from map(_found, some)

    def put(self, path: str, content: bytes) -> None:
        with _translated_errors(path):
            obstore.put(self._store, path, content, use_multipart=False)

    def put_file(self, path: str, file: IO[bytes], attributes: Attributes) -> None:
        """A file of any size. Nothing is at `path` before all of it is."""
        with _translated_errors(path):
            obstore.put(self._store, path, file, attributes=attributes, chunk_size=WRITE_SIZE, max_concurrency=WRITERS)

    def join(self, path: str, chunks: Iterator[memoryview], attributes: Attributes) -> None:
        """An object made of `chunks`. Nothing is at `path` if they break off."""
        with _translated_errors(path):
            # Not as a context manager: that would complete the object also after an error. Nor `put` of an iterator:
            # it may not read from the bucket meanwhile.
            writer = obstore.open_writer(
                self._store, path, attributes=attributes, buffer_size=WRITE_SIZE, max_concurrency=WRITERS
            )
            for chunk in chunks:
                writer.write(chunk)
            writer.close()

    def copy(self, source: str, target: str) -> None:
        """Within the bucket; no byte comes here. At most 5 GB."""
        with _translated_errors(source):
            obstore.copy(self._store, source, target)

    def delete(self, path: str) -> None:
        """One that is gone already is no error."""
        with _translated_errors(path):
            obstore.delete(self._store, path)

    def chunks(self, path: str) -> Iterator[memoryview]:
        """The whole object, in constant memory."""
        with _translated_errors(path):
            size = self.find(path).size
            for start in range(0, size, SPAN):
                span = obstore.get(self._store, path, options={"range": (start, min(start + SPAN, size))})
                for chunk in span.stream(min_chunk_size=READ_SIZE):
                    yield memoryview(chunk)

    def open(self, path: str) -> BinaryIO:
        with _translated_errors(path):
            found = obstore.open_reader(self._store, path, buffer_size=READ_SIZE)
        return cast(BinaryIO, io.BufferedReader(_Reader(found, path)))

    def sign(self, method: Literal["GET", "PUT"], path: str) -> str:
        """An address that is good for this method and object, for the time that the settings name."""
        with _translated_errors(path):
            return obstore.sign(self._public, method, path, self._link)


class _Reader(io.RawIOBase):
    """An object as a file that is read by ranges."""

    def __init__(self, file: ReadableFile, path: str) -> None:
        self._file = file
        self._path = path

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._file.tell()

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    @override
    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        with _translated_errors(self._path):
            chunk = memoryview(self._file.read(len(view)))
        view[: len(chunk)] = chunk
        return len(chunk)

    @override
    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _store(settings: Settings, bucket: str, prefix: str, endpoint: str | None) -> S3Store:
    config: dict[str, str] = {"region": settings.storage_region}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if settings.storage_access_key_id is not None and settings.storage_secret_access_key is not None:
        config["access_key_id"] = settings.storage_access_key_id
        config["secret_access_key"] = settings.storage_secret_access_key.get_secret_value()
        if settings.storage_session_token is not None:
            config["session_token"] = settings.storage_session_token.get_secret_value()
    http = (endpoint or "").startswith("http://")
    options: Any = {"allow_http": http, "connect_timeout": "3s", "read_timeout": "60s", "timeout": "10m"}
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        client_options=options,
        retry_config=_RETRIES,
        config=cast(Any, config),
    )


def _found(meta: Any) -> BucketObject:
    age = (datetime.now(UTC) - meta["last_modified"]).total_seconds()
    return BucketObject(meta["path"], meta["size"], age, (meta["e_tag"] or "").strip('"'))


@contextmanager
def _translated_errors(what: str) -> Iterator[None]:
    """Errors in our words: obstore's are pages long, and tell what was asked of whom."""
    try:
        yield
    except FileNotFoundError as error:
        if "<Code>NoSuchBucket</Code>" in str(error):
            raise StorageUnavailable("there is no such bucket", "NoSuchBucket") from None
        raise FileNotFoundError(f"the bucket has no {what}") from None
    except StorageUnavailable:
        raise
    except (BaseError, ValueError) as error:
        raise _unavailable(error) from None
    except OSError as error:
        if error.errno is not None:  # the system's, of a file of this machine
            raise
        raise _unavailable(error) from None  # a reader's or writer's: obstore has no kinds for what breaks them


def _unavailable(error: Exception) -> StorageUnavailable:
    text = str(error)
    code = found[1] if (found := _CODE.search(text)) else ""
    if not code and "/latest/" in text:
        return StorageUnavailable("there are no credentials for the bucket", "NoCredentials")
    if not code and isinstance(error, PermissionDeniedError | UnauthenticatedError):
        code = "AccessDenied"
    return StorageUnavailable(f"the bucket answers {code}" if code else "the bucket does not answer", code)
