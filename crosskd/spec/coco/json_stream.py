"""Reads a JSON file of any size one value at a time, in the memory of its largest value.

Values are decoded by the standard library, so this accepts what `json.load` accepts in the training process
(NaN included: the caller sees it and can say where it stands), and deep nesting ends in an error. It is not
ijson, whose prefixes grow with the square of the depth: 100 kB of `[` exhaust 20 GB.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 20  # characters
MAX_VALUE = 64 << 20  # characters; no annotation of a box comes near it
_SPACE = " \t\n\r"
_CUT_NUMBER = re.compile(r"[0-9.eE+-]*\Z")


class NotJson(Exception):
    """The text is no JSON, is cut off, or holds a value past the bound.

    `position` counts characters from 0, as `json.JSONDecodeError.pos` does; the message counts lines and columns too,
    from 1.
    """

    def __init__(self, message: str, position: int, line: int, column: int) -> None:
        super().__init__(f"{message} at line {line}, column {column} (character {position})")
        self.position = position


class JsonStream:
    """A cursor over a JSON text. Whoever iterates over `members` reads or walks each value before the next."""

    def __init__(self, file: BinaryIO, *, chunk: int = CHUNK, max_value: int = MAX_VALUE) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()  # a byte order mark is no character of the text
        self._chunk = chunk
        self._max_value = max_value
        self._decode = json.JSONDecoder().raw_decode
        self._buffer = ""
        self._at = 0  # the cursor, in the buffer
        self._dropped = 0  # characters before the buffer
        self._lines = 0  # ends of lines among them
        self._line_start = 0  # the position of the first character of the line that the buffer begins in
        self._ended = False

    @property
    def position(self) -> int:
        return self._dropped + self._at

    def peek(self) -> str:
        """The next character that is no white space, or "" at the end."""
        while True:
            while self._at < len(self._buffer):
                if (char := self._buffer[self._at]) not in _SPACE:
                    return char
                self._at += 1
            if not self._fill(self._chunk):
                return ""

    def value(self) -> Any:
        """Decode the value under the cursor and move behind it."""
        if self.peek() == "":
            raise self._fault("the text ends where a value should stand")
        size = self._chunk
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except RecursionError:
                raise self._fault("a value is nested too deeply") from None
            except ValueError as error:
                # Cut off by the buffer or malformed: only more text can tell. Doubling keeps the retries cheap.
                fault = self._explain(error)  # now: its place counts from the buffer's start, which moves
                if not self._fill(size):
                    raise fault from None
            else:
                # `1` may be all that the buffer holds of `12`, and `1.` or `1e-` of `1.5` and `1e-7`.
                if not _CUT_NUMBER.match(self._buffer, end) or not self._fill(size):
                    self._at = end
                    return value
            size *= 2
            if len(self._buffer) - self._at > self._max_value:
                raise self._fault(f"a single value is longer than {self._max_value} characters")

    def members(self) -> Iterator[str]:
        """Walk an object: its keys, each with the cursor on its value."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            if self.peek() != '"':
                raise self._fault("an object's key should stand")
            key = self.value()
            self._take(":")
            yield key
            if self.peek() == "}":
                self._take("}")
                return
            self._take(",")

    def elements(self) -> Iterator[Any]:
        """Walk an array: its values, decoded."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self.peek() == "]":
                self._take("]")
                return
            self._take(",")

    def end(self) -> None:
        """Refuse anything behind the value that was walked."""
        if self.peek():
            raise self._fault("there is text behind the end of the JSON value")

    def _take(self, char: str) -> None:
        found = self.peek()
        if found != char:
            raise self._fault(f"expected {char!r}, found {found!r}" if found else "the text is cut off")
        self._at += 1

    def _fill(self, size: int) -> bool:
        """Append some `size` characters to what is unread; False at the end of the file."""
        if self._ended:
            return False
        more = ""
        while not more and not self._ended:  # a few bytes may be part of a character only
            data = self._file.read(size)
            self._ended = not data
            try:
                more = self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as error:
                self._buffer += error.object[: error.start].decode()
                raise self._fault(f"the text is not UTF-8 ({error.reason})", len(self._buffer)) from None
        read = self._buffer[: self._at]
        if ends := read.count("\n"):
            self._lines += ends
            self._line_start = self._dropped + read.rindex("\n") + 1
        self._dropped += self._at
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
        return bool(more)

    def _explain(self, error: ValueError) -> NotJson:
        if isinstance(error, json.JSONDecodeError):
            return self._fault(error.msg[:1].lower() + error.msg[1:], error.pos)
        return self._fault(str(error))  # an integer of more digits than Python converts

    def _fault(self, message: str, at: int | None = None) -> NotJson:
        """A fault at `at` in the buffer; by default at the cursor."""
        at = self._at if at is None else at
        before = self._buffer[:at]
        start = self._dropped + before.rindex("\n") + 1 if "\n" in before else self._line_start
        position = self._dropped + at
        return NotJson(message, position, self._lines + before.count("\n") + 1, position - start + 1)
