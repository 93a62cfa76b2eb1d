"""A page of a job's validation images, out of an index that is made once for the files behind it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from api.database import Database
from api.disk_cache import DiskCache
from api.errors import InvalidSpec, NotFound, invalid_query
from api.images.queries import ALL, KINDS, ImageFile, Index, NoSuchImage, Row, opened
from api.processes import bounded
from api.processes.bounded import Failed, TooMuchMemory, TooSlow
from api.services.answers.image_sources import Source, find, open_annotations
from api.services.answers.stored_copy import stored_copy
from api.settings import Settings
from api.storage import Storage
from crosskd.spec.nearest import did_you_mean
from wire.errors import Fault
from wire.images import IOU, ImageModel, ImagePage, JobImage, ModelBox, Order, ShownModel, TruthBox

COMMAND = [sys.executable, "-m", "api.images.index"]
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_FILES = {
    "student": "the job's detections",
    "teacher": "the teacher's detections",
    "matches": "the job's matches",
    "annotations": "the annotation file",
}


class Wanted(NamedTuple):
    """Which page of the images."""

    order: Order
    class_name: str | None
    after: int | None
    limit: int


class Located(NamedTuple):
    """A job's images: what they are shown from, and the index of it."""

    source: Source
    path: Path


class Sought(NamedTuple):
    """What an index is to be looked for by."""

    source: Source
    tag: str


def seek(database: Database, storage: Storage, settings: Settings, job_id: str, step: int | None = None) -> Sought:
    """Raises `NotFound` for a job without detections, and `Gone` where its annotation file is not to be had."""
    source = find(database, job_id, step)
    if source.stored is not None:
        return Sought(source, source.tag(None))
    with open_annotations(source, settings, storage) as file:
        return Sought(source, source.tag(file))


def make(indexes: DiskCache, storage: Storage, settings: Settings, sought: Sought) -> Path:
    """The index, made if it is not there. It takes seconds: call it on a thread made for that.

    Raises:
        Gone: the storage has lost a file, or the annotation file is not to be had.
        InvalidSpec: a file cannot be read, or not within the time and memory that there are.
    """
    return indexes.path(sought.tag, lambda path: _make(path, storage, settings, sought.source))


def _make(path: Path, storage: Storage, settings: Settings, source: Source) -> None:
    with ExitStack() as stack:
        annotations = stack.enter_context(stack.enter_context(open_annotations(source, settings, storage)).reader())
        files: dict[str, BinaryIO] = {
            name: stack.enter_context(stored_copy(storage, stored.key, stored.sha256, f"detections of {source.job}"))
            for name, stored in source.files.items()
        }
        request = {
            "annotations": annotations.fileno(),
            **{name: files[name].fileno() if name in files else None for name in ("student", "teacher", "matches")},
            "samples": source.step is not None,
            "use": source.use.values(),
            "index": str(path),
        }
        seconds = settings.images_seconds
        answer = _run(request, [annotations, *files.values()], seconds)
    if answer["fault"]:
        detail = f"{_FILES[answer['file']]} cannot be used: {answer['fault']}"
        raise _unusable(source, detail, "Evaluate its weights anew, and ask for the images of that job.")


def _run(request: dict[str, Any], files: Sequence[BinaryIO], seconds: float) -> dict[str, str]:
    try:
        answer: dict[str, str] = bounded.ask([*COMMAND, str(seconds)], request, files, seconds, _ENVIRONMENT)
    except TooSlow:
        fault = f"it takes more than {seconds:g} s to match the boxes"
        remedy = "Set CROSSKD_IMAGES_SECONDS of the API higher."
    except TooMuchMemory:
        fault, remedy = "to match the boxes takes more memory than it may", "Evaluate on fewer images."
    except Failed as error:
        fault, remedy = f"the boxes cannot be matched: {error}", "Look at the log of the API, and at its disk."
    else:
        return answer
    raise InvalidSpec("the images cannot be shown", errors=[Fault(pointer="job", detail=fault, remedy=remedy)])


def _unusable(source: Source, detail: str, remedy: str) -> InvalidSpec:
    fault = Fault(pointer="job", detail=f"{source.job}: {detail}", remedy=remedy)
    return InvalidSpec("the images cannot be shown", errors=[fault])


