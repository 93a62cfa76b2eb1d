"""A bucket as storage, on a server that speaks S3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from api.storage import CorruptUpload, IncompleteUpload, OffsetMismatch, PresignedPart, StorageUnavailable
from api.stores.bucket import Bucket, BucketObject
from api.stores.s3 import S3Storage
from tests.support.s3 import KEY, S3, SECRET, s3_server
from tests.support.worker_calls import DIGEST

JOB = "0" * 32
PART = "f" * 64
PART_SIZE = 100_000
CONTENT = os.urandom(250_000)  # three parts
ATTRIBUTES: Any = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def make(s3: S3, tmp_path: Path) -> Callable[..., S3Storage]:
    def make(**changes: Any) -> S3Storage:
        values = s3.settings(storage_part_size=PART_SIZE) | {"home": tmp_path, "worker_token_sha256": DIGEST}
        return S3Storage(Settings(**values | changes))

    return make


@pytest.fixture
def storage(make: Callable[..., S3Storage]) -> S3Storage:
    return make()


def put(storage: S3Storage, key: str, content: bytes) -> None:
    with storage.stage(PART) as staged:
        staged.write(content)
        storage.publish(staged, key)


def bring(parts: list[PresignedPart], content: bytes) -> list[bytes]:
    """Send every part to its address; their checksums."""
    sums = []
    for part in parts:
        chunk = content[part.offset : part.offset + part.size]
        httpx.put(part.url, content=chunk, trust_env=False).raise_for_status()
        sums.append(hashlib.md5(chunk).digest())
    return sums


def everything(storage: S3Storage) -> list[str]:
    return sorted(found.path for found in storage.bucket.list())


def content_of(storage: S3Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


# --- through the API -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello", os.urandom(20_000_000)], ids=["empty", "small", "large"])
def test_what_is_published_can_be_read_and_deleted(storage: S3Storage, tmp_path: Path, content: bytes) -> None:
    key = f"{JOB}/1-log.txt"
    put(storage, key, content)
    assert content_of(storage, key) == content
    assert not list((tmp_path / "artifacts" / "staging").iterdir())
    storage.delete(key)
    storage.delete(key)
    with pytest.raises(FileNotFoundError):
        storage.open(key)


def test_a_file_is_read_where_it_is_asked_for(storage: S3Storage) -> None:
    put(storage, f"{JOB}/1-a", CONTENT)
    with storage.open(f"{JOB}/1-a") as file:
        assert file.seek(0, os.SEEK_END) == len(CONTENT)
        assert file.read(10) == b""
        file.seek(70_000)
        assert (file.read(10), file.tell()) == (CONTENT[70_000:70_010], 70_010)
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(CONTENT).digest()


def test_what_comes_through_the_api_goes_on_where_it_broke_off(storage: S3Storage) -> None:
    with storage.stage(PART) as staged:
        staged.write(b"first ")
    with pytest.raises(OffsetMismatch), storage.stage(PART, 5):
        pass
    assert storage.staged_size(PART) == 6
    with storage.stage(PART, 6) as staged:
        staged.write(b"second")
        storage.publish(staged, f"{JOB}/1-a")
    assert content_of(storage, f"{JOB}/1-a") == b"first second"


@pytest.mark.parametrize("size", [0, 1, 250_000, 300_000])
def test_a_large_file_is_read_by_several_requests(storage: S3Storage, monkeypatch: Any, size: int) -> None:
    monkeypatch.setattr("api.stores.bucket.SPAN", 100_000)
    content = os.urandom(size)
    storage.bucket.put("some/object", content)
    chunks = [bytes(chunk) for chunk in storage.bucket.chunks("some/object")]
    assert b"".join(chunks) == content
    assert len(chunks) == -(-size // 100_000)


def test_other_bytes_in_the_bucket_than_were_sent_are_noticed(storage: S3Storage, monkeypatch: Any) -> None:
    monkeypatch.setattr(Bucket, "put_file", lambda bucket, path, *_: bucket.put(path, b"hellO"))
    with pytest.raises(StorageUnavailable, match="does not hold what was sent"):
        put(storage, f"{JOB}/1-a", b"hello")
    assert everything(storage) == []
    assert storage.staged_size(PART) == 5  # to be sent again


def test_lists_what_is_published_with_age_and_size(storage: S3Storage) -> None:
    put(storage, f"{JOB}/1-a", b"a")
    put(storage, f"{JOB}/2-b", b"bb")
    storage.bucket.put(f"staging/{PART}/0-5", b"parts")
    found = {stored.key: stored for stored in storage.files()}
    assert {key: stored.size for key, stored in found.items()} == {f"{JOB}/1-a": 1, f"{JOB}/2-b": 2}
    assert all(-5 < stored.age < 60 for stored in found.values())


@pytest.mark.parametrize("key", ["", "../a", "a/../b", "a/b/c", "staging/a", "a/b\n", "./a", "a/"])
def test_keys_stay_inside(storage: S3Storage, key: str) -> None:
    for use in (storage.open, storage.delete, storage.presigned_url):
        with pytest.raises(ValueError, match="no storage key"):
            use(key)
    with pytest.raises(ValueError, match="no storage key"):
        storage.direct_uploads.publish(PART, 0, b"", [b""], key)
    with pytest.raises(ValueError, match="no name of a part"):
        storage.direct_uploads.presigned_parts("../x", 1)


# --- past the API ----------------------------------------------------------------------------------------------------


def test_a_link_gives_the_file_to_who_has_it(storage: S3Storage) -> None:
    put(storage, f"{JOB}/1-best.safetensors", CONTENT)
    link = storage.presigned_url(f"{JOB}/1-best.safetensors")
    assert link.size == len(CONTENT)
    assert SECRET not in link.url
    answer = httpx.get(link.url, headers={"Range": "bytes=5-8"}, trust_env=False)
    assert (answer.status_code, answer.content) == (206, CONTENT[5:9])
    assert answer.headers["content-disposition"] == 'attachment; filename="best.safetensors"'
    with pytest.raises(FileNotFoundError):
        storage.presigned_url(f"{JOB}/1-other")


def test_links_may_lead_to_another_name_of_the_server(make: Callable[..., S3Storage], s3: S3) -> None:
    public = s3.url.replace("127.0.0.1", "localhost")
    storage = make(storage_public_endpoint=public)
    put(storage, f"{JOB}/1-a", b"x")
    assert storage.presigned_url(f"{JOB}/1-a").url.startswith(f"{public}/")
    assert all(part.url.startswith(f"{public}/") for part in storage.direct_uploads.presigned_parts(PART, 10))


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, PART_SIZE + 1, len(CONTENT)])
def test_parts_become_a_file(storage: S3Storage, size: int) -> None:
    content, key = CONTENT[:size], f"{JOB}/1-best.safetensors"
    parts = storage.direct_uploads.presigned_parts(PART, size)
    assert [part.arrived for part in parts] == [False] * len(parts)
    assert (parts[0].offset, sum(part.size for part in parts)) == (0, size)
    sums = bring(parts, content)
    assert all(part.arrived for part in storage.direct_uploads.presigned_parts(PART, size))
    storage.direct_uploads.publish(PART, size, hashlib.sha256(content).digest(), sums, key)
    assert content_of(storage, key) == content
    storage.direct_uploads.discard(PART, size)
    storage.direct_uploads.discard(PART, size)
    assert everything(storage) == [key]


def test_a_plan_tells_what_has_arrived(storage: S3Storage) -> None:
    parts = storage.direct_uploads.presigned_parts(PART, len(CONTENT))
    bring(parts[1:2], CONTENT)
    httpx.put(parts[2].url, content=b"short", trust_env=False)
    assert [part.arrived for part in storage.direct_uploads.presigned_parts(PART, len(CONTENT))] == [False, True, False]
    with pytest.raises(IncompleteUpload) as missing:
        storage.direct_uploads.publish(PART, len(CONTENT), b"", [b""] * 3, f"{JOB}/1-a")
    assert missing.value.offset == 0
    bring(parts[:1], CONTENT)
    with pytest.raises(IncompleteUpload) as missing:
        storage.direct_uploads.publish(PART, len(CONTENT), b"", [b""] * 3, f"{JOB}/1-a")
    assert missing.value.offset == 200_000


@pytest.mark.parametrize("size", [50_000, len(CONTENT)])
def test_wrong_bytes_are_not_published(storage: S3Storage, size: int) -> None:
    content = CONTENT[:size]
    bring(storage.direct_uploads.presigned_parts(PART, size), bytes([content[0] ^ 1]) + content[1:])
    sums = [hashlib.md5(content[at : at + PART_SIZE]).digest() for at in range(0, size, PART_SIZE)]
    with pytest.raises(CorruptUpload, match="not those of the digest"):
        storage.direct_uploads.publish(PART, size, hashlib.sha256(content).digest(), sums, f"{JOB}/1-a")
    with pytest.raises(IncompleteUpload):  # other parts than are planned by now
        storage.direct_uploads.publish(PART, size, hashlib.sha256(content).digest(), [*sums, b""], f"{JOB}/1-a")
    assert list(storage.files()) == []


def test_a_file_that_grew_on_the_way_is_not_published(storage: S3Storage, monkeypatch: Any) -> None:
    sums = bring(storage.direct_uploads.presigned_parts(PART, 10), CONTENT[:10])
    copy = Bucket.copy

    def late(bucket: Bucket, source: str, target: str) -> None:
        bucket.put(source, CONTENT[:11])
        copy(bucket, source, target)

    monkeypatch.setattr(Bucket, "copy", late)
    with pytest.raises(CorruptUpload, match="11 bytes, not 10"):
        storage.direct_uploads.publish(PART, 10, hashlib.sha256(CONTENT[:10]).digest(), sums, f"{JOB}/1-a")
    assert list(storage.files()) == []


def test_a_bucket_whose_tags_are_no_checksums_is_read(storage: S3Storage, monkeypatch: Any) -> None:
    sums = bring(storage.direct_uploads.presigned_parts(PART, 10), CONTENT[:10])
    find = Bucket.find
    monkeypatch.setattr(Bucket, "find", lambda bucket, path: find(bucket, path)._replace(etag="0" * 32))
    storage.direct_uploads.publish(PART, 10, hashlib.sha256(CONTENT[:10]).digest(), sums, f"{JOB}/1-a")
    assert content_of(storage, f"{JOB}/1-a") == CONTENT[:10]


def test_an_address_to_write_changes_nothing_that_is_published(storage: S3Storage) -> None:
    parts = storage.direct_uploads.presigned_parts(PART, 10)
    storage.direct_uploads.publish(
        PART, 10, hashlib.sha256(CONTENT[:10]).digest(), bring(parts, CONTENT[:10]), f"{JOB}/1-a"
    )
    storage.direct_uploads.discard(PART, 10)
    assert httpx.put(parts[0].url, content=b"0123456789", trust_env=False).is_success
    assert content_of(storage, f"{JOB}/1-a") == CONTENT[:10]
    assert [stored.key for stored in storage.files()] == [f"{JOB}/1-a"]


def test_parts_that_break_off_make_no_file(storage: S3Storage) -> None:
    def chunks() -> Iterator[memoryview]:
        yield memoryview(bytes(40_000_000))
        raise StorageUnavailable("the bucket does not answer")

    with pytest.raises(StorageUnavailable):
        storage.bucket.join(f"{JOB}/1-a", chunks(), ATTRIBUTES)
    assert everything(storage) == []


def test_sweeps_what_uploads_left_here_and_there(storage: S3Storage, tmp_path: Path) -> None:
    put(storage, f"{JOB}/1-a", b"a")
    bring(storage.direct_uploads.presigned_parts(PART, len(CONTENT)), CONTENT)
    with storage.stage("0" * 64) as staged:
        staged.write(b"x")
    assert storage.sweep_staging(3600) == 0
    assert storage.sweep_staging(-60) == 4
    assert everything(storage) == [f"{JOB}/1-a"]
    assert not list((tmp_path / "artifacts" / "staging").iterdir())


def test_an_upload_is_as_old_as_its_youngest_part(storage: S3Storage, monkeypatch: Any) -> None:
    bring(storage.direct_uploads.presigned_parts(PART, len(CONTENT)), CONTENT)
    youngest = everything(storage)[-1]
    listed = storage.bucket.list

    def hours_later(prefix: str | None = None) -> Iterator[BucketObject]:
        return (found._replace(age=60.0 if found.path == youngest else 90_000.0) for found in listed(prefix))

    monkeypatch.setattr(storage.bucket, "list", hours_later)
    assert storage.sweep_staging(3600) == 0
    assert storage.sweep_staging(59) == 3


def test_what_others_have_in_the_bucket_stays(storage: S3Storage) -> None:
    strange = ["staging/site/index.html", f"staging/{PART}", f"staging/{PART}/a/0-1", "staging/probe-run.csv"]
    for path in strange:
        storage.bucket.put(path, b"a stranger's")
    assert storage.sweep_staging(-60) == 0
    assert everything(storage) == sorted(strange)


def test_a_file_has_no_more_parts_than_a_plan_can_tell(storage: S3Storage) -> None:
    parts = storage.direct_uploads.presigned_parts(PART, 3 * 10**9 + 1)
    assert len(parts) <= 10_000
    assert [part.offset for part in parts[:3]] == [0, 300_001, 600_002]
    assert sum(part.size for part in parts) == 3 * 10**9 + 1


# --- outages ---------------------------------------------------------------------------------------------------------


def uses(storage: S3Storage) -> dict[str, Callable[[], Any]]:
    key = f"{JOB}/1-a"
    return {
        "publish": lambda: put(storage, key, b"x"),
        "presigned_url": lambda: storage.presigned_url(key),
        "delete": lambda: storage.delete(key),
        "files": lambda: list(storage.files()),
        "probe": storage.probe,
        "sweep": lambda: storage.sweep_staging(0),
        "presigned_parts": lambda: storage.direct_uploads.presigned_parts(PART, 1),
        "open": lambda: storage.open(key),
    }


@pytest.mark.parametrize(
    "use", ["publish", "presigned_url", "delete", "files", "probe", "sweep", "presigned_parts", "open"]
)
def test_a_server_that_is_away(make: Callable[..., S3Storage], monkeypatch: Any, use: str) -> None:
    monkeypatch.setattr("api.stores.bucket._RETRIES", {"max_retries": 0})
    storage = make(storage_endpoint="http://127.0.0.1:1")
    with pytest.raises(StorageUnavailable) as away:
        uses(storage)[use]()
    assert str(away.value) == "the bucket does not answer"


@pytest.mark.parametrize("use", ["publish", "delete", "files", "probe", "sweep", "presigned_parts"])
def test_a_bucket_that_is_not_there(make: Callable[..., S3Storage], use: str) -> None:
    storage = make(storage_url="s3://nobody-has-made-it")
    with pytest.raises(StorageUnavailable) as away:
        uses(storage)[use]()
    assert away.value.code == "NoSuchBucket"
    assert SECRET not in str(away.value)


def test_a_connection_that_breaks_while_a_file_is_read(storage: S3Storage, monkeypatch: Any) -> None:
    put(storage, f"{JOB}/1-a", b"x")
    file = storage.open(f"{JOB}/1-a")
    storage.delete(f"{JOB}/1-a")
    with file, pytest.raises(FileNotFoundError, match=r"the bucket has no .*1-a"):
        file.read()


def test_a_server_that_goes_away_while_a_file_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    """The reader of obstore tells of it as an `OSError` of no kind."""
    monkeypatch.setattr("api.stores.bucket._RETRIES", {"max_retries": 0})
    with s3_server() as mortal:
        storage = S3Storage(Settings(**mortal.settings(), home=tmp_path, worker_token_sha256=DIGEST))
        put(storage, f"{JOB}/1-a", b"x")
        file = storage.open(f"{JOB}/1-a")
    with file, pytest.raises(StorageUnavailable, match="the bucket does not answer"):
        file.read()


def test_secrets_are_not_shown(storage: S3Storage, s3: S3, tmp_path: Path) -> None:
    settings = Settings(**s3.settings(home=tmp_path, worker_token_sha256=DIGEST))
    assert SECRET not in repr(settings)
    assert SECRET not in repr(storage.bucket._store)
    assert KEY not in repr(storage.bucket._store)
