"""Which part of a representation an HTTP request wants: preconditions and ranges of RFC 9110, sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from api.errors import PreconditionFailed, RangeNotSatisfiable

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*")
_BEYOND = 10**18  # more bytes than any file has; Python refuses to convert numbers of thousands of digits


class Part(NamedTuple):
    """Bytes `start` up to, not including, `stop`. `status`: 200 whole, 206 a part, 304 the client has it already."""

    status: int
    start: int
    stop: int


def select(method: str, headers: Mapping[str, str], etag: str, size: int) -> Part:
    """What to send of a file of `size` bytes whose strong entity tag is `etag`; `headers` are looked up in lower case.

    One range is served; several at once are answered with the whole file, as RFC 9110 allows.

    Raises:
        PreconditionFailed: If-Match names another version.
        RangeNotSatisfiable: the range begins behind the end.
    """
    whole = Part(200, 0, size)
    if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
    if if_match is not None and not _names(if_match, etag, weak=False):
        raise PreconditionFailed("the file is no longer the one that If-Match names", remedy="Start over without it.")
    if if_none_match is not None and _names(if_none_match, etag, weak=True):
        return Part(304, 0, 0)
    wanted = headers.get("range")
    if method != "GET" or wanted is None or headers.get("if-range", etag) != etag:
        return whole
    span = parse_range(wanted, size)
    if span is None:
        return whole
    if span.start == span.stop:
        raise RangeNotSatisfiable(
            f"the file has {size} bytes",
            remedy="Ask for a range within it.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Part(206, span.start, span.stop)


def parse_range(value: str, size: int) -> range | None:
    """The bytes that a Range header asks for, empty if there are none; None for a header that is to be ignored.

    Ignored are other units, malformed headers, and several ranges at once.
    """
    unit, equals, ranges = value.partition("=")
    parts = [part for part in ranges.split(",") if part.strip(" \t")]
    if not equals or unit.lower() != "bytes" or len(parts) != 1:
        return None
    match = _RANGE.fullmatch(parts[0])
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return range(size - min(_number(suffix), size), size)
    start = _number(first)
    stop = _number(last) + 1 if last else _BEYOND + 1
    if start >= stop:
        return None
    return range(min(start, size), min(stop, size))


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else _BEYOND


def _names(header: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags has `etag`; `weak`: a tag that is marked weak counts too."""
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not mark) for mark, tag in _TAG.findall(header))
