"""Over HTTP, end to end: every detector as a student, and teachers that are not made like their students."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from crosskd.weights.native import read_weights
from tests.support.service import SPEC, Service
from wire.jobs import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 2
STUDENT: dict[str, Any] = SPEC["student"]
TERMS = {
    "gfl": {"crosskd_cls", "crosskd_box"},
    "retinanet": {"crosskd_cls", "crosskd_box"},
    "atss": {"crosskd_cls", "crosskd_box", "crosskd_centerness"},
    "fcos": {"crosskd_cls", "crosskd_box"},
    "rtmdet": {"crosskd_cls", "crosskd_box"},
    "yolox": {"crosskd_cls", "crosskd_box", "crosskd_objectness"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.running(tmp_path_factory.mktemp("home")) as service:
        yield service


class Teachers(dict[str, Job]):
    """One finished training per detector, made when first asked for."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service

    def __missing__(self, detector: str) -> Job:
        job = self.service.post(f"teacher-{detector}", epochs=EPOCHS, student={**STUDENT, "detector": detector})
        self[detector] = self.service.succeed(job)
        return self[detector]


@pytest.fixture(scope="module")
def teachers(service: Service) -> Teachers:
    return Teachers(service)


def distilled(service: Service, teacher: Job, **changes: Any) -> tuple[set[str], dict[str, Any]]:
    """A student taught by `teacher`: the terms among its metrics, and its manifest."""
    student = {**STUDENT, **changes}
    job = service.post("student", epochs=EPOCHS, teacher={"job": teacher.id}, student=student)
    ended = service.succeed(job)
    keys = {point.key for point in service.client.jobs.metrics(ended.id)}
    path = service.client.jobs.weights(ended.id, service.home / f"{ended.id}.safetensors")
    assert not [name for name in read_weights(path)[0] if name.startswith("terms.")]
    manifest = service.client.jobs.download(ended.id, "manifest.json", service.home / f"{ended.id}.json")
    return {key for key in keys if key.startswith("crosskd")}, json.loads(manifest.read_text())


@pytest.mark.parametrize("detector", sorted(TERMS))
def test_a_student_of_every_detector(service: Service, teachers: Teachers, detector: str) -> None:
    terms, manifest = distilled(service, teachers[detector], detector=detector)
    assert terms == TERMS[detector]
    assert manifest["teacher"]["metrics"]["AP"] >= 0
    assert manifest["adapters"] == {}


def test_a_teacher_of_another_backbone_norm_depth_and_width(service: Service, teachers: Teachers) -> None:
    terms, manifest = distilled(
        service,
        teachers["gfl"],
        backbone={"name": "resnet18", "width": 8, "init": "random"},
        head={**STUDENT["head"], "norm": "none", "depth": 1, "channels": 16},
    )
    assert terms == TERMS["gfl"]
    assert set(manifest["adapters"]) == {"crosskd.adapt_cls", "crosskd.adapt_box"}


def test_a_teacher_of_another_detector(service: Service, teachers: Teachers) -> None:
    terms, manifest = distilled(service, teachers["retinanet"], detector="gfl")
    assert terms == TERMS["retinanet"]
    assert manifest["config"]["distill"]["crosskd"]["box"] == "giou"
