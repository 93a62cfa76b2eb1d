"""Which of the workers that were heard of could take a job, and what they lack for it.

A worker tells its devices and versions when it starts, with each claim and every few hours. One that was never
started is unknown, and may still come: what is said here is a warning, never a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from api.database import Session
from api.models import Worker
from crosskd.spec.backbones.library import HGNET, RT_DETR_RESNET
from crosskd.spec.detr.types import EXTRA, LIBRARY, TYPES
from crosskd.spec.registry import BACKBONES, TIMM
from wire.tasks import ANY, queues

KEPT = timedelta(days=7)  # a worker that was not heard of for so long is not listed, and not counted on
LISTED = 1000
_NAMED = 3  # workers that a warning names


def heard_of(session: Session) -> Sequence[Worker]:
    """The workers that were heard of lately, the last first."""
    since = session.now() - KEPT
    return session.scalars(
        select(Worker).where(Worker.last_seen > since).order_by(Worker.last_seen.desc()).limit(LISTED)
    ).all()


def able(workers: Sequence[Worker], queue: str) -> list[Worker]:
    """Those that take jobs from the queue."""
    return [worker for worker in workers if queue in queues(worker.device)]


def nobody(workers: Sequence[Worker], queue: str) -> str:
    """That none of `workers` takes jobs from the queue."""
    kind, _, count = queue.partition("-")
    what = f" with {count} GPUs" if count else {"cpu": " on the CPU", ANY: ""}.get(kind, " with a GPU")
    known = sorted({worker.device for worker in workers})
    others = f" (known are workers with the devices {'; '.join(known[:_NAMED])})" if known else ""
    return f"no worker{what} has been heard of within {KEPT.days} days{others}"


def warnings(session: Session, kind: str, queue: str, spec: dict[str, Any]) -> list[str]:
    """What speaks against a job that is about to be queued ever being run, or run with success, in words."""
    workers = heard_of(session)
    takers = able(workers, queue)
    if not takers:
        return [f"{nobody(workers, queue)}; the job waits until one reports itself. GET /workers lists them."]
    found = []
    for what, package, extra in _packages(kind, spec):
        without = [worker.name for worker in takers if package not in worker.versions]
        if without:
            found.append(_lacking(what, package, extra, without, len(takers)))
    # Without a choice of its own the job is shown wherever its worker shows all: nobody asked for more.
    for name in spec.get("track") or []:
        without = [worker.name for worker in takers if name not in _trackers(worker, name)]
        if without:
            whom = "no worker that could take the job" if len(without) == len(takers) else "not every worker"
            found.append(
                f"the job may not be shown in {name}: {whom} has the package and the settings for it (lacking: "
                f"{_named(without)}). It is trained all the same. docs/tracking.md says what a worker needs."
            )
    return found


def _trackers(worker: Worker, asked: str) -> Sequence[str]:
    """Those that the worker can use; one of an older release does not tell, and may have what is asked for."""
    told = (worker.machine or {}).get("trackers")
    return [asked] if told is None else told


def _named(workers: Sequence[str]) -> str:
    return ", ".join(workers[:_NAMED]) + (f" and {len(workers) - _NAMED} more" if len(workers) > _NAMED else "")


def _lacking(what: str, package: str, extra: str, without: Sequence[str], takers: int) -> str:
    names = _named(without)
    if len(without) == takers:
        told = f"no worker that could take the job has reported it ({names}), so the job will fail"
    else:
        told = f"{len(without)} of {takers} workers have not reported it ({names}): the job fails if one takes it"
    return f"{what} needs the package {package}, and {told}. Install `crosskd[{extra}]` there; the worker image has it."


def _packages(kind: str, spec: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What the job needs beyond what each worker has: for what, the package, and our extra that brings it."""
    models = [spec.get("student"), spec.get("model"), (spec.get("teacher") or {}).get("model")]
    names = [model["backbone"]["name"] for model in models if model]
    for name in dict.fromkeys(names):
        if name.startswith(TIMM):
            yield name, "timm", "timm"
    # Any detector may have a backbone of the library's.
    parts = [
        model["detector"] if model["detector"] in TYPES else model["backbone"]["name"] for model in models if model
    ]
    for name in dict.fromkeys(parts):
        if name in TYPES or BACKBONES[name].family in (RT_DETR_RESNET, HGNET):
            yield name, LIBRARY, EXTRA
    if kind == "export":
        yield "an export", "onnxruntime", "export"
