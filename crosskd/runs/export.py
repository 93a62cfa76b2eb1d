"""An export, from its configuration to its files: weights ─▶ ONNX graph ─▶ checked and timed on real images."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from crosskd.data.folder import read_samples
from crosskd.data.transforms import Sample, recorded_scale
from crosskd.engine.callbacks import Callback, Callbacks, Run
from crosskd.engine.device import choose_device, memory_errors, set_threads
from crosskd.engine.log_callback import LogCallback, log_file
from crosskd.engine.results import size_of, versions, write_manifest
from crosskd.errors import ConfigError, CrossKDError, ExportError
from crosskd.evaluation.cost import cost_of, evaluation_size, latency_of, median_milliseconds, noise
from crosskd.onnx.apart import Watch, write_graph_apart
from crosskd.onnx.check import Check, Graph, compare, raw_batch
from crosskd.runs.trained_weights import TrainedDetector, load, weights_file
from crosskd.spec.config import ExportConfig
from crosskd.spec.evaluate_export import unexportable
from crosskd.spec.results.files import LOG, ONNX
from crosskd.spec.unused_classes import used
from crosskd.structures import Size
from crosskd.weights.description import Description, describe
from crosskd.weights.files import File, file_digest

log = logging.getLogger(__name__)


def export(
    config: ExportConfig,
    workdir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    weights: Path | None = None,
    roots: Sequence[Path] = (),
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Export weights as `config` says and leave `model.onnx`, `manifest.json` and `log.txt` in `workdir`.

    `weights` is the file behind a `JobRef`. Images may be links to files below `roots`. onnxruntime runs the graph on
    the first `check_images` of the folder `images`, and what it finds is held against what the detector finds. Returns
    the manifest.

    Raises:
        ExportError: the model has no form in ONNX, the graph does not agree with it, or `max_seconds` are over.
        Interrupted: `stop` was set before the end.
        CrossKDError: the weights, the images or the configuration are at fault.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    run = Run(config, workdir, stop or threading.Event())
    with log_file(workdir / LOG):
        try:
            return _export(config, run, Callbacks([LogCallback(), *callbacks]), weights, roots)
        except CrossKDError as error:
            log.error("%s", error)
            raise


def _export(
    config: ExportConfig, run: Run, callback: Callback, weights: Path | None, roots: Sequence[Path]
) -> dict[str, Any]:
    started, watch = time.perf_counter(), Watch(run.stop, config.max_seconds)
    set_threads(config.threads)
    device = choose_device(config.device)
    callback.on_start(run)
    callback.on_phase(run, "preparing")
    source = weights_file(config.weights, weights)
    description = describe(source, where="/weights")
    finished = load(config, source, description, _classes(config, description))
    detector, augment = finished.detector, finished.augment
    if reason := unexportable(detector.config):
        raise ExportError(reason, where="/weights", remedy="Use weights of another detector or backbone.")
    if config.images is None:
        message = "the graph is checked on real images, and no folder is named"
        raise ConfigError(message, where="/images", remedy="Name a folder of images.")
    samples = read_samples(config.images, config.check_images, augment, max_pixels=config.max_image_pixels, roots=roots)

    watch.check()
    callback.on_phase(run, "exporting")
    path, size = run.workdir / ONNX, evaluation_size(augment)
    write_graph_apart(detector, path, opset=config.opset, metadata=metadata(finished), watch=watch)
    watch.check()
    callback.on_phase(run, "evaluating")
    graph, check = checked(path, finished, samples, watch)

    watch.check()
    callback.on_phase(run, "uploading")
    cost = cost_of(detector, size)
    cost["latency"]["onnx"] = _graph_latency(graph, size, augment.pad_to)
    if device.type == "cuda":
        with memory_errors(device):
            cost["latency"][f"pytorch_{device.type}"] = latency_of(detector.to(device), size)
    file = File(path, "onnx", run.step, file_digest(path))
    manifest = _manifest(config, finished, file, check) | {
        "seconds": round(time.perf_counter() - started, 3),
        "model": {**size_of(detector), **cost},
    }
    callback.on_file(run, file)
    callback.on_file(run, write_manifest(run, manifest))
    return manifest


def checked(path: Path, finished: TrainedDetector, samples: Sequence[Sample], watch: Watch) -> tuple[Graph, Check]:
    """The graph at `path`, held against PyTorch on `samples`. Raises `ExportError` where they differ."""
    graph = Graph(path, threads=torch.get_num_threads())
    check = compare(graph, finished.detector, samples, finished.augment.pad_to, before_batch=watch.check)
    log.info(
        "the graph agrees with PyTorch on %d detections in %d images: boxes within %.4f px, scores within %.1e",
        check.detections,
        check.images,
        check.box_difference,
        check.score_difference,
    )
    return graph, check


def _classes(config: ExportConfig, description: Description) -> list[str]:
    known = description.classes(distinct=True)
    if known is not None and config.classes is not None and config.classes not in (known, used(known)):
        raise ConfigError(
            f"{description.name} was trained on other classes: {', '.join(known)}",
            where="/classes",
            remedy="Leave `classes` out: the file says them.",
        )
    if (classes := config.classes or (known and used(known))) is None:
        message = f"{description.name} does not say its classes"
        raise ConfigError(message, where="/classes", remedy="Give `classes`, the names in label order.")
    return classes


def _graph_latency(graph: Graph, size: Size, multiple: int) -> dict[str, Any]:
    images, sizes = raw_batch([noise(size)], multiple)
    timed = median_milliseconds(lambda: graph.run(images, sizes))
    return {**timed, "device": "cpu", "threads": torch.get_num_threads()}


def metadata(finished: TrainedDetector) -> dict[str, str]:
    """What the file says of itself, so that it can be used without anything else."""
    return {
        "classes": json.dumps(finished.classes, ensure_ascii=False),
        "scale": recorded_scale(finished.augment),
        "images": "float32 [batch, 3, height, width]: RGB, 0..255, resized by `scale` (bilinear, with antialiasing if "
        "`antialias` is true), padded to a multiple of pad_to",
        "sizes": "int64 [batch, 2]: height and width of each image in it; what lies beyond is ignored",
        "boxes": "x1 y1 x2 y2 in pixels of `images`, best score first; the first `counts` rows are detections",
        "model": finished.detector.config.model_dump_json(),
        "weights_sha256": finished.digest,
    }


def _manifest(config: ExportConfig, finished: TrainedDetector, file: File, check: Check) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": "export",
        "threads": torch.get_num_threads(),
        "versions": versions() | {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "weights_sha256": finished.digest,
        "config": config.model_dump(mode="json"),
        "classes": finished.classes,
        "scale": finished.scale.model_dump(),
        "file": {"name": file.name, "sha256": file.sha256, "bytes": file.path.stat().st_size, "opset": config.opset},
        "check": check.as_dict(),
    }
