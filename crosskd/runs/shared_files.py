"""What the trainings of one machine keep for each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CacheDisk:
    """Where trainings on this machine keep what teachers make of images, and how much all of them may keep."""

    folder: Path
    bytes: int


@dataclass(frozen=True)
class SharedFiles:
    """`teacher_cache`: the disk of `distill.cache`; by default it lies in the run's own folder.

    `layouts`: a JSON file of which memory layout is faster (`layout_file.py`); None: nothing is remembered.
    """

    teacher_cache: CacheDisk | None = None
    layouts: Path | None = None


NOTHING_SHARED = SharedFiles()
