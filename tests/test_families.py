"""Over HTTP, on photographs of blood cells: teacher, student and CrossKD of the families beyond the paper's four."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from client import specs
from tests.support.service import Service
from wire.jobs import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BCCD = Path(__file__).parent / "data" / "bccd"
CELLS = {"RBC", "WBC", "Platelets"}


@dataclass(frozen=True)
class Family:
    """A small student, what of it is other in its teacher, what their distillation says, and which of them exports."""

    student: dict[str, Any]
    teacher: dict[str, Any]
    terms: set[str]
    exports: str = ""
    optimizer: dict[str, Any] = field(default_factory=dict)
    clip_norm: float | None = 10.0


DETR = {"heads": 4, "feedforward": 64, "decoder_layers": 2, "denoising": 20, "expansion": 0.5}
WINDOWS = {"width": 32, "heads": 4, "windows": 2, "patch": 8, "image_side": 128}
DECODER = {"heads": 4, "cross_heads": 4, "feedforward": 64, "decoder_layers": 2, "queries": 30, "groups": 3}
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
        exports="teacher",
    ),
    "rtmdet": Family(
        {"backbone": {"name": "cspnext_tiny", "width": 8}},
        {"backbone": {"name": "cspnext_s", "width": 16}},
        {"crosskd_cls", "crosskd_box"},
        clip_norm=None,  # its first gradients are longer, and with them cut off it learns next to nothing
    ),
    "yolox": Family(
        {"backbone": {"name": "cspdarknet_tiny", "width": 8}},
        {"backbone": {"name": "cspdarknet_tiny", "width": 16}},
        {"crosskd_cls", "crosskd_box", "crosskd_objectness"},
    ),
    "d_fine": Family(
        {
            "backbone": {"name": "resnet18", "width": 8, "init": "random"},
            "detr": {**DETR, "width": 32, "queries": 30, "depth": 0.34, "bins": 8},
        },
        {
            "detector": "rt_detr",
            "backbone": {"name": "resnet18", "width": 16, "init": "random"},
            "detr": {**DETR, "width": 64, "queries": 60},
        },
        {"crosskd_cls", "crosskd_box", "crosskd_giou"},
        exports="crosskd",
        optimizer={"lr": 0.001, "weight_decay": 1e-4},
    ),
    "rf_detr": Family(
        {"backbone": {"name": "rf_detr_dinov2", "vit": {**WINDOWS, "maps": [1, 2]}}, "detr": {**DECODER, "width": 32}},
        {
            "detector": "lw_detr",
            "backbone": {"name": "lw_detr_vit", "vit": {**WINDOWS, "width": 48, "maps": [1, 2]}},
            "detr": {**DECODER, "width": 64},
        },
        {"crosskd_cls", "crosskd_box", "crosskd_giou"},
        exports="crosskd",
        optimizer={"lr": 0.001, "weight_decay": 1e-4},
    ),
}
SECTIONS: dict[str, Any] = {
    "augment": {"short_edges": [120], "long_edge": 160, "flip": 0.5},
    "optimizer": {"name": "adamw", "lr": 0.003, "base_batch": None, "weight_decay": 0.05},
    "schedule": {"warmup_steps": 10, "decay": "cosine"},
    "batch_size": 4,
}
EPOCHS = {"teacher": 30, "student": 6, "crosskd": 6}  # of six steps


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.running(tmp_path_factory.mktemp("home")) as service:
        folder = shutil.copytree(BCCD, service.home / "data" / "bccd")
        service.data = {
            split: {"annotations": str(folder / f"{split}.json"), "images": str(folder / "images")}
            for split in ("train", "val")
        }
        yield service


def trained(
    service: Service, name: str, role: str, teacher: dict[str, str] | None = None
) -> tuple[Job, dict[str, list[float]]]:
    """A finished job, and its metrics by name."""
    family = FAMILIES[name]
    student = {"detector": name, **family.student, **(family.teacher if role == "teacher" else {})}
    optimizer = {**SECTIONS["optimizer"], **family.optimizer}
    sections: dict[str, Any] = {**SECTIONS, "optimizer": optimizer, "clip_norm": family.clip_norm}
    if role == family.exports:
        sections["export"] = {"check_images": 2}
    job = service.post(f"{name} {role}", epochs=EPOCHS[role], student=student, teacher=teacher, **sections)
    ended = service.succeed(job)
    metrics: dict[str, list[float]] = {}
    for point in service.client.jobs.metrics(ended.id):
        metrics.setdefault(point.key, []).append(point.value)
    return ended, metrics


@pytest.mark.parametrize("name", FAMILIES)
def test_a_teacher_a_student_and_crosskd(service: Service, name: str) -> None:
    teacher, _ = trained(service, name, "teacher")
    student, alone = trained(service, name, "student")
    distilled, metrics = trained(service, name, "crosskd", teacher={"job": teacher.id})
    assert len(alone["loss"]) == len(metrics["loss"]) == 6 * EPOCHS["student"]
    assert {key for key in metrics if key.startswith("crosskd")} == FAMILIES[name].terms
    assert metrics.keys() - FAMILIES[name].terms == alone.keys()
    aps = [job.best_ap for job in (teacher, student, distilled)]
    assert all(ap is not None and ap >= 0 for ap in aps), aps
    assert (teacher.best_ap or 0) > 0.01, aps  # else it would compare nothing with nothing
    for role, job in (("teacher", teacher), ("crosskd", distilled)):
        if role == FAMILIES[name].exports:
            predicts(service, job)
            evaluates(service, job)


def predicts(service: Service, job: Job) -> None:
    """By its graph."""
    photos = sorted((BCCD / "images").iterdir())[:3]
    answer = service.client.jobs.predict(job.id, photos, score=0.01)
    names = {category.id: category.name for category in answer.categories}
    assert {names[one.category_id] for one in answer.results} <= CELLS
    assert {one.image_id for one in answer.results} == set(range(len(photos)))


def evaluates(service: Service, job: Job) -> None:
    """Its weights, as well as the training did."""
    body = {"spec": {"workers": 0, "threads": 1, "data": {"val": service.data["val"]}}}
    weights = {"job": job.id, "checkpoint": "best"}
    again = service.succeed(service.client.jobs.create(specs.complete(body, name="again", weights=weights)))
    assert again.best_ap == pytest.approx(job.best_ap, abs=1e-6)
