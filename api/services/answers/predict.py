"""Predictions: which graph a job has, and what a process finds with it in the images of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select

from api.database import Database, Session
from api.errors import ApiError, BadRequest, Conflict, Gone, InvalidSpec, NotFound, PayloadTooLarge, TookTooLong
from api.errors import UnsupportedMediaType as WrongType
from api.models import Artifact, Attempt, Job
from api.predict.models import DamagedModel, ModelCache
from api.predict.pool import Order, Pool
from api.processes.pool import Refused
from api.services.jobs import store
from api.services.jobs.manifest import missing_onnx
from api.storage import Storage
from crosskd.spec.evaluate_export import unexportable
from crosskd.spec.results.predictions import (
    Category,
    CocoResult,
    ImageFault,
    PredictedImage,
    PredictionModel,
    Predictions,
)
from crosskd.spec.student import StudentConfig
from wire.artifacts import ONNX
from wire.jobs import FINAL


class Graph(NamedTuple):
    """A job's graph, as its row says."""

    job: str
    key: str
    sha256: str


class Upload(NamedTuple):
    """One image of a request."""

    name: str
    content: bytes


class Question(NamedTuple):
    """What is asked about the images of a request."""

    score: float
    most: int
    picture: bool


class Answered(NamedTuple):
    """The predictions, and the picture of the last image where one was asked for."""

    predictions: Predictions
    picture: bytes


def find_graph(database: Database, job_id: str) -> Graph:
    """Raises `NotFound` or `Conflict`, saying how the job gets one."""
    with database.reading() as session:
        job = store.find(session, job_id)
        artifact = session.scalar(select(Artifact).where(Artifact.job_id == job.id, Artifact.name == ONNX))
        if artifact is None:
            raise _no_graph(session, job)
        return Graph(job.id, artifact.path, artifact.sha256)


def fetch_graph(cache: ModelCache, storage: Storage, graph: Graph) -> Path:
    """Where the graph lies on this machine. Blocks. Raises `Gone` where the storage has lost it."""
    try:
        return cache.path(graph.sha256, lambda: storage.open(graph.key))
    except (FileNotFoundError, DamagedModel):
        raise Gone(
            f"the stored file of {ONNX} is gone or damaged",
            remedy="The storage does not match the database; restore it from a backup, or export the weights anew.",
        ) from None


async def predict(
    pool: Pool,
    graph: Graph,
    path: Path,
    images: Sequence[Upload],
    question: Question,
    gone: Callable[[], Awaitable[bool]],
) -> Answered:
    """Ask about each image in turn. Of several, one that cannot be used has its fault in the answer.

    Raises:
        ApiError: the only image cannot be used, or the graph.
        BadRequest: nobody waits for the answer any more, as `gone` tells: the place is another's.
    """
    told: list[PredictedImage] = []
    results: list[CocoResult] = []
    categories: list[Category] = []
    model = PredictionModel(name=ONNX, sha256=graph.sha256)
    picture = b""
    for number, upload in enumerate(images):
        if await gone():
            raise broke_off()
        order = Order(path, graph.sha256, number, upload.name, question.score, question.most, question.picture)
        try:
            answer, picture = await pool.predict(order, upload.content)
        except Refused as refused:
            if len(images) == 1 or refused.kind == "model":
                raise _problem(refused) from None
            fault = ImageFault(kind=refused.kind, detail=refused.detail, remedy=refused.remedy)
            told.append(PredictedImage(id=number, file_name=upload.name, fault=fault))
            continue
        told.append(PredictedImage.model_validate(answer["image"]))
        results += map(CocoResult.model_validate, answer["results"])
        categories = [Category.model_validate(category) for category in answer["categories"]]
        model = model.model_copy(update={"weights_sha256": str(answer["weights_sha256"])})
    return Answered(Predictions(model=model, categories=categories, images=told, results=results), picture)


def broke_off() -> BadRequest:
    """Its client has left: hardly anybody hears of it."""
    return BadRequest("the request broke off", remedy="Send it again.")


def _problem(refused: Refused) -> ApiError:
    kinds: dict[str, type[ApiError]] = {
        "format": WrongType,
        "pixels": PayloadTooLarge,
        "memory": PayloadTooLarge,
        "time": TookTooLong,
    }
    kind = kinds.get(refused.kind, InvalidSpec)
    if refused.kind == "model":
        return Conflict(refused.detail, remedy="Export the weights anew, and predict with that job.")
    return kind(refused.detail, remedy=refused.remedy)


def _no_graph(session: Session, job: Job) -> ApiError:
    export = f"crosskd submit export --weights-job {job.id} --data FOLDER"
    if job.kind == "import":
        detail = f"the job has no {ONNX}: it is of kind import"
        return NotFound(detail, remedy="Predict with a job that trains on what it has imported, or with an export.")
    if job.kind == "evaluate":
        detail = f"the job has no {ONNX}: it is of kind evaluate"
        return NotFound(detail, remedy="Predict with the job that has made the weights, or with an export of them.")
    if job.kind != "export" and (never := unexportable(StudentConfig.model_validate(job.spec["student"]).model)):
        remedy = "Detect on your own machine: `crosskd.load` reads the job's weights, once it has some."
        return NotFound(f"the job has no {ONNX} and never will: {never}", remedy=remedy)
    if job.status not in FINAL:
        detail = f"the job has no {ONNX} yet: it is {job.status}"
        remedy = "It is written at the end; ask again then."
        if job.kind != "export":
            remedy += f" The best weights so far: `{export}`, then predict with that job."
        return Conflict(detail, remedy=remedy)
    if job.kind == "export" or not _has_weights(session, job):
        detail = f"the job has no {ONNX} and never will: it is {job.status}"
        return NotFound(detail, remedy="GET the job to see why; post it again when that is mended.")
    why = missing_onnx(_result(session, job)) or "its spec had none written, or it is from before there was one"
    return NotFound(f"the job has no {ONNX}: {why}", remedy=f"Write it: `{export}`, then predict with that job.")


def _has_weights(session: Session, job: Job) -> bool:
    return session.scalar(select(Artifact.id).where(Artifact.job_id == job.id, Artifact.kind == "weights")) is not None


def _result(session: Session, job: Job) -> dict[str, object] | None:
    query = select(Attempt.result).where(Attempt.job_id == job.id).order_by(Attempt.number.desc()).limit(1)
    return session.scalar(query)
