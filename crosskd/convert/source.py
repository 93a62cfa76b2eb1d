"""A file of weights, whatever wrote it: its tensors, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from crosskd.convert.formats import Format, format_of
from crosskd.convert.mmdet_config import parse_config
from crosskd.data.transforms import recorded_scale
from crosskd.engine.checkpoint import read_checkpoint
from crosskd.errors import WeightsError
from crosskd.spec.config import AugmentConfig, ModelConfig
from crosskd.spec.detr.folder import Folder
from crosskd.spec.evaluate_export import OF_OTHER_PROJECTS
from crosskd.spec.weights.file_kind import FORMAT
from crosskd.weights.description import Description
from crosskd.weights.folder import folder_at, folder_tensors, read_of, record, told_by
from crosskd.weights.native import read_header
from crosskd.weights.tensors import is_safetensors, read_content, tensors_in

OWN_ENTRY = "crosskd"  # in the `meta` of an MMDetection file that we wrote
_STUDENT = "student."  # begins the student's names in a checkpoint of a distillation
_FILE_KEYS = ("format", "version", "model", "classes", "names", "input")


@dataclass(frozen=True)
class Source:
    """The tensors by the file's own names, without what wraps them; of model and classes, None where it does not say
    them."""

    name: str  # of the file
    format: Format
    tensors: dict[str, Tensor]
    model: ModelConfig | None = None
    classes: list[str] | None = None
    extra: dict[str, str] = field(default_factory=dict)  # further metadata of ours: step, ap, augment ...
    config: dict[str, Any] = field(default_factory=dict)  # MMDetection's own, as `parse_config` reads it
    notes: list[str] = field(default_factory=list)  # what was around the tensors, and what beside them was left out
    count: int | None = None  # of classes, where it says that of itself

    def image_settings(self) -> dict[str, Any]:
        """As `Description.image_settings`."""
        return Description(self.name, self.extra).image_settings()


def read_source(path: Path | str) -> Source:
    """Read our safetensors or training checkpoint, an MMDetection or a torchvision file; safetensors or PyTorch; or a
    folder of transformers.

    Nothing in the file is run. Of a training checkpoint only the student is taken: its average where the run keeps
    one, as a training delivers it; neither a teacher, nor what distillation terms learn themselves, nor the optimizer.
    Raises `WeightsError`, and `CheckpointCorrupt` for a checkpoint that is not what its digest says.
    """
    path = Path(path)
    if (folder := folder_at(path)) is not None:
        return _from_folder(path, folder)
    content, safetensors = read_content(path), is_safetensors(path)
    if not safetensors and _is_checkpoint(content):
        return _from_checkpoint(read_checkpoint(path), path.name)  # again: this one heeds the digest
    found = tensors_in(content, path.name)
    own = read_header(path)[0] if safetensors else _own_entry(content)
    if safetensors and own.get("format") != FORMAT:
        own = {}
    described = Description(path.name, own)
    model, classes = described.model(), described.classes()
    if classes is None and not safetensors:
        classes = _mmdet_classes(content)
    extra = {key: value for key, value in own.items() if key not in _FILE_KEYS}
    meta = _meta(content)
    config = {} if safetensors else parse_config(meta.get("cfg") or meta.get("config"))  # of MMDetection 3, 2
    form = format_of(found.tensors, path.name)
    if form != "native" and not own:
        extra["augment"] = json.dumps(OF_OTHER_PROJECTS)
    return Source(path.name, form, found.tensors, model, classes, extra, config, found.notes)


def _from_folder(path: Path, folder: Folder) -> Source:
    told = told_by(folder)
    extra = {"augment": record(told)["augment"]}
    tensors, left_out = read_of(folder_tensors(path, folder), told)
    notes = told.notes + left_out
    return Source(path.name, "transformers", tensors, told.model, told.classes, extra, notes=notes, count=told.count)


def _own_entry(content: Any) -> dict[str, str]:
    """What we wrote beside the tensors of a PyTorch file, if we did."""
    facts = _meta(content).get(OWN_ENTRY)
    return {str(key): str(value) for key, value in facts.items()} if isinstance(facts, Mapping) else {}


def _meta(content: Any) -> Mapping[str, Any]:
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _mmdet_classes(content: Any) -> list[str] | None:
    """The class names where MMDetection 3 (`dataset_meta`) or 2 writes them."""
    meta = _meta(content)
    facts = meta.get("dataset_meta")
    for place in (facts if isinstance(facts, Mapping) else {}, meta):
        for key in ("classes", "CLASSES"):
            names = place.get(key)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return list(names)
    return None


def _is_checkpoint(content: Any) -> bool:
    return isinstance(content, Mapping) and {"trainee", "settings", "position"} <= content.keys()


def _from_checkpoint(content: Mapping[str, Any], name: str) -> Source:
    try:
        state = content["trainee"] if content["ema"] is None else content["ema"]["model"]
        settings = content["settings"]
        student = settings["student"]
        # Where the backbone began is no setting of a resume, and not recorded.
        student = {**student, "backbone": {**student["backbone"], "init": "random"}}
        model = ModelConfig.model_validate(student)
        extra = {
            "step": str(content["position"]["step"]),
            "augment": recorded_scale(AugmentConfig.model_validate(settings["augment"])),
        }
        classes = settings["data"]["classes"]
        if any(key.startswith(_STUDENT) for key in state):
            state = {key.removeprefix(_STUDENT): value for key, value in state.items() if key.startswith(_STUDENT)}
        tensors = tensors_in(state, name).tensors
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise WeightsError(
            f"{name} is a checkpoint in a form that this version does not know",
            remedy="Convert it with the version that wrote it.",
        ) from error
    return Source(name, format_of(tensors, name), tensors, model, classes, extra)
