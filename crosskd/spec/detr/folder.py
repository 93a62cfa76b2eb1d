"""The folder in which transformers saves a model: which files count, and what their JSON says. Imports no torch.

`config.json` and the tensors as safetensors: in one file, or in several that an index lists. No pickle is opened, and
nothing that a file names is fetched, imported or looked for outside the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from crosskd.errors import WeightsError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
MAX_JSON = 4_000_000  # bytes of a configuration: room for the names of 10,000 classes
MAX_INDEX = 16_000_000
MAX_SHARDS = 64
MAX_TENSORS = 20_000  # the largest published DETRs have some two thousand
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}\.safetensors")
_SAVE = "Save the model anew with transformers: `model.save_pretrained(FOLDER)` writes both."

Shape = tuple[int, ...]
# Opens a file of the folder by its plain name; raises `FileNotFoundError` where there is none.
Opener = Callable[[str], BinaryIO]


@dataclass(frozen=True)
class Folder:
    """What the JSON of a folder says; `files` are those with tensors."""

    name: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None
    files: list[str]
    index: Mapping[str, str] = field(default_factory=dict)  # tensor -> file; empty where there is one file alone

    @property
    def all_files(self) -> list[str]:
        """Names of all that is read of it."""
        told = [CONFIG, *([PREPROCESSOR] if self.preprocessor is not None else []), *([INDEX] if self.index else [])]
        return [*told, *self.files]


def read_folder(name: str, opener: Opener) -> Folder:
    """What stands in the folder `name`. Raises `WeightsError`, and `OSError` where a file cannot be read."""
    config = _json(name, CONFIG, opener, MAX_JSON)
    if config is None:
        raise WeightsError(f"{name} is a folder without {CONFIG}", remedy=f"Name a file of weights. {_SAVE}")
    preprocessor = _json(name, PREPROCESSOR, opener, MAX_JSON)
    if _there(SINGLE, opener):
        return Folder(name, config, preprocessor, [SINGLE])
    told = _json(name, INDEX, opener, MAX_INDEX)
    if told is None:
        pickles = [file for file in PICKLES if _there(file, opener)]
        what = f"its tensors stand in {pickles[0]}, a pickle, which is never opened" if pickles else "it has no tensors"
        raise WeightsError(f"{name} has no {SINGLE}: {what}", remedy=_SAVE)
    index = _index(name, told)
    files = sorted(set(index.values()))
    if missing := [file for file in files if not _there(file, opener)]:
        raise WeightsError(
            f"{name} lacks {len(missing)} of the {len(files)} files that {INDEX} lists: {', '.join(missing[:5])}",
            remedy="Copy the whole folder.",
        )
    return Folder(name, config, preprocessor, files, index)


def all_shapes(folder: Folder, by_file: Mapping[str, Mapping[str, Shape]]) -> dict[str, Shape]:
    """The tensors of all files; each file's are given. Raises `WeightsError` where they are not as the index says."""
    found: dict[str, Shape] = {}
    for file in folder.files:
        twice = found.keys() & by_file[file].keys()
        if twice:
            raise WeightsError(f"{folder.name} has {min(twice)} in two of its files", remedy=_SAVE)
        found |= by_file[file]
    if len(found) > MAX_TENSORS:
        raise WeightsError(f"{folder.name} has {len(found)} tensors; at most {MAX_TENSORS} are read", remedy=_SAVE)
    wrong = [name for name, file in folder.index.items() if name not in by_file[file]]
    if wrong:
        raise WeightsError(
            f"{folder.name} lacks {len(wrong)} tensors that {INDEX} lists, such as {wrong[0][:200]}",
            remedy="Copy the whole folder.",
        )
    return found


def _there(file: str, opener: Opener) -> bool:
    try:
        opener(file).close()
    except FileNotFoundError:
        return False
    return True


def _json(name: str, file: str, opener: Opener, most: int) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file."""
    try:
        with opener(file) as opened:
            content = opened.read(most + 1)
    except FileNotFoundError:
        return None
    if len(content) > most:
        raise WeightsError(f"{file} of {name} is larger than {most} bytes", remedy=_SAVE)
    try:
        told = json.loads(content, parse_constant=_no_number)
        json.dumps(told, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError):
        raise WeightsError(f"{file} of {name} is no JSON", remedy=_SAVE) from None
    if not isinstance(told, dict):
        raise WeightsError(f"{file} of {name} is no JSON object", remedy=_SAVE)
    return told


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _index(name: str, told: Mapping[str, Any]) -> dict[str, str]:
    listed = told.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise WeightsError(f"{INDEX} of {name} has no map of tensors to files (`weight_map`)", remedy=_SAVE)
    files = set(listed.values())
    if odd := sorted(file for file in files if not _PLAIN.fullmatch(file)):
        raise WeightsError(
            f"{INDEX} of {name} names {odd[0][:200]!r}: its files must be safetensors that lie in the folder itself",
            remedy="Do not use this folder unless you know who made it.",
        )
    if len(files) > MAX_SHARDS:
        raise WeightsError(f"{INDEX} of {name} lists {len(files)} files; at most {MAX_SHARDS} are read", remedy=_SAVE)
    return listed
