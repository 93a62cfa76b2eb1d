"""Imports of small data sets, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crosskd.datasets.importing import ImportedDataset, import_dataset
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.results.dataset_report import DatasetReport, FaultCount

BCCD = Path(__file__).parents[1] / "data" / "bccd"


def imported(source: Path, to: Path, **options: Any) -> ImportedDataset:
    """Import `source` into the new folder `to`; `options` are of `ImportConfig`."""
    roots = options.pop("roots", ())
    config = ImportConfig(source=str(source), **options)
    return import_dataset(config, to, on_progress=lambda done, total: None, stop=lambda: False, roots=roots)


def faults(report: DatasetReport) -> dict[str, FaultCount]:
    return {fault.kind: fault for fault in report.faults}


def counts(report: DatasetReport) -> dict[str, int]:
    return {fault.kind: fault.count for fault in report.faults}


def boxes(file: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """Of each image of a COCO file its boxes, as class and x, y, width, height, in order."""
    content = json.loads(file.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images: dict[str, list[tuple[str, list[float]]]] = {image["file_name"]: [] for image in content["images"]}
    by_id = {image["id"]: image["file_name"] for image in content["images"]}
    for box in content["annotations"]:
        images[by_id[box["image_id"]]].append((names[box["category_id"]], box["bbox"]))
    return images
