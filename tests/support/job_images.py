"""Jobs with validation images and detections in them, as a worker leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from api.images import index
from crosskd.data.annotations import Annotations
from crosskd.evaluation.average_precision import CocoResult, average_precision
from crosskd.evaluation.detections import packed_detections, packed_samples
from crosskd.spec.results.files import samples_name
from tests.support.matches import SIDE, detections, truth
from tests.support.worker_calls import Worker, upload


def index_here(request: Any, *_limits: Any) -> Any:
    """Instead of `images._run`: the same in this process."""

    @contextmanager
    def opened(descriptor: int) -> Iterator[BinaryIO]:
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(0)
            yield file

    return index.answer(request, opened)


class Measured(NamedTuple):
    """What an evaluation has found: its numbers, and its files."""

    result: CocoResult
    detections: bytes
    samples: bytes


def split(root: Path, images: int = 8) -> Annotations:
    """Images below `root`, all alike, and boxes of two classes in them."""
    folder = root / "images"
    folder.mkdir(exist_ok=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    for number in range(images):
        picture.save(folder / f"{number}.png")
    return truth(root, 3, images=images)


def measured(known: Annotations, seed: int, *, model: str = "student", step: int = 7) -> Measured:
    """Detections that depend on `seed`."""
    found = detections(known, seed)
    result = average_precision(known, found)
    ids, images = known.category_ids, known.image_ids.tolist()
    samples = packed_samples(found, images, ids, model=model, step=step, score=result.score)
    return Measured(result, packed_detections(found, images, ids), samples)


class Jobs:
    """Posts jobs on a split and plays their worker."""

    def __init__(self, client: TestClient, spec: dict[str, Any], known: Annotations, root: Path) -> None:
        self.client, self.worker, self.root = client, Worker(client), root
        files = {"annotations": str(known.path), "images": str(root / "images")}
        self.spec = spec | {"data": {"train": files, "val": files}}

    def post(self, kind: str = "train", **more: Any) -> str:
        answer = self.client.post("/jobs", json={"kind": kind, "name": "a job", "spec": self.spec | more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def finished(
        self,
        student: Measured | None = None,
        teacher: Measured | None = None,
        outcome: str | None = "succeeded",
        result: dict[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """A job that has been run, with what it left; `outcome` None: it runs still."""
        job = self.post(**more)
        assert self.worker.claim(job).status_code == 200
        for model, prefix, one, step in (("student", "", student, 7), ("teacher", "teacher_", teacher, 0)):
            if one is not None:
                assert one.result.matches is not None
                upload(self.worker, f"{prefix}detections.json.gz?step={step}", one.detections)
                upload(self.worker, f"{prefix}matches.safetensors?step={step}", one.result.matches)
                upload(self.worker, f"{samples_name(model, step)}?kind=samples&step={step}", one.samples)
        if outcome is not None:
            failure = {"failure": {"failure_class": "user", "message": "wrong"}} if outcome == "failed" else {}
            answer = self.worker.finish(outcome, **failure, **({"result": result} if result else {}))
            assert answer.status_code == 200, answer.text
        return job


def change(path: Path, edit: Any) -> None:
    """Rewrite a JSON file as `edit` changes its content."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
