"""Published files: which there are, and the bytes behind them."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, and_, select

from api.database import Database, Session
from api.errors import Conflict, Gone, NotFound
from api.models import ID, Artifact, Attempt, DeletedJob, Job
from api.services.jobs import dependencies, store
from api.storage import Storage, StoredFile, check_key
from crosskd.spec.nearest import did_you_mean
from crosskd.spec.results.files import EVALUATION_KINDS
from wire import artifacts as wire
from wire.jobs import FINAL

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
ORPHAN_SECONDS = 6 * 3600.0  # older than any transaction that may still be about to name a file
_BATCH = 500  # keys in one query
_ARTIFACT_KEY = re.compile(r"[0-9a-f]{32}/[0-9a-f]{32}-.+")  # a job's id, an id of its own, and a name


class OpenArtifact(NamedTuple):
    """An artifact and its bytes, which stay readable when a newer upload replaces it."""

    artifact: wire.Artifact
    file: BinaryIO


class ArtifactRedirect(NamedTuple):
    """An artifact, and where the storage gives its bytes to whoever has the address."""

    artifact: wire.Artifact
    url: str


def listing(session: Session, job_id: str) -> wire.ArtifactList:
    """Without what each evaluation leaves, which is found through it. Raises `NotFound` if there is no such job."""
    store.find(session, job_id)
    rows = session.execute(_of_job(job_id).where(Artifact.kind.not_in(EVALUATION_KINDS)).order_by(Artifact.name))
    return wire.ArtifactList(items=[as_wire(row.Artifact, row.number) for row in rows])


def open_artifact(database: Database, storage: Storage, job_id: str, name: str) -> OpenArtifact | ArtifactRedirect:
    """Raises `NotFound`: no such job, or no such artifact; then it names those that there are."""
    return _find_file(database, storage, job_id, name, _unknown)


def open_weights(database: Database, storage: Storage, job_id: str) -> OpenArtifact | ArtifactRedirect:
    """The best student. Raises `NotFound`, telling when there will be one or why there never will."""
    return _find_file(database, storage, job_id, wire.BEST_WEIGHTS, _no_weights)


def open_dataset_report(database: Database, storage: Storage, job_id: str) -> OpenArtifact:
    """Of an import. Raises `NotFound`, and `Gone`."""
    found = _find_file(database, storage, job_id, wire.DATASET_REPORT, _unknown, here=True)
    assert isinstance(found, OpenArtifact)
    return found


def open_curves(database: Database, storage: Storage, job_id: str, model: str, step: int) -> OpenArtifact:
    """Of one evaluation. Raises `NotFound`, naming the steps that have curves."""
    found = _find_file(database, storage, job_id, wire.curves_artifact(model, step), _no_curves, here=True)
    assert isinstance(found, OpenArtifact)
    return found


def latest_checkpoint(session: Session, job_id: str) -> wire.ArtifactRef | None:
    """The newest that the job itself has made."""
    row = session.execute(newest_checkpoints(job_id).limit(1)).first()
    return None if row is None else _ref(row.Artifact)


def resume_point(session: Session, job: Job, lost: frozenset[str] = frozenset()) -> wire.ArtifactRef | None:
    """What a next attempt resumes from: of a retry that has made no checkpoint yet, the one that it starts from.

    `lost`: keys to step over, which `lost_checkpoints` has found.
    """
    return next((_ref(found) for found in _checkpoints(session, job) if found.path not in lost), None)


def lost_checkpoints(database: Database, storage: Storage, job_id: str) -> frozenset[str]:
    """The keys of a queued job's newest checkpoints whose files the storage has not, or not whole.

    It is asked before the claim's transaction, which must not wait for a bucket. None is told where not one of them
    is to be had: rather than that all are lost, a disk is not mounted, and to train anew would replace what lies there.
    The attempt then fails, and says of what. So it goes with a storage that is away: it may be back for the download.
    """
    with database.reading() as session:
        job = session.get(Job, job_id) if ID.fullmatch(job_id) else None
        known = list(_checkpoints(session, job)) if job is not None and job.status == "queued" else []
    lost: set[str] = set()
    for checkpoint in known:
        if _is_intact(storage, checkpoint):
            return frozenset(lost)
        log.error("job %s: the stored file of %s is gone or damaged: %s", job_id, checkpoint.name, checkpoint.path)
        lost.add(checkpoint.path)
    return frozenset()


def _checkpoints(session: Session, job: Job) -> Iterator[Artifact]:
    """Those that an attempt may resume from, the best first."""
    for job_id in (job.id, job.start["job"]) if job.start else (job.id,):
        yield from (row.Artifact for row in session.execute(newest_checkpoints(job_id)))


def _is_intact(storage: Storage, artifact: Artifact) -> bool:
    """As far as can be said at little cost: to read a checkpoint takes minutes."""
    try:
        return storage.size(artifact.path) == artifact.size
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("whether %s is there cannot be said: %s", artifact.path, error)
        return True


def weights_ref(session: Session, weights: dict[str, Any] | None) -> wire.ArtifactRef | None:
    """The file behind weights that a stored spec names, if a former job made it."""
    if weights is None or "job" not in weights:
        return None
    return named_ref(session, weights["job"], dependencies.file_name(weights))


def named_ref(session: Session, job_id: str, name: str) -> wire.ArtifactRef | None:
    """The file of a job that is called `name`, if there is one."""
    artifact = session.scalar(select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name))
    return None if artifact is None else _ref(artifact)


def newest_checkpoints(job_id: str) -> Select[Artifact, int]:
    """The newest attempt's first: what it made replaces what an earlier one made past the step it resumed from."""
    query = _of_job(job_id).where(Artifact.kind == "checkpoint")
    return query.order_by(Attempt.number.desc(), Artifact.step.desc(), Artifact.id.desc())


