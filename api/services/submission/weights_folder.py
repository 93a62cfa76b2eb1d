"""A checkpoint folder of transformers, judged without torch: its JSON, and the headers of its safetensors.

Every file in it is opened like any other that a specification names: where it really lies decides.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from api.services.submission.roots import PathRefused, open_folder
from crosskd.errors import WeightsError
from crosskd.spec.detr.folder import Folder, all_shapes, read_folder
from crosskd.spec.detr.folder_config import Told, read_config
from crosskd.spec.detr.folder_names import COUNTER, class_rows, from_library, second_names, to_library, with_twins
from crosskd.spec.detr.folder_windowed import is_unread, left_out, parts
from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within, real_path
from crosskd.spec.weights.header import MAX_HEADER, NotSafetensors, Shape, read_header
from crosskd.spec.weights.shapes import expected_shapes

LISTED = 5  # tensors that a message names


@dataclass(frozen=True)
class FoundFolder:
    """A folder that a worker can load; `shapes` by our names."""

    path: Path
    told: Told
    shapes: Mapping[str, Shape]


def look_at_folder(text: str, roots: Sequence[Path]) -> FoundFolder | None:
    """The checkpoint in the folder that `text` means; None where that is no folder in the `roots`.

    Raises `WeightsError` for a folder that holds none, or one that no worker could load.
    """
    try:
        with open_folder(text, roots) as found:
            path = found.path
    except PathRefused:
        return None
    real_roots = [real_path(root) for root in roots]
    try:
        folder = read_folder(path.name, lambda name: _open(path, name, real_roots))
        told = read_config(path.name, folder.config, folder.preprocessor)
        shapes = all_shapes(folder, _headers(path, folder, real_roots))
    except OSError as error:
        raise _unreadable(path.name, error.strerror or "it cannot be opened") from None
    shapes = _each(shapes)
    read = {name: shape for name, shape in shapes.items() if not is_unread(from_library(name, told.model), told.model)}
    told = replace(told, notes=told.notes + left_out(len(shapes) - len(read)))
    return FoundFolder(path, told, _ours(path.name, told, read))


def _open(folder: Path, name: str, roots: Sequence[Path]) -> BinaryIO:
    try:
        return os.fdopen(open_within(folder / name, roots).descriptor, "rb")
    except LeadsOutside:
        raise WeightsError(
            f"{name} of {folder.name} is a link that leads out of the data roots", remedy="Copy the file itself there."
        ) from None
    except WrongKind:
        raise _unreadable(folder.name, f"{name} is no regular file") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise FileNotFoundError(error.errno, error.strerror) from None
        raise _unreadable(folder.name, f"{name}: {error.strerror}") from None


def _headers(path: Path, folder: Folder, roots: Sequence[Path]) -> dict[str, Mapping[str, Shape]]:
    left, headers = MAX_HEADER, {}
    for name in folder.files:
        with _open(path, name, roots) as file:
            left -= int.from_bytes(file.read(8), "little")
            if left < 0 and len(folder.files) > 1:
                raise _unreadable(folder.name, f"the headers of its files have more than {MAX_HEADER} bytes together")
            file.seek(0, os.SEEK_SET)
            try:
                headers[name] = read_header(file).shapes
            except NotSafetensors as error:
                raise _unreadable(folder.name, f"{name} is no readable safetensors file: {error}") from None
    return headers


def _ours(name: str, told: Told, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The tensors by our names. Raises `WeightsError` where they are not those of the configuration."""
    found: dict[str, Shape] = {}
    for theirs, shape in shapes.items():
        ours = from_library(theirs, told.model)
        if ours in found:
            raise WeightsError(f"{name} has {theirs[:200]} under two names", remedy="Save it anew with transformers.")
        found[ours] = shape
    rows = class_rows(found)
    if told.count is not None and rows is not None and rows != told.count:
        raise WeightsError(
            f"id2label of {name} names {told.count} classes, and its tensors are made for {rows}",
            remedy="Use the config.json that the tensors were saved with.",
        )
    expected = expected_shapes(told.model, rows or 1)
    for second, first in second_names(found, expected).items():
        if found.setdefault(first, found[second]) == found[second]:
            del found[second]
    found |= {ours: found[twin] for ours, twin in with_twins(found, expected).items()}
    kinds = {
        "misses tensors that its config.json asks for": [
            ours for ours in expected if ours not in found and not ours.endswith(COUNTER)
        ],
        "has tensors that its config.json has no place for": [ours for ours in found if ours not in expected],
        "has tensors of other shapes than its config.json says": [
            ours for ours in expected if ours in found and found[ours] != expected[ours]
        ],
    }
    for what, names in kinds.items():
        if names:
            listed = ", ".join((to_library(ours, told.model) or ours)[:200] for ours in names[:LISTED])
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            raise WeightsError(
                f"{name} {what} ({len(names)}): {listed}{more}",
                remedy="Use the config.json that the tensors were saved with.",
            )
    return found


def _each(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of a tensor that is several in the model, the shape of each."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        several = parts(name, shape[0]) if shape else []
        found |= {part: (shape[0] // len(several), *shape[1:]) for part in several} if several else {name: shape}
    return found


def _unreadable(name: str, why: str) -> WeightsError:
    return WeightsError(f"{name} cannot be read: {why}", remedy="Copy the whole folder anew.")
