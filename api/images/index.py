"""What was found in each validation image, as an index on disk: `python -m api.images.index SECONDS`.

It reads a `Request` (JSON) from its standard input and writes an `Answer` to its standard output. The annotation file
and those of detections are open descriptors; the index is an SQLite file, of which a page costs the API milliseconds,
whatever the number of images. Its time and memory are bounded, so that no file can stop the API.

Tables: `images` (every image of the split; `boxes` is null where it was not evaluated), `counts` (of a class, or of
all: label -1) and `facts`, a single row of JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypedDict

import numpy as np

from api.images.queries import ALL, KINDS
from api.images.reading import BrokenDetections, DetectionsFile, read_detections, read_samples
from crosskd.spec.coco.instances import CROWD, Instances, read_instances
from crosskd.spec.coco.survey import Use, survey
from crosskd.spec.results.detections import sample_ids
from report.image_matches import Matched, Truth, match
from report.matches import BrokenMatches, read_matches

MAX_MEMORY = 2 * 2**30  # bytes of address space
MAX_INDEX = 2 * 2**30  # bytes on disk
COCO_LIMIT = 100  # detections of an image and a class, where the ground truth is taken as it stands
UNLIMITED = 2**40
TRUE, FALSE, MISSED, IGNORED = range(len(KINDS))
_DECIMALS = 2  # of a pixel
_TABLES = """
CREATE TABLE facts (value TEXT NOT NULL);
CREATE TABLE images (id INTEGER PRIMARY KEY, name TEXT, width INTEGER, height INTEGER, boxes TEXT);
CREATE TABLE counts (
    label INTEGER, image INTEGER, tp INTEGER, fp INTEGER, fn INTEGER, f1 REAL,
    teacher_tp INTEGER, teacher_fp INTEGER, teacher_fn INTEGER, teacher_f1 REAL, loss REAL,
    PRIMARY KEY (label, image)
) WITHOUT ROWID;
CREATE INDEX by_loss ON counts (label, loss DESC, image);
"""


class Request(TypedDict):
    """Descriptors of files, null where there is none; `use` is a `Use`, `index` the path of a file to be made.

    `samples`: student and teacher are files of samples. `matches` say which images were evaluated.
    """

    annotations: int
    student: int
    teacher: int | None
    matches: int | None
    samples: bool
    use: dict[str, Any]
    index: str


class Answer(TypedDict):
    """`fault`: what is wrong, and with which of the files; empty if there is an index now."""

    file: str
    fault: str


class Facts(TypedDict):
    """What is true of all images."""

    classes: list[str]
    scores: dict[str, float | None]  # by model: where its F1 is highest
    annotations_sha256: str
    truth_sha256: str  # of images, classes and boxes: what two jobs have to have alike
    unknown: int  # detections of images or categories that the annotation file has not
    boxes_left_out: int


class Refused(Exception):
    """A file that cannot be used: which, and why."""

    def __init__(self, file: str, fault: str) -> None:
        super().__init__(fault)
        self.file, self.fault = file, fault


class Expected(NamedTuple):
    """The ground truth: I images of the file, by their places, and the boxes of the classes."""

    found: Instances
    classes: list[str]
    labels: dict[int, int]  # by category id
    images: list[int]  # places of those that are read
    truth: Truth
    left_out: int


def build(request: Request, open_file: Any) -> None:
    """Make the index. `open_file` gives the file of a descriptor. Raises `Refused`."""
    with open_file(request["annotations"]) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        expected = _expected(file, Use(**request["use"]))
    models = {"student": request["student"], "teacher": request["teacher"]}
    told = {
        model: _detections(open_file, descriptor, expected, model, samples=request["samples"])
        for model, descriptor in models.items()
        if descriptor is not None
    }
    most = COCO_LIMIT if request["use"]["as_is"] else UNLIMITED
    evaluated = _evaluated(request, open_file, expected, told["student"])
    truth = _of_images(expected.truth, evaluated)
    matched = {model: match(truth, file.found, most) for model, file in told.items()}
    scores = {model: told[model].score if request["samples"] else matched[model].score for model in told}
    facts = Facts(
        classes=expected.classes,
        scores=scores,
        annotations_sha256=digest,
        truth_sha256=_truth_digest(expected),
        unknown=sum(file.unknown for file in told.values()),
        boxes_left_out=expected.left_out,
    )
    _write(request["index"], facts, expected, evaluated, truth, matched)


def _expected(file: BinaryIO, use: Use) -> Expected:
    found = read_instances(file)
    if found.faults.count:
        first = found.faults.first[0]
        raise Refused("annotations", f"{first['where']} {first['detail']}".strip())
    taken = survey(found, use)
    if taken.problem:
        raise Refused("annotations", taken.problem)
    by_name = {name: label for label, name in enumerate(taken.classes)}
    labels = {key: by_name[each.name] for key, each in found.categories.items() if each.name in by_name}
    if use.as_is:
        truth, left_out = _as_it_stands(found, labels), 0
    else:
        whole = np.array(taken.whole, np.int64).reshape(-1, 5)
        flat = np.array(taken.flat, np.float64).reshape(-1, 5)[:, :4]
        flat[:, 2:] -= flat[:, :2]
        crowd = whole[:, 2].astype(bool)
        truth, left_out = (
            _sorted(whole[:, 0], whole[:, 1], flat, crowd | whole[:, 3].astype(bool), crowd),
            taken.left_out,
        )
    return Expected(found, taken.classes, labels, list(taken.images), truth, left_out)


def _as_it_stands(found: Instances, labels: Mapping[int, int]) -> Truth:
    """Plain pycocotools' view: boxes neither clipped nor left out, and no `ignore`."""
    own = np.array([labels.get(category, -1) for category in found.labels], np.int64)
    kept = own >= 0
    places = np.array([found.positions[image] for image in found.images], np.int64)
    crowd = (np.array(found.flags, np.int8) & CROWD).astype(bool)
    boxes = np.array(found.boxes, np.float64).reshape(-1, 4)
    return _sorted(places[kept], own[kept], boxes[kept], crowd[kept], crowd[kept])


