"""One training, from its configuration to its files: takes the parts (`parts`) and runs them. Read this first.

config ─▶ data, student (and teacher ─▶ distiller) ─▶ engine.loop ─▶ weights, manifest, log
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crosskd.data.transforms import recorded_scale
from crosskd.detectors.detector import Detector
from crosskd.distill.distiller import Distiller
from crosskd.distill.renormalise import RenormalisedDetector
from crosskd.engine import distributed, run_state
from crosskd.engine.callbacks import Callback, Callbacks, Run, TrainResult
from crosskd.engine.checkpoint import (
    fingerprint,
    fingerprint_digest,
    list_checkpoints,
    prune,
    read_checkpoint,
    remove_later,
    require_same_run,
    write_checkpoint,
)
from crosskd.engine.device import memory_errors
from crosskd.engine.log_callback import LogCallback, log_file
from crosskd.engine.loop import fit
from crosskd.engine.parallel import broadcast_buffers
from crosskd.engine.results import Results, versions, write_manifest
from crosskd.engine.stop_reason import StopReason
from crosskd.errors import ConfigError, CrossKDError, Interrupted
from crosskd.evaluation.cost import cost_of, evaluation_size
from crosskd.evaluation.curves import write_curves
from crosskd.evaluation.detections import write_samples
from crosskd.evaluation.evaluate import Evaluable, evaluate
from crosskd.runs.image_settings import with_image_settings
from crosskd.runs.layout import tell
from crosskd.runs.parts import build_parts, total_batch
from crosskd.runs.shared_files import NOTHING_SHARED, CacheDisk, SharedFiles
from crosskd.runs.trained_onnx import export_best
from crosskd.spec.config import TrainConfig
from crosskd.spec.results.files import (
    BEST_FILES,
    BEST_WEIGHTS,
    CHECKPOINTS,
    CURVES,
    LAST_WEIGHTS,
    LOG,
    SAMPLES,
    TEACHER_CACHE,
    BestKind,
)
from crosskd.structures import Evaluation
from crosskd.weights.files import File

log = logging.getLogger(__name__)

POOR_TEACHER = 0.01  # AP below which the teacher is more likely broken than weak


def train(
    config: TrainConfig,
    workdir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    resume: Path | None = None,
    teacher_weights: Path | None = None,
    init_weights: Path | None = None,
    roots: Sequence[Path] = (),
    stop: threading.Event | None = None,
    finish: threading.Event | None = None,
    shared: SharedFiles = NOTHING_SHARED,
) -> TrainResult:
    """Train as `config` says and leave in `workdir`: best and last weights, checkpoints, matches, detections,
    `manifest.json`, `log.txt`.

    `resume` is a checkpoint, or a folder whose newest sound one is taken; the run then goes on as if it had never
    ended; checkpoints in `workdir` of later steps are removed. Without `resume`, `workdir` must not have any.
    `teacher_weights` and `init_weights` (of `student.init`) are the files behind a `JobRef`. Images may be links to
    files below `roots`. Setting `stop` (or `run.request_stop()` in a callback) ends the run after its step with a
    checkpoint and `Interrupted`; every other `CrossKDError` says what is wrong. Setting `finish` (or
    `run.request_finish()`) ends it after its step as a success, as an early stop does. `shared` is what
    this machine's trainings keep for each other.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    if resume is None:
        _require_unused(workdir)
    run = Run(config, workdir, stop or threading.Event(), finish or threading.Event())
    with distributed.process_group(config), log_file(workdir / _log_name()):
        listeners = [LogCallback(), *callbacks] if distributed.is_main() else []
        try:
            with distributed.detecting_lost_ranks():
                former = {"teacher_weights": teacher_weights, "init_weights": init_weights}
                if shared.teacher_cache is None:
                    shared = replace(shared, teacher_cache=CacheDisk(workdir / TEACHER_CACHE, sys.maxsize))
                return _Session(run, Callbacks(listeners), former, roots, shared).execute(resume)
        except Interrupted as error:
            log.info("%s", error)
            raise
        except CrossKDError as error:
            log.error("%s", error)
            raise


def _log_name() -> str:
    """Each rank of a training writes a log of its own."""
    return LOG if distributed.is_main() else f"log-rank-{distributed.rank()}.txt"


def _require_unused(workdir: Path) -> None:
    """Checkpoints are kept by their step: a new run's would lose against those of a longer one before it."""
    if former := list_checkpoints(workdir / CHECKPOINTS):
        raise ConfigError(
            f"the folder has the checkpoints of a former run, the newest of them {former[0].name}",
            where=str(workdir),
            remedy="Go on from there with --resume, or use another folder.",
        )


def _images_told(skipped: list[dict[str, str]], dark: list[dict[str, str]]) -> dict[str, Any]:
    """What the manifest says of images: those that could not be read, and how many of 16 bits are nearly black."""
    names: set[str] = set().union(*skipped)
    return {"skipped_images": sorted(names), "dark_images": len(set().union(*dark))}


