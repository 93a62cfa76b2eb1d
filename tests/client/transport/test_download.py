"""Downloads over a real socket, as the SDK makes them; what a worker's have in common is in tests/wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client.errors import DownloadError
from client.transport.download import RETRY_PAUSE, VERSIONS, announced, fetch
from tests.support.file_source import CONTENT, FileSource, file_source


@pytest.fixture
def source() -> Iterator[FileSource]:
    with file_source() as source:
        yield source


@pytest.fixture
def http(source: FileSource) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=source.url, trust_env=False) as http:
        yield http


def bring(http: httpx.Client, target: Path, patience: float = 20.0, **options: object) -> Path:
    return fetch(http, "/file", http.head("/file"), target, patience=patience, **options)  # type: ignore[arg-type]


def test_a_file_arrives_whole_and_alone(http: httpx.Client, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = bring(http, tmp_path / "new" / "file", on_bytes=lambda done, size: seen.append((done, size)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert list(target.parent.iterdir()) == [target]


def test_as_long_as_the_service_asks(
    http: httpx.Client, tmp_path: Path, source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    source.break_after, source.away, source.retry_after = [300_000], [503], "7"
    assert bring(http, tmp_path / "file").read_bytes() == CONTENT
    assert waits == [RETRY_PAUSE, 7.0]


@pytest.mark.parametrize("size", [len(CONTENT), 500_000, 200_000])
@pytest.mark.parametrize("broken", [False, True], ids=["at once", "after a break"])
def test_what_is_replaced_meanwhile_is_begun_anew(
    http: httpx.Client, tmp_path: Path, source: FileSource, broken: bool, size: int
) -> None:
    """A running job has better weights now, as large as those or not."""
    new = CONTENT[::-1][:size]
    source.break_after, source.versions = [300_000] * broken, [CONTENT] * broken + [new]
    assert bring(http, tmp_path / "file").read_bytes() == new
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    # One answer is thrown away, before its body: then all of the new one.
    assert source.requests[-2:] == [("bytes=300000-" if broken else None), None]


def test_what_is_replaced_again_and_again_is_given_up(http: httpx.Client, tmp_path: Path, source: FileSource) -> None:
    source.versions = [bytes([number]) * 100 for number in range(20)]
    with pytest.raises(DownloadError, match=f"replaced {VERSIONS} times"):
        bring(http, tmp_path / "file")
    assert len(source.requests) == VERSIONS
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_says_how_to_go_on(http: httpx.Client, tmp_path: Path, source: FileSource) -> None:
    source.break_after = [300_000, 0]
    with pytest.raises(DownloadError, match="broke off") as caught:
        bring(http, tmp_path / "file", patience=0.0)
    assert "again" in caught.value.remedy


def test_a_target_that_cannot_be_written_is_named(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="Cannot store"):
        bring(http, tmp_path / "file" / "below")


def head(**headers: str) -> httpx.Response:
    return httpx.Response(200, headers=headers, request=httpx.Request("HEAD", "http://127.0.0.1/file"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"etag": '"abc"', "content-length": "1"},
        {"etag": f'W/"{"0" * 64}"', "content-length": "1"},
        {"repr-digest": "sha-256=:AAA:", "content-length": "1"},
        {"etag": f'"{"0" * 64}"'},
    ],
)
def test_nothing_is_fetched_that_cannot_be_verified(headers: dict[str, str]) -> None:
    with pytest.raises(DownloadError, match="cannot be verified"):
        announced(head(**headers))