def _sorted(images: Any, labels: Any, boxes: Any, ignored: Any, crowd: Any) -> Truth:
    order = np.argsort(images, kind="stable")
    return Truth(images[order], labels[order], boxes[order], ignored[order], crowd[order])


def _detections(open_file: Any, descriptor: int, expected: Expected, model: str, *, samples: bool) -> DetectionsFile:
    read = read_samples if samples else read_detections
    with open_file(descriptor) as file:
        try:
            return read(file, expected.found.positions, expected.labels)
        except BrokenDetections as error:
            raise Refused(model, str(error)) from None


def _evaluated(request: Request, open_file: Any, expected: Expected, student: DetectionsFile) -> list[int]:
    """The places of the images that have detections, or were looked at in vain."""
    positions = expected.found.positions
    if request["samples"]:
        samples = set(sample_ids(list(positions)[place] for place in expected.images))
        kept = [positions[image] for image in student.images if image in samples and image in positions]
        return sorted(set(kept))
    if (descriptor := request["matches"]) is None:
        return expected.images
    with open_file(descriptor) as file:
        try:
            ids = read_matches(file.read()).image_ids.tolist()
        except BrokenMatches as error:
            raise Refused("matches", str(error)) from None
    return sorted({positions[image] for image in ids if image in positions})


def _of_images(truth: Truth, places: Sequence[int]) -> Truth:
    """The boxes of images that were evaluated: nothing else was missed."""
    kept = np.isin(truth.images, np.array(places, np.int64))
    return Truth(truth.images[kept], truth.labels[kept], truth.boxes[kept], truth.ignored[kept], truth.crowd[kept])


def _truth_digest(expected: Expected) -> str:
    found, truth = expected.found, expected.truth
    digest = hashlib.sha256(json.dumps([expected.classes, list(found.positions)]).encode())
    for part in (truth.images, truth.labels, truth.boxes, truth.ignored, truth.crowd):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


# --- one image --------------------------------------------------------------------------------------------------------

Box = list[Any]  # label, [x, y, width, height], score or null, kind, place among the boxes of the image or null
Counts = dict[int, list[int]]  # by label, and ALL: how many of each kind


