"""Tells the format of a source, and reads it."""

from __future__ import annotations

from pathlib import Path

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.coco import read_coco
from crosskd.datasets.formats.opening import Sources
from crosskd.datasets.formats.voc import read_voc
from crosskd.datasets.formats.yolo import read_yolo
from crosskd.datasets.model import Source
from crosskd.errors import ConfigError
from crosskd.spec.data.import_config import Format, ImportConfig
from crosskd.spec.data.recognise import recognise


def read_source(sources: Sources, config: ImportConfig, faults: DatasetFaults) -> Source:
    """Raises: `ConfigError` for a source of no known format; `DataError` for one that cannot be read at all."""
    format_ = _recognised(sources) if config.format == "auto" else config.format
    if format_ == "coco":
        return read_coco(sources, None if config.images is None else Path(config.images), faults)
    if config.images is not None:
        raise ConfigError(
            "`images` is for COCO files alone: YOLO and Pascal VOC say where their images are",
            where="/images",
            remedy="Leave it out.",
        )
    return read_yolo(sources, faults) if format_ == "yolo" else read_voc(sources, faults)


def _recognised(sources: Sources) -> Format:
    found = recognise(sources.file or sources.folder)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"the folder holds annotations in {len(found)} formats: {', '.join(found)}",
            where="/format",
            remedy="Say which is meant: format (crosskd import: --format).",
        )
    raise ConfigError(
        f"{str(sources.folder)!r} holds no data set of a known format: COCO (a .json file of instances), YOLO "
        "(data.yaml, or images/ and labels/) or Pascal VOC (.xml files)",
        where="/source",
        remedy="Name the data set's folder, or its annotation file or data.yaml.",
    )
