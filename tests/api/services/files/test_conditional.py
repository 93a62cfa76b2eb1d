"""Ranges and preconditions against RFC 9110, without a server."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.errors import PreconditionFailed, RangeNotSatisfiable
from api.services.files.conditional import parse_range, select

TAG = '"abc"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-9", range(10)),
        ("bytes=3-", range(3, 10)),
        ("bytes=3-100", range(3, 10)),
        ("bytes=-4", range(6, 10)),
        ("bytes=-100", range(10)),
        ("BYTES=1-2", range(1, 3)),
        ("bytes= 1-2 ", range(1, 3)),
        ("bytes=,1-2,", range(1, 3)),
        ("bytes=0000000000000000000000001-2", range(1, 3)),
        ("bytes=10-", range(10, 10)),
        ("bytes=99-100", range(10, 10)),
        ("bytes=-0", range(10, 10)),
        ("bytes=" + "9" * 9000 + "-", range(10, 10)),
        ("bytes=0-" + "9" * 9000, range(10)),
        ("bytes=5-2", None),
        ("bytes=", None),
        ("bytes", None),
        ("", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=1-2, 4-5", None),
        ("lines=1-2", None),
        ("bytes=+1-2", None),
        ("bytes=1_0-20", None),
        ("bytes=\u0661-2", None),
        ("bytes=1--2", None),
        ("bytes=0x1-2", None),
        ("bytes=1 -2", None),
    ],
)
def test_ranges_of_ten_bytes(value: str, expected: range | None) -> None:
    assert parse_range(value, 10) == expected


@given(st.integers(0, 50), st.integers(0, 60), st.none() | st.integers(0, 60))
def test_a_range_means_what_a_slice_means(size: int, first: int, last: int | None) -> None:
    content = bytes(range(size))
    span = parse_range(f"bytes={first}-{'' if last is None else last}", size)
    if last is not None and last < first:
        assert span is None
        return
    assert span is not None
    assert content[span.start : span.stop] == content[first : None if last is None else last + 1]


@given(st.integers(0, 50), st.integers(0, 60))
def test_a_suffix_is_the_end(size: int, length: int) -> None:
    content = bytes(range(size))
    span = parse_range(f"bytes=-{length}", size)
    assert span is not None
    assert content[span.start : span.stop] == content[max(size - length, 0) :]


@given(st.text() | st.from_regex(re.compile(r"bytes=[0-9 ,\t-]*"), fullmatch=True), st.integers(0, 100))
@example("bytes=²-", 5)
def test_any_header_gives_a_part_of_the_file_or_nothing(value: str, size: int) -> None:
    span = parse_range(value, size)
    assert span is None or 0 <= span.start <= span.stop <= size


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {}, (200, 0, 10)),
        ("GET", {"range": "bytes=2-3"}, (206, 2, 4)),
        ("HEAD", {"range": "bytes=2-3"}, (200, 0, 10)),  # ranges are for GET alone
        ("GET", {"range": "bytes=2-3", "if-range": TAG}, (206, 2, 4)),
        ("GET", {"range": "bytes=2-3", "if-range": '"old"'}, (200, 0, 10)),
        ("GET", {"range": "bytes=2-3", "if-range": f"W/{TAG}"}, (200, 0, 10)),
        ("GET", {"range": "bytes=2-3", "if-range": "Sat, 29 Oct 2022 19:43:31 GMT"}, (200, 0, 10)),
        ("GET", {"range": "bytes=99-", "if-range": '"old"'}, (200, 0, 10)),
        ("GET", {"if-none-match": TAG}, (304, 0, 0)),
        ("HEAD", {"if-none-match": f'"x", W/{TAG}'}, (304, 0, 0)),
        ("GET", {"if-none-match": "*"}, (304, 0, 0)),
        ("GET", {"if-none-match": '"x"', "range": "bytes=-1"}, (206, 9, 10)),
        ("GET", {"if-none-match": TAG, "range": "bytes=99-"}, (304, 0, 0)),
        ("GET", {"if-match": f'"x", {TAG}'}, (200, 0, 10)),
        ("GET", {"if-match": "*", "if-none-match": "abc"}, (200, 0, 10)),
    ],
)
def test_preconditions(method: str, headers: dict[str, str], expected: tuple[int, int, int]) -> None:
    assert select(method, headers, TAG, 10) == expected


@pytest.mark.parametrize("value", ['"old"', f"W/{TAG}", "", "abc"])
def test_if_match_compares_strongly(value: str) -> None:
    with pytest.raises(PreconditionFailed):
        select("GET", {"if-match": value, "if-none-match": TAG}, TAG, 10)


def test_a_range_behind_the_end_tells_the_size() -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        select("GET", {"range": "bytes=10-"}, TAG, 10)
    assert refused.value.headers == {"Content-Range": "bytes */10"}
    with pytest.raises(RangeNotSatisfiable):
        select("GET", {"range": "bytes=0-"}, TAG, 0)
