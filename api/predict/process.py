"""One process for predictions: `python -m api.predict.process MEMORY_BYTES SECONDS THREADS`.

What the network computes, it computes by onnxruntime: torch is not here.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

from api.processes import image_process
from api.processes.image_process import fault
from crosskd.errors import CrossKDError
from crosskd.predict.answer import Answer, Wanted, answer
from crosskd.predict.graph import OnnxDetector
from crosskd.predict.picture import BadImage

KEPT = 3  # graphs
_MEMORY = ("alloc", "out of memory", "cannot allocate")  # in messages of onnxruntime, whose errors have no kinds


class Graphs:
    """The graphs that were asked last, by digest."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._kept: OrderedDict[str, OnnxDetector] = OrderedDict()

    def get(self, path: Path, sha256: str) -> OnnxDetector:
        if sha256 not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[sha256] = OnnxDetector(path, threads=self._threads, keep_memory=False)
        self._kept.move_to_end(sha256)
        return self._kept[sha256]


def predict(graphs: Graphs, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """The answer to an order, or its fault."""
    try:
        graph = graphs.get(Path(order["path"]), order["sha256"])
        if "number" not in order:
            return {}, b""  # only to be loaded
        wanted = Wanted(order["score"], order["most"], order["pixels"], order["picture"])
        found: Answer = answer(
            graph.detect, graph.scale, graph.categories, content, wanted, number=order["number"], name=order["name"]
        )
    except BadImage as error:
        return fault(error.kind, error.message, error.remedy), b""
    except CrossKDError as error:
        return fault("model", error.message, error.remedy), b""
    except MemoryError:
        return fault("memory"), b""
    except Exception as error:  # noqa: BLE001 - onnxruntime's have no common class
        text = str(error)[:500] or type(error).__name__
        kind = "memory" if any(word in text.lower() for word in _MEMORY) else "model"
        return fault(kind, f"the graph cannot be run on this image: {text}", "Look at the job's log."), b""
    told = {
        "image": found.image.model_dump(mode="json"),
        "results": [result.model_dump(mode="json") for result in found.results],
        "categories": [category.model_dump(mode="json") for category in graph.categories],
        "weights_sha256": graph.weights_sha256,
    }
    return told, found.picture


def main(memory: str, seconds: str, threads: str) -> None:
    """Bound this process, then serve."""
    image_process.run(partial(predict, Graphs(int(threads))), int(memory), float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
