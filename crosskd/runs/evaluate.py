"""An evaluation, from its configuration to its files: weights ─▶ COCO AP on a split, its files, manifest, log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crosskd.data.annotations import read_classes
from crosskd.data.loader import Loader, build_loader
from crosskd.engine.callbacks import Callback, Callbacks, Run
from crosskd.engine.device import choose_device, memory_errors, set_threads
from crosskd.engine.log_callback import LogCallback, log_file
from crosskd.engine.results import size_of, versions, write_manifest
from crosskd.errors import CrossKDError, WeightsError
from crosskd.evaluation.cost import cost_of, evaluation_size
from crosskd.evaluation.curves import write_curves
from crosskd.evaluation.detections import write_detections, write_samples
from crosskd.evaluation.evaluate import evaluate as evaluate_detector
from crosskd.evaluation.matches import write_matches
from crosskd.runs import loader_input
from crosskd.runs.trained_weights import TrainedDetector, load, weights_file
from crosskd.spec.config import EvaluateConfig, EvaluationData, FileRef, TrainConfig
from crosskd.spec.evaluate_export import scale_of
from crosskd.spec.results.files import CURVES, LOG, SAMPLES
from crosskd.spec.unused_classes import used
from crosskd.structures import Batch, Evaluation
from crosskd.weights.description import Description, describe
from crosskd.weights.files import file_digest

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0  # between two words on how far it is


def evaluate(
    config: EvaluateConfig,
    workdir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    weights: Path | None = None,
    roots: Sequence[Path] = (),
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Evaluate weights as `config` says and leave `manifest.json`, the curves, the matches, the
    detections and `log.txt` in `workdir`.

    `weights` is the file behind a `JobRef`. Images may be links to files below `roots`. Callbacks hear of one
    evaluation, of a "student" after step 0. Returns the manifest. Raises `Interrupted` when `stop` is set before the
    end, and every other `CrossKDError` with a reason.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with log_file(workdir / LOG):
        try:
            run = Run(config, workdir, stop or threading.Event())
            return _evaluate(config, run, Callbacks([LogCallback(), *callbacks]), weights, roots)
        except CrossKDError as error:
            log.error("%s", error)
            raise


def _evaluate(
    config: EvaluateConfig, run: Run, callback: Callback, weights: Path | None, roots: Sequence[Path]
) -> dict[str, Any]:
    started = time.perf_counter()
    callback.on_start(run)
    callback.on_phase(run, "preparing")

    def begin(loader: Loader) -> Iterable[Batch]:
        run.total_steps = len(loader)
        callback.on_phase(run, "evaluating")
        return _reporting_progress(loader, run, callback)

    found = evaluate_weights(config, weights=weights, roots=roots, begin=begin, stopping=run.stop.is_set)
    finished, evaluation = found.finished, replace(found.evaluation, best=True)
    callback.on_evaluation(run, evaluation)
    callback.on_file(run, write_curves(run.workdir / CURVES, evaluation))
    files = (
        write_samples(run.workdir / SAMPLES, evaluation),
        write_matches(run.workdir, evaluation),
        write_detections(run.workdir, evaluation),
    )
    for file in files:
        if file is not None:
            callback.on_file(run, file)
    callback.on_phase(run, "uploading")
    manifest = {
        "format": 1,
        "kind": "evaluate",
        "seconds": round(time.perf_counter() - started, 3),
        "device": str(found.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "weights_sha256": finished.digest,
        "annotations_sha256": {"val": file_digest(Path(config.data.val.annotations))},
        "config": config.model_dump(mode="json"),
        "classes": finished.classes,
        "data": {"val": found.data},
        "scale": finished.scale.model_dump(),
        "skipped_images": found.skipped,
        "dark_images": found.dark,
        "model": _described(finished, evaluation),
    }
    callback.on_file(run, write_manifest(run, manifest))
    return manifest


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation has found, and of what."""

    finished: TrainedDetector
    evaluation: Evaluation
    device: torch.device
    skipped: list[str]  # images that could not be read
    dark: int  # images of 16 bits that are nearly black
    data: dict[str, Any]  # `CocoDataset.summary` of what it was evaluated on