def sweep(database: Database, storage: Storage, older_than: float = ORPHAN_SECONDS) -> int:
    """Remove what crashes left behind: staged files, and published ones that no row names. How many there were.

    Only of jobs that this database knows: beside an empty or a wrong one, every file would be one too many. A true
    orphan's job is known, for of deleted ones the id is kept for ever. What stays is told by the audit.
    """
    removed = storage.sweep_staging(older_than)
    old = (stored.key for stored in storage.files() if is_artifact_key(stored.key) and age(stored) > older_than)
    strange = 0
    for keys in _batches(old):
        with database.reading() as session:
            named = set(session.scalars(select(Artifact.path).where(of_keys(keys))))
            jobs_known = _known({_job_of(key) for key in keys}, session)
        for key in keys:
            if _job_of(key) not in jobs_known:
                strange += 1
            elif key not in named:
                storage.delete(key)
                removed += 1
    if strange:
        log.warning("%d files are left alone: this database has never known their jobs (see `crosskd audit`)", strange)
    return removed


def _known(job_ids: set[str], session: Session) -> set[str]:
    """Those of jobs that there are or were. Looked for in this order: a deletion in between hides none."""
    there = session.scalars(select(Job.id).where(Job.id.in_(job_ids)))
    return {*there, *session.scalars(select(DeletedJob.id).where(DeletedJob.id.in_(job_ids)))}


def _job_of(key: str) -> str:
    return key.partition("/")[0]


def is_artifact_key(key: str) -> bool:
    """Whether a file is called as one of ours is; any other is a stranger's, and left alone: buckets are shared."""
    try:
        return _ARTIFACT_KEY.fullmatch(check_key(key)) is not None
    except ValueError:
        return False


def age(stored: StoredFile) -> float:
    """Seconds since a file was published, or written if its key does not say when it was made.

    Bytes may have been staged for long before they are published: by their own age alone a file could be taken for an
    orphan while the transaction that names it is about to commit.
    """
    made = re.match(r"[^/]*/([0-9a-f]{12})[0-9a-f]{20}-", stored.key)  # the milliseconds of `new_id`
    return min(stored.age, time.time() - int(made[1], 16) / 1000) if made else stored.age


def of_keys(keys: Sequence[str]) -> ColumnElement[bool]:
    """The rows that name one of the keys; a key begins with its job, which finds them by an index."""
    return and_(Artifact.job_id.in_({_job_of(key) for key in keys}), Artifact.path.in_(keys))


def as_wire(artifact: Artifact, attempt: int) -> wire.Artifact:
    return wire.Artifact(
        name=artifact.name,
        kind=artifact.kind,
        size=artifact.size,
        sha256=artifact.sha256,
        step=artifact.step,
        attempt=attempt,
        created_at=artifact.created_at,
        url=_url(artifact),
    )


def _of_job(job_id: str) -> Select[Artifact, int]:
    return (
        select(Artifact, Attempt.number)
        .join(Attempt, Attempt.id == Artifact.attempt_id)
        .where(Artifact.job_id == job_id)
    )


def _ref(artifact: Artifact) -> wire.ArtifactRef:
    return wire.ArtifactRef(
        name=artifact.name, url=_url(artifact), sha256=artifact.sha256, size=artifact.size, step=artifact.step
    )


def _url(artifact: Artifact) -> str:
    return f"/jobs/{artifact.job_id}/artifacts/{artifact.name}"