def page(located: Located, against: Located | None, wanted: Wanted) -> ImagePage:
    """A page of the images of one job, perhaps held against another's.

    Raises `InvalidSpec`: another class, order or place than there is, or two jobs on other images.
    """
    if wanted.order == "gain" and against is None:
        raise invalid_query("against", "there is nothing to gain over", "Name the other job: ?order=gain&against=JOB.")
    with opened(located.path, against.path if against else None) as index:
        if index.other is not None and index.other["truth_sha256"] != index.facts["truth_sha256"]:
            raise invalid_query(
                "against",
                "that job was measured on other images, boxes or classes",
                "Name a job with the same `data.val` and classes.",
            )
        classes = index.facts["classes"]
        label = _label(classes, wanted.class_name)
        try:
            rows = index.rows(label, wanted.order, wanted.after, wanted.limit + 1)
        except NoSuchImage:
            raise invalid_query(
                "after", "is no image of this list", "Give the id of the last image of the page before."
            ) from None
        return ImagePage(
            items=[_image(located.source, row, classes, label) for row in rows[: wanted.limit]],
            has_more=len(rows) > wanted.limit,
            **_over_all(index, label, located, against),
        )


def _over_all(index: Index, label: int, located: Located, against: Located | None) -> dict[str, Any]:
    facts, sums, source = index.facts, index.sums(label), located.source
    shown: dict[str, ShownModel | None] = {"teacher": None, "against": None}
    for model, counts in sums.models.items():
        owner, name, scores = source, model, facts["scores"]
        if model == "against" and against is not None and index.other is not None:
            owner, name, scores = against.source, "student", index.other["scores"]
        if name in scores:
            stored = owner.files[name]
            numbers = _numbers(*counts)
            shown[model] = ShownModel(job=owner.job, step=stored.step, score=scores[name], **numbers)
    return {
        "images": sums.images,
        "iou": IOU,
        "classes": facts["classes"],
        "samples": source.step is not None,
        "remarks": _remarks(index, source),
        **shown,
    }


def _remarks(index: Index, source: Source) -> list[str]:
    facts, told = index.facts, []
    if source.annotations_sha256 and facts["annotations_sha256"] != source.annotations_sha256:
        told.append("the annotation file has been changed since the job measured: its numbers are of the former one")
    if facts["unknown"]:
        told.append(f"{facts['unknown']} detections are of images or categories that the annotation file has not")
    if facts["boxes_left_out"]:
        told.append(f"{facts['boxes_left_out']} boxes have no size or lie outside their image and are left out")
    return told


def _label(classes: Sequence[str], name: str | None) -> int:
    if name is None:
        return ALL
    if name not in classes:
        listed = ", ".join(classes[:20])
        remedy = f"{did_you_mean(name, classes)} The classes are: {listed}{', ...' if classes[20:] else '.'}".lstrip()
        raise invalid_query("class", f"{name[:100]!r} is no class of the job", remedy)
    return classes.index(name)


def _image(source: Source, row: Row, classes: Sequence[str], label: int) -> JobImage:
    kept = [place for place, box in enumerate(row.boxes["truth"]) if label in (ALL, box[0])]
    places = {place: new for new, place in enumerate(kept)}
    truth = [row.boxes["truth"][place] for place in kept]

    def model(boxes: list[list[Any]] | None) -> ImageModel | None:
        return None if boxes is None else _model([box for box in boxes if label in (ALL, box[0])], classes, places)

    student = model(row.boxes["student"])
    assert student is not None
    path = f"/jobs/{source.job}/images/{row.id}"
    return JobImage(
        id=row.id,
        file_name=row.file.name,
        width=row.file.width,
        height=row.file.height,
        url=path,
        thumbnail=f"{path}/thumbnail",
        f1_loss=row.loss,
        gain=row.gain,
        truth=[
            TruthBox(class_name=classes[of], box=box, ignored=ignored, crowd=crowd) for of, box, ignored, crowd in truth
        ],
        student=student,
        teacher=model(row.boxes.get("teacher")),
        against=model(row.against),
    )


def _model(boxes: list[list[Any]], classes: Sequence[str], places: dict[int, int]) -> ImageModel:
    kinds = [KINDS[kind] for *_, kind, _ in boxes]
    shown = [
        ModelBox(
            class_name=classes[label],
            box=box,
            score=score,
            kind=KINDS[kind],
            truth=None if truth is None else places[truth],
        )
        for label, box, score, kind, truth in boxes
    ]
    return ImageModel(boxes=shown, **_numbers(kinds.count("true"), kinds.count("false"), kinds.count("missed")))


def _numbers(true: int, false: int, missed: int) -> dict[str, Any]:
    """As `f1` of the index has it."""
    whole = true + false + missed
    return {
        "true": true,
        "false": false,
        "missed": missed,
        "f1": 2 * true / (2 * true + false + missed) if whole else 1.0,
    }


def image_file(located: Located, image: int) -> ImageFile:
    """What the annotation file says of an image of the split. Raises `NotFound` for any other."""
    try:
        with opened(located.path) as index:
            return index.image(image)
    except NoSuchImage:
        raise NotFound(
            f"the split has no image with the id {image}",
            remedy=f"GET /jobs/{located.source.job}/images lists those that it has.",
        ) from None
