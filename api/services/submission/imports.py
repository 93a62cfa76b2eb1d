"""Imports of data sets: from a posted specification to the one that is stored, its paths absolute."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from api.services.submission.findings import Findings
from api.services.submission.roots import PathRefused, locate_folder, open_file
from crosskd.spec.data.import_config import ImportConfig
from wire.datasets import NAME_PATTERN, NAME_REMEDY


def resolve(roots: Sequence[Path], name: str, config: ImportConfig, findings: Findings) -> ImportConfig:
    """The specification with absolute paths; what of it leads nowhere is added to `findings`. What the files hold is
    for the job to say. `name`: the job's, which is that of the data set."""
    update = {}
    if not re.fullmatch(NAME_PATTERN, name):
        findings.add("/name", f"{name!r} is no name for a data set", NAME_REMEDY)
    if (source := _found(config.source, roots, "/spec/source", findings, file=True)) is not None:
        update["source"] = source
    if config.images is not None and (images := _found(config.images, roots, "/spec/images", findings)) is not None:
        update["images"] = images
    return config.model_copy(update=update)


def _found(text: str, roots: Sequence[Path], pointer: str, findings: Findings, *, file: bool = False) -> str | None:
    """The absolute path of a folder, or if `file` says so of either."""
    try:
        if file and _is_file(text, roots):
            with open_file(text, roots) as found:
                return os.fspath(found.path)
        return os.fspath(locate_folder(text, roots))
    except PathRefused as refused:
        findings.add(pointer, refused.detail, refused.remedy)
        return None


def _is_file(text: str, roots: Sequence[Path]) -> bool:
    """By its name: which of the two it is is looked at when it is opened."""
    if "\x00" in text:
        return False
    try:
        return any((root / text).is_file() for root in roots)
    except OSError:
        return False
