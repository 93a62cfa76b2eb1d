"""Faults of images, counted; a message spells the first out."""

from __future__ import annotations

LISTED = 20  # faults that a message spells out; the rest is counted


class ImageFaults:
    """All are counted, the first are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(text)

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return "; ".join(self.first) + more
