"""From a job to the files that its validation images are shown from, or to what has to be done for there to be some."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from api.database import Database, Session
from api.errors import Gone, NotFound
from api.images.queries import VERSION
from api.models import Artifact, Attempt, Job
from api.services.answers.find_matches import evaluate_command
from api.services.answers.stored_copy import stored_copy
from api.services.datasets import versions
from api.services.jobs import store
from api.services.submission import roots
from api.services.submission.roots import PathRefused
from api.settings import Settings
from api.storage import Storage
from crosskd.spec.coco.survey import Use
from crosskd.spec.data.section import SixteenBit
from crosskd.spec.inputs import Input
from crosskd.spec.results.files import BEST_FILES, samples_name
from wire.jobs import FINAL

MAX_PIXELS = 64_000_000  # of a job that says nothing of it


class StoredFile(NamedTuple):
    """A published file."""

    key: str
    sha256: str
    step: int | None


class Source(NamedTuple):
    """All that the images of a job need."""

    job: str
    step: int | None  # of the samples that were asked for
    files: dict[str, StoredFile]  # "student", perhaps "teacher" and "matches"
    annotations: str
    images: str
    use: Use
    sixteen_bit: SixteenBit
    max_pixels: int
    annotations_sha256: str  # as the job found it; empty: it has not told
    stored: StoredFile | None = None  # the annotation file, where it is an imported data set's

    def tag(self, file: Input | None) -> str:
        """It stands for all that an index is made from; `file` is the annotation file, open, unless it is `stored`."""
        of_file: list[Any] = [self.stored and self.stored.sha256]
        if file is not None:
            status = os.fstat(file.descriptor)
            of_file = [os.fspath(file.path), status.st_size, status.st_mtime_ns, status.st_ino]
        parts = [
            VERSION,
            {name: stored.sha256 for name, stored in self.files.items()},
            self.step is not None,
            self.use.values(),
            of_file,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find(database: Database, job_id: str, step: int | None) -> Source:
    """What the images of a job are shown from: its best student's detections, or those of the evaluation at `step`.

    Raises `NotFound`: there is no such job, or it has no detections.
    """
    with database.reading() as session:
        job = store.find(session, job_id)
        files = _samples(session, job, step) if step is not None else _best(session, job)
        manifest: dict[str, Any] = (
            session.scalar(
                select(Attempt.result)
                .where(Attempt.job_id == job.id, Attempt.result.is_not(None))
                .order_by(Attempt.number.desc())
                .limit(1)
            )
            or {}
        )
        version = versions.version_of(session, job.spec)
        kept = versions.annotation_artifact(session, version, "val")
        source = _source(job, versions.placed(job.spec, version), manifest, files, step)
        return source._replace(stored=None if kept is None else StoredFile(kept.path, kept.sha256, None))


def _source(
    job: Job, spec: dict[str, Any], manifest: dict[str, Any], files: dict[str, StoredFile], step: int | None
) -> Source:
    data = spec["data"]
    as_is = bool(spec.get("as_is") or (spec.get("evaluation") or {}).get("as_is"))
    digests = manifest.get("annotations_sha256")
    return Source(
        job=job.id,
        step=step,
        files=files,
        annotations=data["val"]["annotations"],
        images=data["val"]["images"],
        use=Use("val", data.get("classes"), as_is=as_is),
        sixteen_bit=_sixteen_bit(spec, manifest),
        max_pixels=data.get("max_image_pixels") or MAX_PIXELS,
        annotations_sha256=str(digests.get("val", "")) if isinstance(digests, dict) else "",
    )


def _sixteen_bit(spec: dict[str, Any], manifest: dict[str, Any]) -> SixteenBit:
    """As the images were read: the manifest says what a specification may leave to the weights."""
    config = manifest.get("config")
    for section in (
        manifest.get("scale"),
        config.get("augment") if isinstance(config, dict) else None,
        spec.get("scale"),
        spec.get("augment"),
    ):
        if isinstance(section, dict) and section.get("sixteen_bit") == "own_range":
            return "own_range"
    return "high_byte"


def _best(session: Session, job: Job) -> dict[str, StoredFile]:
    names = {"student": "detections", "teacher": "teacher_detections", "matches": "matches"}
    wanted = {BEST_FILES[kept]: name for name, kept in names.items()}  # type: ignore[index]
    rows = session.scalars(select(Artifact).where(Artifact.job_id == job.id, Artifact.name.in_(wanted)))
    found = {wanted[row.name]: StoredFile(row.path, row.sha256, row.step) for row in rows}
    if "student" not in found:
        raise _no_detections(job)
    return found


def _samples(session: Session, job: Job, step: int) -> dict[str, StoredFile]:
    query = select(Artifact).where(Artifact.job_id == job.id, Artifact.kind == "samples").order_by(Artifact.step)
    rows = session.scalars(query).all()
    by_name = {row.name: StoredFile(row.path, row.sha256, row.step) for row in rows}
    student = by_name.get(samples_name("student", step))
    if student is None:
        steps = [str(row.step) for row in rows if row.name.startswith("samples-student-")]
        if not steps:
            raise _no_detections(job)
        raise NotFound(
            f"the job has no evaluation at step {step} that left detections",
            remedy=f"There are some at the steps {', '.join(steps)}.",
        )
    teachers = [stored for name, stored in by_name.items() if name.startswith("samples-teacher-")]
    return {"student": student, **({"teacher": teachers[-1]} if teachers else {})}


def sample_steps(database: Database, job_id: str) -> tuple[int, int]:
    """The steps of a job's first evaluation and of that of its best student, of which there are sample images.

    Raises `NotFound`: there are none.
    """
    with database.reading() as session:
        job = store.find(session, job_id)
        named = Artifact.name.startswith("samples-student-")
        rows = session.scalars(
            select(Artifact.step).where(Artifact.job_id == job.id, Artifact.kind == "samples", named)
        )
        steps = sorted(step for step in rows if step is not None)
        best = session.scalar(
            select(Artifact.step).where(Artifact.job_id == job.id, Artifact.name == BEST_FILES["detections"])
        )
        if not steps:
            raise _no_detections(job)
    return steps[0], best if best in steps else steps[-1]


def _no_detections(job: Job) -> NotFound:
    command = evaluate_command(job, "student")
    if job.kind == "export":
        what, remedy = "an export looks at no images", "Ask for those of the job whose weights it exported."
    elif job.kind == "import":
        what, remedy = "an import detects nothing", "Ask for those of a job that trains on what it has imported."
    elif job.status not in FINAL:
        what, remedy = f"it is {job.status}", "They appear after its first evaluation; ask again then."
    elif job.status != "succeeded":
        what = "it ended before it was evaluated"
        remedy = "GET the job to see why it ended; post it again when that is mended."
    else:
        what = "it was run by a version that kept none"
        remedy = f"Run `{command}`, and ask for the images of the job that it makes."
    return NotFound(f"the job {job.id} has no detections to show: {what}", remedy=remedy)


def open_annotations(source: Source, settings: Settings, storage: Storage) -> Input:
    """The annotation file of the split, open. Raises `Gone` where it is not to be had."""
    if source.stored is not None:
        with stored_copy(storage, source.stored.key, source.stored.sha256, "annotations of the data set") as copy:
            return Input(Path(source.annotations), os.dup(copy.fileno()))
    try:
        return roots.open_file(source.annotations, settings.data_roots)
    except PathRefused as error:
        raise Gone(
            f"the annotation file of the job's validation images cannot be opened: {error.detail}",
            remedy=f"Put it back where the job found it. {error.remedy}",
        ) from None
