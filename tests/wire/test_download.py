"""What a download of the client and one of the worker have in common, over a real socket."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from client.errors import DownloadError
from client.transport.download import fetch
from tests.support.file_source import CONTENT, FileSource, file_source
from wire.artifacts import ArtifactRef
from wire.download import announced
from worker.deliver.client import WorkerClient
from worker.deliver.retry import BadDownload, Refused, Retry, Unreachable

Fetch = Callable[..., Path]  # (target, patience=seconds)


@pytest.fixture
def source() -> Iterator[FileSource]:
    with file_source() as source:
        yield source


@pytest.fixture
def http(source: FileSource) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=source.url, trust_env=False) as http:
        yield http


@pytest.fixture(params=["client", "worker"])
def who(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def download(who: str, http: httpx.Client, source: FileSource) -> Fetch:
    """Download the source's file, as a client does or as a worker does."""

    def by_client(target: Path, patience: float = 20.0) -> Path:
        return fetch(http, "/file", http.head("/file"), target, patience=patience)

    def by_worker(target: Path, patience: float = 20.0) -> Path:
        ref = ArtifactRef(name="file", url="/file", sha256=source.sha256, size=len(source.content))
        WorkerClient(http).download(ref, target, Retry(patience=patience, first=0.01, longest=0.02))
        return target

    return by_client if who == "client" else by_worker


UNREACHED = (DownloadError, Unreachable)  # the error of each
REFUSED = (DownloadError, Refused)
BAD = (DownloadError, BadDownload)


def test_a_file_arrives_whole_and_alone(download: Fetch, tmp_path: Path) -> None:
    target = download(tmp_path / "file")
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


def test_an_empty_file_arrives(download: Fetch, tmp_path: Path, source: FileSource) -> None:
    source.content = b""
    assert download(tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("without_length", [False, True])
def test_a_broken_transfer_goes_on_where_it_stopped(
    download: Fetch, tmp_path: Path, source: FileSource, without_length: bool
) -> None:
    source.break_after, source.without_length = [300_000, 300_000], without_length
    assert download(tmp_path / "file").read_bytes() == CONTENT
    assert source.requests == [None, "bytes=300000-", "bytes=600000-"]


def test_a_service_that_is_away_in_between_is_waited_for(download: Fetch, tmp_path: Path, source: FileSource) -> None:
    source.break_after, source.away = [300_000], [429, 502, 503, 504]
    assert download(tmp_path / "file").read_bytes() == CONTENT
    assert source.requests == [None, *["bytes=300000-"] * 5]


@pytest.mark.parametrize("status", [401, 410])
def test_a_refusal_in_between_is_the_end(download: Fetch, tmp_path: Path, source: FileSource, status: int) -> None:
    source.break_after, source.away = [300_000], [status]
    with pytest.raises(REFUSED, match=str(status)):
        download(tmp_path / "file")
    assert len(source.requests) == 2


def test_a_later_call_goes_on_where_an_earlier_one_stopped(download: Fetch, tmp_path: Path, source: FileSource) -> None:
    source.break_after = [300_000, 0]
    with pytest.raises(UNREACHED):
        download(tmp_path / "file", patience=0.0)
    assert not (tmp_path / "file").exists()
    source.break_after = []
    assert download(tmp_path / "file").read_bytes() == CONTENT
    assert source.requests[-1] == "bytes=300000-"


def test_a_server_without_ranges_begins_again(download: Fetch, tmp_path: Path, source: FileSource) -> None:
    source.break_after, source.ignore_range = [300_000], True
    assert download(tmp_path / "file").read_bytes() == CONTENT


def test_parts_of_two_versions_never_mix(download: Fetch, tmp_path: Path, source: FileSource) -> None:
    source.break_after = [300_000, 0]
    with pytest.raises(UNREACHED):
        download(tmp_path / "file", patience=0.0)
    source.content = CONTENT[::-1]
    source.break_after = []
    assert download(tmp_path / "file").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("sent", [CONTENT[::-1], CONTENT[:-1], CONTENT + b"x"], ids=["other", "too few", "too many"])
def test_other_bytes_than_announced_are_thrown_away(
    download: Fetch, tmp_path: Path, source: FileSource, sent: bytes
) -> None:
    source.sent = sent
    (tmp_path / "file").write_text("what was here before")
    with pytest.raises(BAD, match="sha256"):
        download(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "what was here before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("left", [b"old" * 1000, CONTENT[::-1], CONTENT + b"x"], ids=["part", "whole", "too long"])
def test_a_part_of_other_bytes_is_never_published(
    who: str, download: Fetch, tmp_path: Path, source: FileSource, left: bytes
) -> None:
    """As a disk may make of what an earlier call left: a worker fetches it once more, a client tells."""
    part = tmp_path / f".file.{source.sha256[:16]}.part"
    part.write_bytes(left)
    if who == "client":
        with pytest.raises(DownloadError, match="sha256"):
            download(tmp_path / "file")
        assert list(tmp_path.iterdir()) == []
    assert download(tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_was_whole_is_not_fetched_again(download: Fetch, tmp_path: Path, source: FileSource) -> None:
    (tmp_path / f".file.{source.sha256[:16]}.part").write_bytes(CONTENT)
    assert download(tmp_path / "file").read_bytes() == CONTENT
    assert source.requests == []


DIGEST = hashlib.sha256(b"x").digest()


@pytest.mark.parametrize(
    ("headers", "sha256"),
    [
        ({"repr-digest": f"sha-256=:{base64.b64encode(DIGEST).decode()}:"}, DIGEST.hex()),
        ({"etag": f'"{DIGEST.hex()}"'}, DIGEST.hex()),
        ({}, ""),
        ({"etag": '"abc"'}, ""),
        ({"etag": f'W/"{"0" * 64}"'}, ""),
        ({"repr-digest": "sha-256=:AAA:"}, ""),
        ({"repr-digest": "sha-256=:AAAA:"}, ""),
    ],
)
def test_the_digest_is_read_from_either_header(headers: dict[str, str], sha256: str) -> None:
    assert announced(httpx.Response(200, headers=headers)) == sha256