def evaluate_weights(
    config: EvaluateConfig,
    *,
    weights: Path | None = None,
    roots: Sequence[Path] = (),
    begin: Callable[[Loader], Iterable[Batch]] = lambda loader: loader,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluated:
    """Evaluate a weights file as `config` says; no file is written.

    `weights` is the file behind a `JobRef`; images may be links to files below `roots`. `begin` is called when
    everything is ready, and gives the batches.

    Raises:
        WeightsError: the file is no weights file, or not of that model or those classes.
        ConfigError: nothing says which model it is, or it does not take a knob.
        DataError, OutOfMemory, Interrupted: as `crosskd.evaluation.evaluate.evaluate`.
    """
    set_threads(config.threads)
    device = choose_device(config.device)
    path = weights_file(config.weights, weights)
    description = describe(path, where="/weights")
    finished = load(config, path, description, _classes(config, description))
    given = loader_input.of_evaluation(config, finished, roots=roots)
    loader = build_loader(given, device=device, stopping=stopping)
    with memory_errors(device):
        finished.detector.to(device)
    evaluation = evaluate_detector(
        finished.detector,
        begin(loader),
        annotations=loader.dataset.annotations,
        device=device,
        stopping=stopping,
    )
    return Evaluated(finished, evaluation, device, sorted(loader.corrupt), len(loader.dark), loader.dataset.summary())


def as_evaluation(config: TrainConfig, weights: Path) -> EvaluateConfig:
    """The evaluation of the file `weights` on the validation split of a training, in its way.

    A file that says which model it holds is believed; of `config.student` then only the knobs of `postprocess` count
    that were given. Of any other file, `config.student` says everything. Raises `WeightsError`.
    """
    told = describe(weights).model() is not None
    data = config.data
    return EvaluateConfig(
        weights=FileRef(file=str(weights)),
        model=None if told else config.student.model,
        scale=scale_of(config.augment.model_dump()),
        postprocess=config.student.postprocess if told else None,
        device=config.device,
        threads=config.threads,
        data=EvaluationData(
            val=data.val,
            classes=data.classes,
            max_corrupt_images=data.max_corrupt_images,
            max_image_pixels=data.max_image_pixels,
        ),
        batch_size=config.evaluation_batch,
        as_is=config.evaluation.as_is,
        workers=config.loader.workers,
    )


def _classes(config: EvaluateConfig, description: Description) -> list[str]:
    """In label order: the file's, which must be those of the data; but for those that stand for nothing."""
    known = description.classes(distinct=True)
    wanted = config.data.classes or read_classes(config.data.val.annotations)
    if known is None:
        return wanted
    known = used(known, wanted)
    if set(wanted) != set(known):
        raise WeightsError(
            f"{description.name} knows the classes {', '.join(known)}; the data has {', '.join(wanted)}",
            where="/data/classes",
            remedy="Evaluate on data with the classes that the model was trained on.",
        )
    return known


def _reporting_progress(loader: Loader, run: Run, callback: Callback) -> Iterator[Batch]:
    """The batches, while the callback hears how many there were."""
    told = time.monotonic()
    for batch in loader:
        yield batch
        run.step += 1
        if time.monotonic() - told >= PROGRESS_SECONDS:
            callback.on_progress(run)
            told = time.monotonic()


def _described(finished: TrainedDetector, evaluation: Evaluation) -> dict[str, Any]:
    return {
        **size_of(finished.detector),
        **cost_of(finished.detector, evaluation_size(finished.augment)),
        "metrics": evaluation.metrics,
        "per_class": evaluation.per_class,
        "class_metrics": evaluation.class_metrics,
        "milliseconds_per_image": evaluation.milliseconds_per_image,
        "images": evaluation.images,
        "max_detections": evaluation.max_detections,
        "ground_truth": evaluation.ground_truth(),
    }