class _Session:
    """One sitting of a run: from its start, or from a checkpoint, to its end or to an error."""

    def __init__(
        self,
        run: Run,
        callback: Callback,
        former: Mapping[str, Path | None],
        roots: Sequence[Path],
        shared: SharedFiles,
    ) -> None:
        self.run, self.config, self.callback = run, run.config, callback
        self.former, self.roots, self.shared = former, roots, shared
        self.started = time.perf_counter()

    def execute(self, resume: Path | None) -> TrainResult:
        run = self.run
        self.callback.on_start(run)
        self.callback.on_phase(run, "preparing")
        saved = read_checkpoint(resume) if resume is not None else None
        settings = saved["settings"] if saved is not None else None
        self.config = run.config = with_image_settings(self.config, saved=settings, **self.former)
        self.parts = build_parts(
            self.config,
            pretrained=saved is None,
            roots=self.roots,
            stopping=run.stop.is_set,
            saved_layout=None if saved is None else saved.get("channels_last", False),  # before 0.3 there was no choice
            shared=self.shared,
            **self.former,
        )
        training = self.parts.training
        run.steps_per_epoch, run.total_steps = training.schedule.steps_per_epoch, training.schedule.total_steps
        classes, metadata = self.parts.train_loader.classes, {"augment": recorded_scale(self.config.augment)}
        self.results = Results(run.workdir, self.config.student.model, classes, metadata)
        others = self.parts.train_loader.source.unlabelled
        digests = self.parts.digests | ({} if others is None else {"unlabelled": others.digest})
        self.settings = fingerprint(self.config, digests, self.parts.teacher_digest)
        if saved is not None:
            self._restore(saved)
        self._log_parts()
        if self.parts.teacher is not None and self.results.teacher is None and self.config.evaluation.teacher_first:
            self._evaluate_teacher(self.parts.teacher)
        self.callback.on_phase(run, "training")
        return self._deliver(fit(run, training, self.callback, save=self._save, evaluate=self._evaluate_student))

    @property
    def seconds(self) -> float:
        """Of the whole run, over all its sittings."""
        return self.results.seconds_before + time.perf_counter() - self.started

    @property
    def delivered(self) -> Detector:
        """The student that is evaluated and handed out."""
        return self.parts.student if self.parts.ema is None else self.parts.ema.model

    def _restore(self, saved: dict[str, Any]) -> None:
        require_same_run(saved["settings"], self.settings)
        with memory_errors(self.parts.device):
            run_state.restore(saved, self.run, self.parts.training, self.results)
        if distributed.is_main():
            remove_later(self.run.workdir / CHECKPOINTS, self.run.step)
        log.info("resuming after step %d (epoch %.2f)", self.run.step, self.run.epoch)
        if self.results.best is not None:  # this folder may be new
            self._tell(self.results.write_best())
        self._tell_files(*BEST_FILES)

    def _save(self) -> None:
        folder = self.run.workdir / CHECKPOINTS
        state = run_state.capture(self.run, self.parts.training, self.results, self.settings, seconds=self.seconds)
        state["channels_last"] = self.parts.layout.channels_last
        if not distributed.is_main():
            return
        self._tell(write_checkpoint(folder, self.run.step, state))
        prune(folder, self.config.checkpoint.keep_last)

    def _evaluate_teacher(self, teacher: Detector) -> None:
        self.callback.on_phase(self.run, "evaluating_teacher")
        reader = RenormalisedDetector(teacher, self.config.student.pixels)
        evaluation = self._evaluate(reader, "teacher")
        self.results.add_teacher(evaluation)
        self.callback.on_evaluation(self.run, evaluation)
        self._write_files(evaluation)
        self._tell_files("teacher_matches", "teacher_detections")
        if evaluation.ap < POOR_TEACHER:
            log.warning(
                "the teacher reaches AP %.4f on the validation split: check its classes, their order and its pixels",
                evaluation.ap,
            )

    def _evaluate_student(self) -> str:
        """Returns why the student will hardly get better; empty while it may."""
        run = self.run
        self.callback.on_phase(run, "evaluating")
        broadcast_buffers(self.delivered)
        evaluation = self.results.add(self._evaluate(self.delivered, "student"), self.delivered)
        if evaluation.best:
            run.best_ap, run.best_step = evaluation.ap, evaluation.step
        self.callback.on_evaluation(run, evaluation)
        self._write_files(evaluation)
        if evaluation.best:
            self._tell(self.results.write_best())
            self._tell_files("matches", "detections")
        self.callback.on_phase(run, "training")
        return self.results.out_of_patience(self.config.evaluation)

    def _evaluate(self, detector: Evaluable, model: str) -> Evaluation:
        loader = self.parts.val_loader
        return evaluate(
            detector,
            loader,
            annotations=loader.dataset.annotations,
            device=self.parts.device,
            model=model,
            step=self.run.step,
            epoch=self.run.epoch,
            stopping=lambda: self.run.stopping,  # nothing to save: a checkpoint before it stands
        )

    def _write_files(self, evaluation: Evaluation) -> None:
        """Those that each evaluation leaves."""
        if distributed.is_main():
            self._tell(write_curves(self.run.workdir / CURVES, evaluation))
            self._tell(write_samples(self.run.workdir / SAMPLES, evaluation))

    def _tell_files(self, *kinds: BestKind) -> None:
        for kept in kinds:
            self._tell(self.results.write_file(kept))

    def _tell(self, file: File | None) -> None:
        """Of a file that stands; None: another rank has written it."""
        if file is not None:
            self.callback.on_file(self.run, file)

    def _deliver(self, reason: StopReason) -> TrainResult:
        run, results = self.run, self.results
        assert results.best is not None
        self.callback.on_phase(run, "uploading")
        self._tell(results.write_last(self.delivered))
        train, val = self.parts.train_loader, self.parts.val_loader
        skipped = distributed.gather(train.corrupt | val.corrupt)
        dark = distributed.gather(train.dark | val.dark)
        images = {} if skipped is None else _images_told(skipped, dark or [])
        manifest = distributed.broadcast({} if skipped is None else self._manifest(images))
        if distributed.is_main():
            manifest = self._exported(manifest)
            self._tell(write_manifest(run, manifest))
        best, last = run.workdir / BEST_WEIGHTS, run.workdir / LAST_WEIGHTS
        result = TrainResult(
            results.best.ap, results.best.step, run.step, manifest, best, last, run.stopped_early, reason
        )
        self.callback.on_end(run, result)
        return result

    def _exported(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The manifest with what became of the ONNX graph. No other rank waits for it in a collective."""
        if self.config.export is None:
            return manifest
        self.callback.on_phase(self.run, "exporting")
        file, told = export_best(self.run, self.config.export, self.parts.val_loader.dataset)
        self.callback.on_phase(self.run, "uploading")
        self._tell(file)
        return {**manifest, "onnx": told}

    def _manifest(self, images: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": 1,
            "steps": self.run.step,
            "stopped_early": bool(self.run.stopped_early),
            "stop_reason": self.run.stopped_early or None,
            "seconds": round(self.seconds, 3),
            "device": str(self.parts.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "annotations_sha256": self.parts.digests,
            "teacher_weights_sha256": self.parts.teacher_digest,
            "init_student": self.parts.inherited,
            "student_init": self.parts.begun,
            **self._distilled(),
            "layout": self.parts.layout.as_dict(),
            "settings_digest": fingerprint_digest(self.settings),
            "config": self.config.model_dump(mode="json"),
            "data": {
                "train": self.parts.train_loader.dataset.summary(),
                "val": self.parts.val_loader.dataset.summary(),
                **self._unlabelled(),
            },
            **images,
            **self._models(),
        }

    def _distilled(self) -> dict[str, Any]:
        """What the manifest says of the terms and of the teacher's cache."""
        trainee = self.parts.training.trainee
        if not isinstance(trainee, Distiller):
            return {"adapters": {}}
        cache = {} if trainee.cache is None else {"teacher_cache": trainee.cache.summary()}
        return {"adapters": trainee.adapters()} | cache

    def _unlabelled(self) -> dict[str, Any]:
        """What the manifest says of images without labels, where there are any."""
        images = self.parts.train_loader.source.unlabelled
        if images is None:
            return {}
        in_batch = images.config.per_batch(self.config.batch_size)
        in_step = in_batch * self.config.accumulate * self.config.gpus
        own = {"per_batch": in_batch, "per_step": in_step, "ratio": images.config.ratio}
        return {"unlabelled": images.summary() | own | {"confidence": images.config.confidence}}

    def _models(self) -> dict[str, Any]:
        """What the manifest says of student and teacher: their AP and what they cost."""
        summary = self.results.summary(self.parts.student, self.parts.teacher)
        size = evaluation_size(self.config.augment)
        for name, detector in (("student", self.delivered), ("teacher", self.parts.teacher)):
            if detector is not None:
                summary[name] |= cost_of(detector, size)
        return summary

    def _log_parts(self) -> None:
        parts, threads = self.parts, torch.get_num_threads()
        log.info(
            "%d training and %d validation images, %d classes; %d steps of %d images; %s, %d thread%s",
            len(parts.train_loader.dataset),
            len(parts.val_loader.dataset),
            len(parts.train_loader.classes),
            self.run.total_steps,
            total_batch(self.config),
            parts.device,
            threads,
            "" if threads == 1 else "s",
        )
        tell(parts.layout)
