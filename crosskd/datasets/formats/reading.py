"""Tells the format of a source, and reads it."""

from __future__ import annotations

from pathlib import Path

from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.coco import read_coco
from crosskd.datasets.formats.opening import Sources
from crosskd.datasets.model import Source
from crosskd.spec.data.import_config import ImportConfig


def read_source(sources: Sources, config: ImportConfig, faults: DatasetFaults) -> Source:
    """Raises: `ConfigError` for a source of no known format; `DataError` for one that cannot be read at all."""
    return read_coco(sources, None if config.images is None else Path(config.images), faults)
