"""Imports a data set: reads its format, checks it, divides it, writes COCO files and a report. Imports no torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosskd.datasets.boxes import settle_boxes
from crosskd.datasets.duplicates import find_duplicates
from crosskd.datasets.faults import DatasetFaults
from crosskd.datasets.formats.opening import Sources
from crosskd.datasets.formats.reading import read_source
from crosskd.datasets.images import read_images
from crosskd.datasets.model import TRAIN, Source
from crosskd.datasets.split import divide
from crosskd.datasets.statistics import box_statistics, boxes_per_image, classes, image_sizes, splits
from crosskd.datasets.writing import category_ids, digest, number_images, write_split
from crosskd.datasets.written import REPORT
from crosskd.errors import ConfigError, DataError
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.proposal.folder import require_text
from crosskd.spec.results.dataset_report import DatasetReport


@dataclass(frozen=True)
class ImportedDataset:
    """What was written: `files` are train.json, val.json, test.json where the source has one, and report.json."""

    digest: str  # sha256 in hex of the canonical content
    images: str  # the folder that `file_name` is relative to
    report: DatasetReport
    files: list[Path]


def import_dataset(
    config: ImportConfig,
    folder: Path,
    *,
    on_progress: Callable[[int, int], None],
    stop: Callable[[], bool],
    roots: Sequence[Path] = (),
) -> ImportedDataset:
    """Check a data set and write it into `folder`, which is new or empty. Nothing is left there unless all is well.

    `on_progress` is told how many of all images were read. `roots` are further folders (real paths) that links in the
    source may lead to; by default none may leave it.

    Raises:
        ConfigError: there is no such data set, or it does not say its splits.
        DataError: a file is broken as a whole, a split is empty, or there are faults and `on_fault` is `refuse`.
        Interrupted: `stop` said so.
    """
    _require_new(folder)
    faults = DatasetFaults()
    sources = Sources(Path(config.source), roots)
    source = read_source(sources, config, faults)
    require_text(source.root)
    read_images(source, faults, near=config.near_duplicates, on_progress=on_progress, stop=stop)
    settle_boxes(source, faults)
    if config.on_fault == "refuse":
        faults.refuse()
    divide(source, config.split, faults)
    if config.on_fault == "refuse":
        faults.refuse()  # what stands in both splits is seen by now
    if not any(image.boxes for image in source.splits[TRAIN]):
        raise DataError(
            f"no training image has a box{faults.because()}",
            remedy="Check the labels, and that they lie where they belong.",
        )
    number_images(source)
    report = _report(config, source, faults)
    files = _write(folder, source, report)
    return ImportedDataset(report.digest, report.images, report, files)


def _report(config: ImportConfig, source: Source, faults: DatasetFaults) -> DatasetReport:
    sides, areas, ratios, centres = box_statistics(source)
    return DatasetReport(
        digest=digest(source),
        source=config.source,
        format=source.format,
        images=str(source.root),
        split=config.split,
        splits=splits(source),
        classes=classes(source, category_ids(source)),
        image_sizes=image_sizes(source),
        box_sides=sides,
        box_areas=areas,
        aspect_ratios=ratios,
        boxes_per_image=boxes_per_image(source),
        centres=centres,
        faults=faults.counts(),
        duplicates=find_duplicates(source, near=config.near_duplicates),
    )


def _require_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} is there already, and not empty", remedy="Name a new folder.")


def _write(folder: Path, source: Source, report: DatasetReport) -> list[Path]:
    """All files beside `folder` first, then in one step in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        number, names = 1, []
        for name, images in source.ordered():
            names.append(f"{name}.json")
            number = write_split(made / names[-1], source, images, number)
        names.append(REPORT)
        (made / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        made.chmod(0o777 & ~_umask())
        os.replace(made, folder)  # noqa: PTH105 - an empty folder is replaced, too
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return [folder / name for name in names]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
