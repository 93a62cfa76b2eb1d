"""Answers that were made once, in memory; the least used are given up first."""

from __future__ import annotations

import threading
from collections import OrderedDict


class KeptBytes:
    """Up to `limit` bytes, by tag. For any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, tag: str) -> bytes | None:
        with self._lock:
            if (stored := self._kept.get(tag)) is not None:
                self._kept.move_to_end(tag)
            return stored

    def put(self, tag: str, content: bytes) -> None:
        with self._lock:
            self._bytes += len(content) - len(self._kept.pop(tag, b""))
            self._kept[tag] = content
            while self._bytes > self._limit:
                self._bytes -= len(self._kept.popitem(last=False)[1])
