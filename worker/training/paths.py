"""The last look at a spec's paths, on the machine that opens them: the API's may have other links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crosskd.errors import ConfigError
from crosskd.spec.config import EvaluateConfig, ExportConfig, FileRef, ModelConfig, Section, TrainConfig


def _paths(config: Section) -> Iterator[tuple[str, str]]:
    """Every path that the spec names, as (JSON pointer, path)."""
    if isinstance(config, TrainConfig):
        yield from _training(config)
    if isinstance(config, EvaluateConfig | ExportConfig):
        if isinstance(config.weights, FileRef):
            yield "/weights/file", config.weights.file
        if config.model is not None:
            yield from _backbone("/model", config.model)
    if isinstance(config, EvaluateConfig):
        yield "/data/val/annotations", config.data.val.annotations
        yield "/data/val/images", config.data.val.images
    if isinstance(config, ExportConfig) and config.images is not None:
        yield "/images", config.images


def _training(config: TrainConfig) -> Iterator[tuple[str, str]]:
    for name in ("train", "val"):
        split = getattr(config.data, name)
        yield f"/data/{name}/annotations", split.annotations
        yield f"/data/{name}/images", split.images
    yield from _backbone("/student", config.student)
    if isinstance(config.student.init, FileRef):
        yield "/student/init/file", config.student.init.file
    if config.teacher is not None:
        if isinstance(config.teacher.weights, FileRef):
            yield "/teacher/weights/file", config.teacher.weights.file
        if config.teacher.model is not None:
            yield from _backbone("/teacher/model", config.teacher.model)


def _backbone(pointer: str, model: ModelConfig) -> Iterator[tuple[str, str]]:
    if isinstance(model.backbone.init, FileRef):
        yield f"{pointer}/backbone/init/file", model.backbone.init.file


def check_paths(config: Section, roots: Sequence[Path]) -> None:
    """See that every path lies, links resolved, in one of `roots`, and is there.

    Raises:
        ConfigError: one does not; the message names the roots.
    """
    for pointer, path in _paths(config):
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in roots):
            names = ", ".join(map(str, roots))
            raise ConfigError(
                f"{path} lies outside this worker's data roots",
                where=pointer,
                remedy=f"Use a path below {names}, or add its folder to CROSSKD_DATA_ROOTS on the worker.",
            )
        if real.exists() and not (real.is_dir() if pointer.endswith("/images") else real.is_file()):
            raise ConfigError(
                f"{path} is no {'folder' if pointer.endswith('/images') else 'regular file'} on this worker",
                where=pointer,
                remedy="Images are named by their folder, all else by a file; pipes and devices are not read.",
            )
        if not real.exists():
            raise ConfigError(
                f"{path} does not exist on this worker",
                where=pointer,
                remedy="Mount the same data at the same path on the API's machine and every worker's.",
            )
