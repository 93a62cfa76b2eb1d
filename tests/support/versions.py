"""Versions of data sets in an API whose worker the test plays: the import itself is the core's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from crosskd.datasets.importing import ImportedDataset
from tests.support import coco_files
from tests.support.imports import imported
from tests.support.worker_calls import Worker, upload

SIDES = [(64, 64)] * 4


def write_source(folder: Path, *, seed: int = 0) -> Path:
    """A data set of four images, its two splits side by side; another `seed` gives other boxes."""
    both = coco_files.many(SIDES, seed=seed)
    for name, ids in (("train", both["images"][:3]), ("val", both["images"][3:])):
        kept = {image["id"] for image in ids}
        boxes = [box for box in both["annotations"] if box["image_id"] in kept]
        coco_files.write(folder, {**both, "images": ids, "annotations": boxes}, name=f"{name}.json")
    return folder


def result(made: ImportedDataset) -> dict[str, Any]:
    """What the manifest of the import tells the service."""
    return {
        "digest": made.digest,
        "format": made.report.format,
        "images": made.images,
        "splits": [split.model_dump() for split in made.report.splits],
        "classes": [found.name for found in made.report.classes],
        "faults": sum(fault.count for fault in made.report.faults),
    }


def run_import(worker: Worker, job: str, source: Path, **changes: Any) -> ImportedDataset:
    """Claim the job and do what it is about; `changes` are of the result that is told."""
    assert worker.claim(job).status_code == 200
    with tempfile.TemporaryDirectory() as folder:
        made = imported(source, Path(folder) / "dataset", near_duplicates=False)
        for path in made.files:
            upload(worker, path.name, path.read_bytes())
    answer = worker.finish("succeeded", result=result(made) | changes)
    assert answer.status_code == 200, answer.text
    return made


def make_version(worker: Worker, name: str, source: Path) -> ImportedDataset:
    """Import `source`, which lies in a data root, as a version of `name`."""
    answer = worker.client.post("/datasets", json={"name": name, "source": str(source), "near_duplicates": False})
    assert answer.status_code == 201, answer.text
    return run_import(worker, answer.json()["id"], source)
