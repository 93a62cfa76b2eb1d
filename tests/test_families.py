"""Over HTTP, on photographs of blood cells: teacher, student and CrossKD of each detector beyond the paper's four."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import processes_of
from tests.support.service import Service
from wire.jobs import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BCCD = Path(__file__).parent / "data" / "bccd"
CELLS = {"RBC", "WBC", "Platelets"}


@dataclass(frozen=True)
class Family:
    """A small student, what of it is larger in its teacher, and what their distillation says."""

    student: dict[str, Any]
    teacher: dict[str, Any]
    terms: set[str]


FAMILIES = {
    "faster_rcnn": Family(
        {
            "backbone": {"name": "resnet18", "width": 8, "init": "random"},
            "neck": {"channels": 32},
            "regions": {"channels": 64, "samples": 64, "train_proposals": 100, "proposals": 100},
            "postprocess": {"pre_nms": 200, "score_threshold": 0.01},
        },
        {"backbone": {"name": "resnet18", "width": 16, "init": "random"}, "neck": {"channels": 48}},
        {"crosskd_cls", "crosskd_box"},
    ),
    "rtmdet": Family(
        {"backbone": {"name": "cspnext_tiny", "width": 8}},
        {"backbone": {"name": "cspnext_s", "width": 16}},
        {"crosskd_cls", "crosskd_box"},
    ),
    "yolox": Family(
        {"backbone": {"name": "cspdarknet_tiny", "width": 8}},
        {"backbone": {"name": "cspdarknet_tiny", "width": 16}},
        {"crosskd_cls", "crosskd_box", "crosskd_objectness"},
    ),
}
SECTIONS: dict[str, Any] = {
    "augment": {"short_edges": [120], "long_edge": 160, "flip": 0.5},
    "optimizer": {"name": "adamw", "lr": 0.003, "base_batch": None, "weight_decay": 0.05},
    "schedule": {"warmup_steps": 10, "decay": "cosine"},
    "batch_size": 4,
}
EPOCHS = {"teacher": 30, "student": 6}  # of six steps


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service.start(tmp_path_factory.mktemp("home"))
    folder = shutil.copytree(BCCD, service.home / "data" / "bccd")
    service.data = {
        split: {"annotations": str(folder / f"{split}.json"), "images": str(folder / "images")}
        for split in ("train", "val")
    }
    try:
        yield service
    finally:
        service.close()
        assert processes_of(service.home) == []


def trained(service: Service, detector: str, role: str, **more: Any) -> tuple[Job, dict[str, list[float]]]:
    """A finished job, and its metrics by name."""
    family = FAMILIES[detector]
    student = {"detector": detector, **family.student, **(family.teacher if role == "teacher" else {})}
    job = service.post(f"{detector} {role}", epochs=EPOCHS[role], student=student, **SECTIONS, **more)
    ended = service.succeed(job)
    metrics: dict[str, list[float]] = {}
    for point in service.client.metrics(ended.id):
        metrics.setdefault(point.key, []).append(point.value)
    return ended, metrics


@pytest.mark.parametrize("detector", FAMILIES)
def test_a_teacher_a_student_and_crosskd(service: Service, detector: str) -> None:
    exported = {"export": {"check_images": 2}} if detector == "faster_rcnn" else {}
    teacher, _ = trained(service, detector, "teacher", **exported)
    student, alone = trained(service, detector, "student")
    distilled, metrics = trained(service, detector, "student", teacher={"job": teacher.id})
    assert len(alone["loss"]) == len(metrics["loss"]) == 6 * EPOCHS["student"]
    assert {name for name in metrics if name.startswith("crosskd")} == FAMILIES[detector].terms
    assert metrics.keys() - FAMILIES[detector].terms == alone.keys()
    aps = [job.best_ap for job in (teacher, student, distilled)]
    assert all(ap is not None and ap >= 0 for ap in aps), aps
    assert (teacher.best_ap or 0) > 0.01, aps  # else it would compare nothing with nothing
    if exported:
        photos = sorted((BCCD / "images").iterdir())[:3]
        answer = service.client.predict(teacher.id, photos, score=0.01)
        names = {category.id: category.name for category in answer.categories}
        assert {names[one.category_id] for one in answer.results} <= CELLS
        assert {one.image_id for one in answer.results} == set(range(len(photos)))