class _Shown:
    """The detections of a model from its score on, image by image."""

    def __init__(self, matched: Matched, score: float | None) -> None:
        shown = np.flatnonzero(matched.found.scores >= (math.inf if score is None else score))
        found = matched.found.at(shown)
        self._starts = found.images
        self._labels, self._scores = found.labels.tolist(), found.scores.tolist()
        self._boxes = found.boxes.round(_DECIMALS).tolist()
        self._met = matched.truth[shown].tolist()
        self._kinds = np.where(matched.right[shown], TRUE, np.where(matched.counted[shown], FALSE, IGNORED)).tolist()

    def of(self, place: int, first: int, truth: Sequence[Box], ignored: Sequence[bool]) -> tuple[list[Box], Counts]:
        """The boxes of an image with what was missed of its `truth`, which begins at row `first`."""
        low, high = np.searchsorted(self._starts, [place, place + 1]).tolist()
        boxes: list[Box] = []
        counts: Counts = defaultdict(lambda: [0, 0, 0, 0])
        met: set[int] = set()
        for row in range(low, high):
            other = self._met[row] - first if self._met[row] >= 0 else None
            boxes.append([self._labels[row], self._boxes[row], self._scores[row], self._kinds[row], other])
            if other is not None:
                met.add(other)
        for other, (label, box, *_) in enumerate(truth):
            if other not in met and not ignored[other]:
                boxes.append([label, box, None, MISSED, other])
        for label, _box, _score, kind, _other in boxes:
            counts[label][kind] += 1
            counts[ALL][kind] += 1
        return boxes, counts


def f1(true: int, false: int, missed: int) -> float:
    """2 TP / (2 TP + FP + FN), 0..1; 1 where there was nothing to find and nothing was found."""
    return 2 * true / (2 * true + false + missed) if true + false + missed else 1.0


def _rows(
    facts: Facts, expected: Expected, places: Sequence[int], truth: Truth, matched: Mapping[str, Matched]
) -> Iterator[tuple[int, str, list[tuple[Any, ...]]]]:
    """Of each evaluated image: its place, its boxes as JSON, and its rows of `counts`."""
    shown = {model: _Shown(one, facts["scores"][model]) for model, one in matched.items()}
    ids = list(expected.found.positions)
    labels, boxes = truth.labels.tolist(), truth.boxes.round(_DECIMALS).tolist()
    ignored, crowd = truth.ignored.tolist(), truth.crowd.tolist()
    for place in places:
        low, high = np.searchsorted(truth.images, [place, place + 1]).tolist()
        own: list[Box] = [[labels[row], boxes[row], ignored[row], crowd[row]] for row in range(low, high)]
        told: dict[str, list[Box]] = {"truth": own}
        counts: dict[str, Counts] = {}
        for model, one in shown.items():
            told[model], counts[model] = one.of(place, low, own, ignored[low:high])
        present = {ALL, *(box[0] for box in own), *(label for one in counts.values() for label in one)}
        rows = [(label, ids[place], *_counted(label, counts)) for label in sorted(present)]
        yield place, json.dumps(told, separators=(",", ":")), rows


def _counted(label: int, counts: Mapping[str, Counts]) -> tuple[Any, ...]:
    values: list[Any] = []
    for model in ("student", "teacher"):
        if model in counts:
            three = counts[model].get(label, [0, 0, 0, 0])[:3]
            values += [*three, f1(*three)]
        else:
            values += [None] * 4
    teacher = values[7] if values[7] is not None else 1.0
    return (*values, teacher - values[3])


def _write(
    path: str,
    facts: Facts,
    expected: Expected,
    places: Sequence[int],
    truth: Truth,
    matched: Mapping[str, Matched],
) -> None:
    found, boxes, rows = expected.found, {}, []
    for place, text, counted in _rows(facts, expected, places, truth, matched):
        boxes[place] = text
        rows += counted
    images = (
        (image, found.names[place], found.sizes[2 * place + 1], found.sizes[2 * place], boxes.get(place))
        for image, place in found.positions.items()
    )
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # a file that is not whole is thrown away
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_TABLES)
        connection.execute("BEGIN")
        connection.execute("INSERT INTO facts VALUES (?)", (json.dumps(facts),))
        connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?)", images)
        connection.executemany(f"INSERT INTO counts VALUES ({', '.join('?' * 11)})", rows)  # noqa: S608
        connection.execute("COMMIT")
    finally:
        connection.close()


def answer(request: Request, open_file: Any) -> Answer:
    """Make the index, or say why there is none."""
    try:
        build(request, open_file)
    except Refused as error:
        return Answer(file=error.file, fault=error.fault)
    return Answer(file="", fault="")


def _open(descriptor: int) -> BinaryIO:
    file = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - the caller closes it
    file.seek(0)
    return file


def main(seconds: str) -> None:
    # Belt and braces: the API kills what is too slow; these hold when the API itself is gone.
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_INDEX, MAX_INDEX))
    cpu = math.ceil(float(seconds)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    os.nice(5)
    request: Request = json.load(sys.stdin)
    json.dump(answer(request, _open), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
