"""An evaluation, from its configuration to its files: weights ─▶ COCO AP on a split, curves, manifest, log."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crosskd.data.annotations import read_classes
from crosskd.data.loader import Loader, build_loader
from crosskd.engine.callbacks import Callback, Callbacks, Run
from crosskd.engine.device import choose_device, memory_errors, set_threads
from crosskd.engine.log_callback import LogCallback, log_file
from crosskd.engine.results import size_of, versions
from crosskd.errors import CrossKDError, WeightsError
from crosskd.evaluation.cost import cost_of, evaluation_size
from crosskd.evaluation.curves import write_curves
from crosskd.evaluation.evaluate import evaluate as evaluate_detector
from crosskd.runs.finished import Finished, describe, load
from crosskd.spec.config import DataConfig, EvaluateConfig, LoaderConfig, TrainConfig
from crosskd.structures import Batch, Evaluation
from crosskd.weights.files import write_text

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0  # between two words on how far it is


def evaluate(
    config: EvaluateConfig,
    workdir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    weights: Path | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Evaluate weights as `config` says and leave `manifest.json`, the curves and `log.txt` in `workdir`.

    `weights` is the file behind a `JobRef`. Callbacks hear of one evaluation, of a "student" after step 0. Returns the
    manifest. Raises `Interrupted` when `stop` is set before the end, and every other `CrossKDError` with a reason.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with log_file(workdir / "log.txt"):
        try:
            return _evaluate(
                config, workdir, Callbacks([LogCallback(), *callbacks]), weights, stop or threading.Event()
            )
        except CrossKDError as error:
            log.error("%s", error)
            raise


def _evaluate(
    config: EvaluateConfig, workdir: Path, callback: Callback, weights: Path | None, stop: threading.Event
) -> dict[str, Any]:
    started = time.perf_counter()
    set_threads(config.threads)
    device = choose_device(config.device)
    run = Run(config, workdir, stop)
    callback.on_start(run)
    callback.on_phase(run, "preparing")
    description = describe(config, weights)
    finished = load(config, description, _classes(config, description.classes, description.path))
    loader = build_loader(as_training(config, finished), "val", finished.classes, device=device)
    with memory_errors(device):
        finished.detector.to(device)
    run.total_steps = len(loader)
    callback.on_phase(run, "evaluating")
    evaluation = evaluate_detector(
        finished.detector,
        _told(loader, run, callback),
        annotations=loader.dataset.annotations,
        device=device,
        stopping=stop.is_set,
    )
    evaluation = replace(evaluation, best=True)
    callback.on_evaluation(run, evaluation)
    callback.on_curves(run, write_curves(workdir / "curves", evaluation), evaluation)
    callback.on_phase(run, "uploading")
    manifest = {
        "format": 1,
        "kind": "evaluate",
        "seconds": round(time.perf_counter() - started, 3),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "weights_sha256": finished.digest,
        "config": config.model_dump(mode="json"),
        "classes": finished.classes,
        "skipped_images": sorted(loader.corrupt),
        "model": _described(finished, evaluation),
    }
    path = workdir / "manifest.json"
    write_text(path, json.dumps(manifest, indent=2) + "\n")
    callback.on_file(run, path, "manifest")
    return manifest


def as_training(config: EvaluateConfig, finished: Finished) -> TrainConfig:
    """The training whose validation this evaluation is: what a loader reads."""
    data = config.data
    return TrainConfig(
        data=DataConfig(
            train=data.val,
            val=data.val,
            classes=finished.classes,
            max_corrupt_images=data.max_corrupt_images,
            max_image_pixels=data.max_image_pixels,
        ),
        student=finished.detector.config,
        augment=finished.augment,
        loader=LoaderConfig(workers=config.workers),
        batch_size=config.batch_size,
        device=config.device,
        threads=config.threads,
    )


def _classes(config: EvaluateConfig, known: list[str] | None, path: Path) -> list[str]:
    """In label order: the file's, which must be those of the data."""
    wanted = config.data.classes or read_classes(config.data.val.annotations)
    if known is None:
        return wanted
    if set(wanted) != set(known):
        raise WeightsError(
            f"{path.name} knows the classes {', '.join(known)}; the data has {', '.join(wanted)}",
            where="/data/classes",
            remedy="Evaluate on data with the classes that the model was trained on.",
        )
    return known


def _told(loader: Loader, run: Run, callback: Callback) -> Iterator[Batch]:
    """The batches, while the callback hears how many there were."""
    told = time.monotonic()
    for batch in loader:
        yield batch
        run.step += 1
        if time.monotonic() - told >= PROGRESS_SECONDS:
            callback.on_progress(run)
            told = time.monotonic()


def _described(finished: Finished, evaluation: Evaluation) -> dict[str, Any]:
    return {
        **size_of(finished.detector),
        **cost_of(finished.detector, evaluation_size(finished.augment)),
        "metrics": evaluation.metrics,
        "per_class": evaluation.per_class,
        "class_metrics": evaluation.class_metrics,
        "milliseconds_per_image": evaluation.milliseconds_per_image,
        "images": evaluation.images,
    }
