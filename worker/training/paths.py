"""The last look at a spec's paths, on the machine that opens them: the API's may have other links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from crosskd.errors import ConfigError, CrossKDError
from crosskd.spec import inputs
from crosskd.spec.config import EvaluateConfig, ExportConfig, FileRef, ModelConfig, Section, TrainConfig
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.detr.folder import read_folder

_WEIGHTS = ("/weights/file", "/student/init/file", "/teacher/weights/file")  # of a whole detector: a folder will do
_SOURCE = "/source"  # of an import: a folder, or a file
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def _paths(config: Section) -> Iterator[tuple[str, str]]:
    """Every path that the spec names, as (JSON pointer, path)."""
    if isinstance(config, TrainConfig):
        yield from _training(config)
    if isinstance(config, ImportConfig):
        yield _SOURCE, config.source
        if config.images is not None:
            yield "/images", config.images
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
    if (others := config.data.unlabelled) is not None:
        yield "/data/unlabelled/images", others.images
        if others.names is not None:
            yield "/data/unlabelled/names", others.names
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


@contextmanager
def opened_paths(
    config: Section, roots: Sequence[Path], annotations: Mapping[str, Path] | None = None
) -> Iterator[list[Path]]:
    """Open every path of the spec, see that it lies, links resolved, in one of `roots`, and keep it open for the block.

    What is read in the block by one of these paths is what was opened here: a link that is changed later leads nowhere
    else. Images are opened one by one, and must lie in the folder that was opened or in the roots as they are given
    here, links resolved: a root that becomes a link later leads nowhere else either.

    `annotations` are those of an imported data set, by split: they were fetched, and are read by the names that the
    spec calls them by.

    Raises:
        ConfigError: one does not lie in the roots, is not there, or cannot be read; the message says which.
    """
    real_roots = [inputs.real_path(root) for root in roots]
    with ExitStack() as stack:
        opened: dict[str, inputs.Input] = {}
        fetched = _fetched(config, annotations or {})
        for pointer, path in _paths(config):
            if pointer in fetched:
                opened[path] = stack.enter_context(_open_fetched(pointer, fetched[pointer]))
                continue
            opened[path] = stack.enter_context(_open(pointer, path, real_roots))
            if pointer in _WEIGHTS:
                opened.update(_content(pointer, path, opened[path], real_roots, stack))
        with inputs.pinned(opened):
            yield real_roots


def _fetched(config: Section, annotations: Mapping[str, Path]) -> dict[str, Path | None]:
    """By pointer, where the annotation files of an imported data set lie; None: it was not fetched."""
    if not isinstance(config, TrainConfig | EvaluateConfig) or config.data.dataset is None:
        return {}
    return {f"/data/{split}/annotations": annotations.get(split) for split in ("train", "val")}


def _open_fetched(pointer: str, path: Path | None) -> inputs.Input:
    if path is None:
        raise ConfigError(
            "the annotation file of the data set did not come with the job",
            where=pointer,
            remedy="Post the job again. If its data set is gone, import it anew; run workers of the API's version.",
        )
    return inputs.open_within(path, [inputs.real_path(path.parent)])


def _content(
    pointer: str, path: str, found: inputs.Input, roots: Sequence[Path], stack: ExitStack
) -> dict[str, inputs.Input]:
    """The files of a checkpoint folder, which are all that is read of it; of a file none."""
    if not stat.S_ISDIR(os.fstat(found.descriptor).st_mode):
        return {}

    def opener(name: str) -> BinaryIO:
        try:
            return os.fdopen(inputs.open_within(found.path / name, roots).descriptor, "rb")
        except (inputs.LeadsOutside, inputs.WrongKind):
            raise ConfigError(
                f"{name} in {path} is no regular file in this worker's data roots",
                where=pointer,
                remedy="Copy the file itself into the folder.",
            ) from None

    try:
        names = read_folder(Path(path).name, opener).all_files
    except CrossKDError as error:
        error.where = error.where or pointer
        raise
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read on this worker: {error.strerror}",
            where=pointer,
            remedy="Give the worker's user the right to read it.",
        ) from None
    return {
        str(Path(path) / name): stack.enter_context(_open(pointer, str(found.path / name), roots)) for name in names
    }


def _open(pointer: str, path: str, roots: Sequence[Path]) -> inputs.Input:
    folder = pointer.endswith("/images") or (pointer in (*_WEIGHTS, _SOURCE) and Path(path).is_dir())
    try:
        return inputs.open_within(path, roots, folder=folder)
    except inputs.LeadsOutside:
        what = "lies outside this worker's data roots"
        names = ", ".join(map(str, roots))
        remedy = f"Use a path below {names}, or add its folder to CROSSKD_DATA_ROOTS on the worker."
    except inputs.WrongKind:
        what = f"is no {'folder' if folder else 'regular file'} on this worker"
        remedy = "Images are named by their folder, all else by a file; pipes and devices are not read."
    except OSError as error:
        if error.errno in _ABSENT:
            what = "does not exist on this worker"
            remedy = "Mount the same data at the same path on the API's machine and every worker's."
        else:
            what = f"cannot be read on this worker: {error.strerror}"
            remedy = "Give the worker's user the right to read it."
    raise ConfigError(f"{path} {what}", where=pointer, remedy=remedy)
