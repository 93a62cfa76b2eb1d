"""Files of torch.save, read without running what stands in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from crosskd.errors import WeightsError
from crosskd.spec.inputs import opened
from crosskd.weights.outline import Outline, outline

LISTED = 20  # names in a message
MAX_ENTRIES = 100_000  # of a PyTorch archive; the largest detectors have a few thousand tensors
MAX_GROWTH = 8  # unpacked bytes to each packed one; torch itself packs nothing

# What trainings write beside their tensors: options, paths, numbers of numpy, logs. Of these nothing is needed.
_BESIDE = (
    "argparse.Namespace", "types.SimpleNamespace", "builtins.getattr",
    "builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.list", "builtins.dict",
    "collections.deque", "collections.defaultdict", "typing.Any",
    "mmengine.logging.history_buffer.HistoryBuffer",
)  # fmt: skip
_BESIDE_BELOW = ("numpy.", "pathlib.", "datetime.", "omegaconf.")
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")


class StandIn:
    """Takes the place of an object beside the tensors. Whatever it was made of is thrown away; nothing is run."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _no_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _no_list(*_: Any) -> list[Any]:
    return []


_CONTAINERS = {"collections.defaultdict": _no_dict, "collections.deque": _no_list}  # their items follow them


def read_pytorch(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain containers. Nothing of it is run or unpacked to disk.

    Raises `ValueError` for an archive that would take many times its size in memory, before any of it is read, and
    what `torch.load` raises.
    """
    if zipfile.is_zipfile(opened(path)):
        _require_modest(path)
    # By its own name a file `.safetensors` would be read as such, whatever it is.
    with warnings.catch_warnings(action="ignore"), opened(path).open("rb") as file:  # odd pickles are refused or read
        return torch.load(file, map_location="cpu", weights_only=True)


def read_foreign(path: Path) -> Any:
    """As `read_pytorch`, of another program's file: options, numbers of numpy and the like beside the tensors become
    `StandIn`s. Raises `WeightsError` for one that asks for anything else, with its name and what the file holds.
    """
    try:
        return read_pytorch(path)
    except pickle.UnpicklingError as error:
        first = error
    found = outline(path)
    stand_ins: list[Any] = [
        (_CONTAINERS.get(name, StandIn), name)
        for name in (found.names if found else [])
        if name in _BESIDE or name.startswith(_BESIDE_BELOW)
    ]
    if found is None or not found.torch or not stand_ins:
        raise _refusal(path, first, found)
    try:
        with torch.serialization.safe_globals(stand_ins):
            return read_pytorch(path)
    except (pickle.UnpicklingError, AttributeError, TypeError) as error:  # the latter of stand-ins in odd places
        raise _refusal(path, error, found) from error


def _refusal(path: Path, error: Exception, found: Outline | None) -> WeightsError:
    holds = top_level(found.value) if found else ""
    if found is not None and not found.torch:
        return WeightsError(
            f"{path.name} is a pickle that torch.save did not write{holds}; nothing of it was run",
            remedy="Open it with the program that wrote it, and save its tensors as safetensors.",
        )
    refused = _REFUSED.search(str(error))
    what = (
        f"asks for `{refused[1]}`, which is no tensor and no plain container" if refused else "holds more than tensors"
    )
    return WeightsError(
        f"{path.name} {what}{holds}; nothing of it was run",
        remedy="Save the state dict alone where the file came from, as safetensors or by "
        "torch.save(model.state_dict(), ...).",
    )


def top_level(content: Any) -> str:
    """What a file's content is, for a message: `; at its top are …`."""
    if isinstance(content, Mapping):
        keys = [key if isinstance(key, str) else repr(key) for key in list(content)[:LISTED]]
        more = f" and {len(content) - LISTED} more" if len(content) > LISTED else ""
        return f"; its top-level keys are {', '.join(key[:100] for key in keys)}{more}" if keys else "; it is empty"
    name = getattr(content, "name", "")
    return f"; it is one object, `{name}`" if isinstance(name, str) and name else ""


def _require_modest(path: Path) -> None:
    """torch stores tensors as they are, but reads compressed ones too, and a megabyte of those can hold gigabytes."""
    with zipfile.ZipFile(opened(path)) as archive:
        entries = archive.infolist()
    packed, unpacked = opened(path).stat().st_size, sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"it holds {len(entries)} entries, and at most {MAX_ENTRIES} are read")
    if unpacked > MAX_GROWTH * packed:
        raise ValueError(f"its {packed} bytes unpack to {unpacked}, more than {MAX_GROWTH} times as many")
    _require_tensors(path.name, {entry.filename.rpartition("/")[2] for entry in entries})


def _require_tensors(name: str, entries: set[str]) -> None:
    """Raise `ValueError` for archives of other kinds that are often taken for weights."""
    if "constants.pkl" in entries:
        raise ValueError("it is a TorchScript archive, a program; save the model's state dict instead")
    if "data.pkl" not in entries and name:
        raise ValueError("it is a zip archive that torch.save did not write; unpack it, and name the file inside")
