"""The graph is written in a process of its own, which can be ended at any moment.

The exporter traces a model by symbols, and nothing can interrupt it: with a model that it does not master it takes
hours, or never ends, and heeds no signal.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from crosskd.detectors.detector import Detector, build_detector
from crosskd.engine.launch import exit_with_launcher
from crosskd.errors import ConfigError, CrossKDError, ExportError, Interrupted
from crosskd.onnx.families import pipeline_of
from crosskd.onnx.graph import write_graph
from crosskd.spec.config import ModelConfig
from crosskd.weights.files import replacing
from crosskd.weights.native import read_weights, write_weights

POLL_SECONDS = 0.1
SIGNAL_SECONDS = 0.5  # a Ctrl-C reaches both processes, and the other may end first

_ORDER, _WEIGHTS, _GRAPH, _FAULT, _OUTPUT = (
    "order.json",
    "weights.safetensors",
    "model.onnx",
    "fault.json",
    "output.txt",
)


class Watch:
    """When an export has to end before it is done: at a request, or when its time is over."""

    def __init__(self, stop: threading.Event, seconds: float) -> None:
        self.stop, self.seconds = stop, seconds
        self._deadline = time.monotonic() + seconds

    def check(self) -> None:
        """Raises `Interrupted` or `ExportError` where it has to end. There is nothing to save."""
        if self.stop.is_set():
            raise Interrupted("stopped on request", step=0)
        if time.monotonic() > self._deadline:
            raise ExportError(
                f"the export has not ended within {self.seconds:g} seconds",
                where="/max_seconds",
                remedy="Raise `max_seconds` if the machine is slow; otherwise use weights with another backbone.",
            )


def write_graph_apart(detector: Detector, path: Path, *, opset: int, metadata: Mapping[str, str], watch: Watch) -> None:
    """`write_graph` of `detector`, on the CPU, in a process that is killed where `watch` says so.

    Raises:
        ExportError: the model has no form in ONNX, the time is over, or the process was killed.
        Interrupted: a stop was requested.
    """
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as name:
        folder = Path(name)
        classes = [str(label) for label in range(detector.num_classes)]
        write_weights(folder / _WEIGHTS, detector.state_dict(), model=detector.config, classes=classes)
        order = {
            "classes": len(classes),
            "opset": opset,
            "threads": torch.get_num_threads(),
            "metadata": dict(metadata),
        }
        (folder / _ORDER).write_text(json.dumps(order), encoding="utf-8")
        status = _run([sys.executable, "-m", __name__, str(folder), str(os.getpid())], folder, watch.check)
        if status:
            if watch.stop.wait(SIGNAL_SECONDS):
                watch.check()
            raise _fault(folder, status)
        with replacing(path) as temporary:
            (folder / _GRAPH).replace(temporary)


def _run(command: list[str], folder: Path, check: Callable[[], None]) -> int:
    """The exit status of `command`, minus the signal's number if one killed it. It is killed where `check` raises."""
    with (folder / _OUTPUT).open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                check()
                try:
                    return process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _fault(folder: Path, status: int) -> CrossKDError:
    if (folder / _FAULT).exists():
        known: dict[str, Any] = json.loads((folder / _FAULT).read_text(encoding="utf-8"))
        kind = ConfigError if known.pop("config") else ExportError
        return kind(known.pop("message"), **known)
    if status < 0:
        why = f"was killed by signal {-status} ({signal.Signals(-status).name})"
        remedy = "Give it more memory." if -status == signal.SIGKILL else "Start the export again."
        return ExportError(f"the process that writes the graph {why}", remedy=remedy)
    lines = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1].strip() if lines else f"exit status {status}"
    return ExportError(
        f"the model cannot be written as ONNX: {reason[:500]}",
        where="/model/backbone/name",
        remedy="The exporter fails with this model; use weights with another backbone.",
    )


def main(folder: Path, parent: int) -> int:
    """Write the graph that `folder` orders, or why there is none. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for this process ends it
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # the exporter makes many objects, and few that are garbage: a sixth of its time
    exit_with_launcher(parent)
    order = json.loads((folder / _ORDER).read_text(encoding="utf-8"))
    torch.set_num_threads(order["threads"])
    try:
        tensors, described = read_weights(folder / _WEIGHTS)
        model = ModelConfig.model_validate_json(described["model"])
        detector = build_detector(model, order["classes"], pretrained=False)
        detector.load_state_dict(tensors)
        pipeline = pipeline_of(detector.eval().requires_grad_(False))
        write_graph(pipeline, folder / _GRAPH, opset=order["opset"], metadata=order["metadata"])
    except CrossKDError as error:
        fault = {"message": error.message, "where": error.where, "remedy": error.remedy}
        text = json.dumps({**fault, "config": isinstance(error, ConfigError)})
        (folder / _FAULT).write_text(text, encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