def _find_file(
    database: Database, storage: Storage, job_id: str, name: str, missing: Any, *, here: bool = False
) -> OpenArtifact | ArtifactRedirect:
    """`here`: the bytes themselves, wherever they lie. A page in a browser could not read them from a bucket."""
    for _ in range(3):
        with database.reading() as session:
            job = store.find(session, job_id)
            row = _find(session, job_id, name)
            if row is None:
                raise missing(session, job, name)
        try:
            found = _open_whole if here else _redirect_or_open
            if (whole := found(storage, as_wire(row.Artifact, row.number), row.Artifact.path)) is not None:
                return whole
        except FileNotFoundError:
            continue  # replaced between the look into the database and this one: look again
    log.error("job %s: the stored file of %s is gone or damaged", job_id, name)
    raise Gone(
        f"the stored file of {name} is gone or damaged",
        remedy="The storage does not match the database; restore it from a backup.",
    )


def _redirect_or_open(storage: Storage, artifact: wire.Artifact, key: str) -> OpenArtifact | ArtifactRedirect | None:
    """None for a file of another size than its row says. Raises `FileNotFoundError`."""
    link = storage.presigned_url(key)
    if link is None:
        return _open_whole(storage, artifact, key)
    return ArtifactRedirect(artifact, link.url) if link.size == artifact.size else None


def _open_whole(storage: Storage, artifact: wire.Artifact, key: str) -> OpenArtifact | None:
    file = storage.open(key)
    if file.seek(0, os.SEEK_END) == artifact.size:
        file.seek(0)
        return OpenArtifact(artifact, file)
    file.close()
    return None


def _find(session: Session, job_id: str, name: str) -> Row[Artifact, int] | None:
    if not NAME.fullmatch(name):
        return None
    return session.execute(_of_job(job_id).where(Artifact.name == name)).one_or_none()


def _unknown(session: Session, job: Job, name: str) -> NotFound:
    listed = select(Artifact.name).where(Artifact.job_id == job.id, Artifact.kind.not_in(EVALUATION_KINDS))
    names = session.scalars(listed.order_by(Artifact.name)).all()
    near = did_you_mean(name, names[:1000])
    remedy = f"{near} It has: {', '.join(names)}.".lstrip() if names else f"It has none yet: the job is {job.status}."
    return NotFound(f"the job has no artifact {name[:200]!r}", remedy=remedy)


def _no_curves(session: Session, job: Job, name: str) -> NotFound:
    model, _, rest = name.removeprefix("curves-").partition("-")
    kept = select(Artifact.step).where(Artifact.job_id == job.id, Artifact.kind == "curves")
    steps = session.scalars(kept.where(Artifact.name.startswith(f"curves-{model}-")).order_by(Artifact.step)).all()
    known = f"There are some for the steps {', '.join(map(str, steps))}." if steps else f"The job is {job.status}."
    return NotFound(f"there are no curves of the {model} at step {int(rest.removesuffix('.json'))}", remedy=known)


def _no_weights(_session: Session, job: Job, _name: str) -> NotFound:
    if job.kind in ("evaluate", "export", "import"):
        detail = f"the job has no weights of its own: it is of kind {job.kind}"
        whose = "" if job.kind == "import" else "They are those that its spec names; "
        remedy = f"{whose}GET /jobs/{job.id}/artifacts lists what it has made."
        return NotFound(detail, remedy=remedy)
    if job.status not in FINAL:
        detail = f"there are no weights yet: the job is {job.status}"
        return NotFound(detail, remedy="They appear after its first evaluation; ask again then.")
    detail = f"the job has no weights and never will: it {_ENDED[job.status]} before its first evaluation"
    return NotFound(detail, remedy="GET the job to see why it ended; post it again when that is mended.")


_ENDED = {"succeeded": "ended", "failed": "failed", "cancelled": "was cancelled"}


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def lock_weights(session: Session, spec: dict[str, Any]) -> None:
    """Keep the jobs whose weights the stored `spec` names from being deleted until the transaction ends.

    From then on `control.remove` finds the job that needs them. On SQLite the transaction itself keeps all others out.
    A job that is still on its way has none yet: whoever needs them waits.

    Raises:
        Conflict: they are gone, or there will be none.
    """
    for weights in dependencies.named(spec).values():
        named = weights["job"]
        locked = select(Job.status).where(Job.id == named).with_for_update(read=True, key_share=True)
        status = session.scalar(locked)
        if status in dependencies.FAILED:
            raise Conflict(
                f"the job {named}, whose weights this one needs, {_ENDED[status]}",
                remedy=f"Retry that one first (POST /jobs/{named}/retry), or post a job with other weights.",
            )
        if status is None or (status == "succeeded" and weights_ref(session, weights) is None):
            raise Conflict(
                f"the weights of the job {named}, which this one needs, are gone",
                remedy="Post a job with other weights.",
            )
