"""An import of a data set, from its configuration to its files, with a log and callbacks as any other run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosskd.datasets.importing import ImportedDataset, import_dataset
from crosskd.engine.callbacks import Callback, Callbacks, Run
from crosskd.engine.log_callback import LogCallback, log_file
from crosskd.engine.results import versions, write_manifest
from crosskd.errors import CrossKDError
from crosskd.spec.data.import_config import ImportConfig
from crosskd.spec.results.files import DATASET_REPORT, LOG, FileKind
from crosskd.weights.files import File, file_digest

log = logging.getLogger(__name__)

FOLDER = "dataset"  # of the run
TELL_SECONDS = 1.0  # between two words of progress


def run_import(
    config: ImportConfig,
    workdir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    roots: Sequence[Path] = (),
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Import as `config` says; leave `dataset/`, `manifest.json` and `log.txt` in `workdir`. Returns the manifest.

    Images may be links to files below `roots`, which are real paths.

    Raises:
        Interrupted: `stop` was set before the end.
        CrossKDError: the data set or the configuration is at fault.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    run = Run(config, workdir, stop or threading.Event())
    with log_file(workdir / LOG):
        try:
            return _import(config, run, Callbacks([LogCallback(), *callbacks]), roots)
        except CrossKDError as error:
            log.error("%s", error)
            raise


def _import(config: ImportConfig, run: Run, callback: Callback, roots: Sequence[Path]) -> dict[str, Any]:
    started = time.perf_counter()
    callback.on_start(run)
    callback.on_phase(run, "importing")
    told = started

    def on_progress(done: int, total: int) -> None:
        nonlocal told
        run.step, run.total_steps = done, total
        if time.perf_counter() - told >= TELL_SECONDS:
            told = time.perf_counter()
            callback.on_progress(run)

    made = import_dataset(config, run.workdir / FOLDER, on_progress=on_progress, stop=run.stop.is_set, roots=roots)
    for fault in made.report.faults:
        log.warning("%d x %s, %s: %s", fault.count, fault.kind, fault.done, fault.remedy)
    for split in made.report.splits:
        log.info("%s: %d images, %d boxes", split.name, split.images, split.boxes)
    callback.on_phase(run, "uploading")
    for path in made.files:
        kind: FileKind = "report" if path.name == DATASET_REPORT else "annotations"
        callback.on_file(run, File(path, kind, 0, file_digest(path)))
    manifest = _manifest(config, made) | {"seconds": round(time.perf_counter() - started, 3)}
    callback.on_file(run, write_manifest(run, manifest))
    return manifest


def _manifest(config: ImportConfig, made: ImportedDataset) -> dict[str, Any]:
    return {
        "kind": "import",
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "digest": made.digest,
        "format": made.report.format,
        "images": made.images,
        "splits": [split.model_dump() for split in made.report.splits],
        "classes": [found.name for found in made.report.classes],
        "faults": sum(fault.count for fault in made.report.faults),
    }
