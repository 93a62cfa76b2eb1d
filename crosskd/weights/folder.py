"""A checkpoint folder of transformers: its tensors, and what its JSON says, as our own weights files say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosskd.errors import ConfigError, WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.folder import CONFIG, PREPROCESSOR, SINGLE, Folder, all_shapes, read_folder
from crosskd.spec.detr.folder_config import Told, config_of, preprocessor_of, read_config
from crosskd.spec.detr.folder_contradictions import contradictions
from crosskd.spec.detr.folder_names import from_library
from crosskd.spec.detr.folder_windowed import is_unread, left_out, parts
from crosskd.spec.inputs import is_folder, opened_in
from crosskd.weights.files import making_folder


def folder_at(path: Path) -> Folder | None:
    """What stands in a folder; None where `path` is none. Raises `WeightsError` for one that is no checkpoint."""
    if not is_folder(path):
        return None

    def opener(file: str) -> BinaryIO:
        return opened_in(path, file).open("rb")

    try:
        return read_folder(path.name, opener)
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be opened") from error


def told_by(folder: Folder) -> Told:
    return read_config(folder.name, folder.config, folder.preprocessor)


def require_agreement(model: ModelConfig | None, path: Path, section: str) -> None:
    """Raise `ConfigError` where a folder at `path` says another model than `model`, which stands at `section`."""
    if model is None or (folder := folder_at(path)) is None:
        return
    if found := contradictions(model, told_by(folder), folder.name, section):
        where = f"/{section.replace('.', '/')}{found[0].place}"
        raise ConfigError("; ".join(each.what for each in found), where=where, remedy=found[0].remedy)


def record(told: Told) -> dict[str, str]:
    """As the header of a weights file of ours would say it."""
    named = {} if told.classes is None else {"classes": json.dumps(told.classes, ensure_ascii=False)}
    return {"model": told.model.model_dump_json(), "augment": json.dumps(told.augment), **named}


def folder_tensors(path: Path, folder: Folder) -> dict[str, Tensor]:
    """All tensors of the folder at `path`, on the CPU, by the names there. Raises `WeightsError`."""
    found: dict[str, dict[str, Tensor]] = {}
    for file in folder.files:
        try:
            found[file] = load_file(opened_in(path, file))
        except (OSError, SafetensorError) as error:
            raise _unreadable(path / file, str(error)) from error
    all_shapes(folder, {file: {name: tuple(x.shape) for name, x in each.items()} for file, each in found.items()})
    return {name: tensor for each in found.values() for name, tensor in each.items()}


def read_of(tensors: Mapping[str, Tensor], told: Told) -> tuple[dict[str, Tensor], list[str]]:
    """Those that the model has, each by itself; and what is worth saying of the others."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        several = parts(name, len(tensor)) if tensor.dim() else []
        found |= zip(several, tensor.chunk(3), strict=True) if several else {name: tensor}
    kept = {name: tensor for name, tensor in found.items() if not is_unread(from_library(name, told.model), told.model)}
    return kept, left_out(len(found) - len(kept))


def require_count(said: int | None, count: int, name: str) -> None:
    """Raise `WeightsError` where `id2label` names another number of classes than the tensors are made for."""
    if said is not None and said != count:
        raise WeightsError(
            f"id2label of {name} names {said} classes, and its tensors are made for {count}",
            remedy="Use the config.json that the tensors were saved with.",
        )


def write_folder(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    model: ModelConfig,
    classes: list[str],
    extra: Mapping[str, str],
) -> None:
    """Write `state`, by the library's names, as the library saves a model; its `from_pretrained` reads it.

    It is there wholly or not at all. Raises `ConfigError` where there is something at `path`, and `OSError`.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already", remedy="Name a folder that is not there yet.")
    config, augment = config_of(model, classes), json.loads(extra.get("augment", "{}"))
    texts = {PREPROCESSOR: json.dumps(preprocessor_of(model, augment), indent=2)}
    texts[CONFIG] = json.dumps(config, indent=2, ensure_ascii=False)
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    with making_folder(path) as folder:
        save_file(tensors, folder / SINGLE, {"format": "pt"})
        for name, text in texts.items():
            (folder / name).write_text(text + "\n", encoding="utf-8")


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path.name} cannot be read: {why}", remedy="Copy the whole folder anew.")
