"""The best student of a training as an ONNX graph, written when the training has ended.

Whatever goes wrong here is told, and fails nothing: the training is done, and its weights can be exported again.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from crosskd.data.annotations import read_category_ids
from crosskd.data.coco import CocoDataset, Example
from crosskd.data.transforms import Sample, validation_sample
from crosskd.engine.callbacks import Run
from crosskd.errors import CrossKDError, DataError, ExportError, Interrupted
from crosskd.runs.trained_weights import load
from crosskd.spec.config import ExportConfig, FileRef, OnnxConfig
from crosskd.spec.evaluate_export import unexportable
from crosskd.spec.results.files import BEST_WEIGHTS, ONNX
from crosskd.weights.description import describe
from crosskd.weights.files import File, file_digest

log = logging.getLogger(__name__)

LATER = "`crosskd export` writes it from the weights at any time"


def export_best(run: Run, wanted: OnnxConfig, dataset: CocoDataset) -> tuple[File | None, dict[str, Any]]:
    """`model.onnx` of the best student in `run.workdir`, and what the manifest says of it.

    `dataset` is the validation split: the graph is checked on its first images. Where there is no graph, `missing`
    says why.
    """
    path = run.workdir / ONNX
    if reason := unexportable(run.config.student.model):
        log.warning("no ONNX is written: %s", reason)
        return None, {"missing": reason}
    try:
        return _export(run, wanted, path, dataset)
    except ModuleNotFoundError as error:
        reason = f"there is no {error.name} here: pip install 'crosskd[export]'"
    except Interrupted:
        reason = "a stop was requested meanwhile"
    except CrossKDError as error:
        reason = str(error)
    except Exception as error:  # the exporter's own failures have no common class
        log.debug("it was raised here:", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
    path.unlink(missing_ok=True)  # one that does not agree is worse than none
    reason = " ".join(reason.split())[:1000]
    log.warning("no ONNX is written: %s; %s", reason.removesuffix("."), LATER)
    return None, {"missing": reason}


def _export(run: Run, wanted: OnnxConfig, path: Path, dataset: CocoDataset) -> tuple[File, dict[str, Any]]:
    from crosskd.onnx.apart import Watch, write_graph_apart
    from crosskd.runs.export import checked, metadata

    started, watch = time.perf_counter(), Watch(run.stop, wanted.max_seconds)
    best = run.workdir / BEST_WEIGHTS
    description = describe(best)
    finished = load(ExportConfig(weights=FileRef(file=str(best))), best, description, dataset.classes)
    ids = read_category_ids(dataset.annotations.path, dataset.classes)
    told = metadata(finished) | {"category_ids": str(ids)}
    write_graph_apart(finished.detector, path, opset=wanted.opset, metadata=told, watch=watch)
    _, check = checked(path, finished, _samples(run, dataset, wanted.check_images), watch)
    file = File(path, "onnx", run.step, file_digest(path))
    return file, {
        "sha256": file.sha256,
        "bytes": path.stat().st_size,
        "opset": wanted.opset,
        "weights_sha256": finished.digest,
        "check": check.as_dict(),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _samples(run: Run, dataset: CocoDataset, count: int) -> list[Sample]:
    """The first images that can be read, at the scale of the evaluation. Raises `ExportError` where there is none."""
    samples: list[Sample] = []
    for index in range(len(dataset)):
        try:
            image = dataset[index].image
        except DataError:  # the evaluation has told of it
            continue
        example = Example(index, image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        samples.append(validation_sample(example, run.config.augment))
        if len(samples) == count:
            break
    if not samples:
        raise ExportError("no validation image can be read to check the graph on")
    return samples
