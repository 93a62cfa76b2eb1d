"""Pages of validation images: what they tell, in which order, and what is refused and why."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.services.answers import images
from crosskd.data.annotations import Annotations
from report.matches import Matches, read_matches
from tests.support.job_images import Jobs, Measured, change, index_here, measured, split
from tests.support.worker_calls import upload

RUN = images._run


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"  # two queries: another database answers them alike


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process is started where it matters; elsewhere it would only take time."""
    monkeypatch.setattr(images, "_run", index_here)


@pytest.fixture
def known(root: Path) -> Annotations:
    return split(root)


@pytest.fixture
def jobs(client: TestClient, spec: dict[str, Any], known: Annotations, root: Path) -> Jobs:
    return Jobs(client, spec, known, root)


@pytest.fixture
def student(known: Annotations) -> Measured:
    return measured(known, 4)


@pytest.fixture
def teacher(known: Annotations) -> Measured:
    return measured(known, 5, model="teacher", step=0)


@pytest.fixture
def page(client: TestClient) -> Callable[..., Any]:
    def get(job: str, **query: Any) -> Any:
        answer = client.get(f"/jobs/{job}/images", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return get


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    return told


def matches_of(one: Measured) -> Matches:
    assert one.result.matches is not None
    return read_matches(one.result.matches)


def by_hand(one: Measured, score: float, image: int | None = None, label: int | None = None) -> list[int]:
    """True, false and missed from `score` on, by pycocotools' matches at IoU 0.5."""
    matches = matches_of(one)
    true = false = boxes = 0
    for number in range(len(matches.classes)) if label is None else [label]:
        rows = matches.rows(number)
        kept = matches.scores[rows] >= score
        owners, counts = matches.truth_of(number)
        if image is not None:
            kept &= matches.image_ids[matches.images[rows]] == image
            counts = counts[matches.image_ids[owners] == image]
        states = matches.states[rows][kept]
        true += int(matches.right[states, 0, 0].sum())
        false += int((matches.counted[states, 0, 0] & ~matches.right[states, 0, 0]).sum())
        boxes += int(counts[:, 0].sum())
    return [true, false, boxes - true]


def counts(told: dict[str, Any]) -> list[int]:
    return [told["true"], told["false"], told["missed"]]


def test_images_with_their_boxes_the_worst_first(
    jobs: Jobs, page: Callable[..., Any], student: Measured, teacher: Measured, known: Annotations
) -> None:
    job = jobs.finished(student, teacher)
    told = page(job)
    assert (told["images"], told["iou"], told["samples"], told["has_more"]) == (8, 0.5, False, False)
    assert told["classes"] == ["cat", "dog", "newt"]
    assert told["against"] is None
    for model, one in (("student", student), ("teacher", teacher)):
        shown = told[model]
        assert (shown["job"], shown["score"]) == (job, pytest.approx(one.result.score))
        assert shown["step"] == (7 if model == "student" else 0)
        assert counts(shown) == by_hand(one, shown["score"])
        for item in told["items"]:
            assert counts(item[model]) == by_hand(one, shown["score"], image=item["id"])
            kinds = [box["kind"] for box in item[model]["boxes"]]
            assert counts(item[model]) == [kinds.count(kind) for kind in ("true", "false", "missed")]
            true, false, missed = counts(item[model])
            expected = 2 * true / (2 * true + false + missed) if true + false + missed else 1.0
            assert item[model]["f1"] == pytest.approx(expected)
            for box in item[model]["boxes"]:
                assert (box["score"] is None) == (box["kind"] == "missed")
                if box["kind"] in ("true", "missed"):
                    found = item["truth"][box["truth"]]
                    assert (found["class_name"], found["ignored"]) == (box["class_name"], False)
                    assert box["kind"] == "true" or found["box"] == box["box"]
    losses = [item["teacher"]["f1"] - item["student"]["f1"] for item in told["items"]]
    assert [item["f1_loss"] for item in told["items"]] == pytest.approx(losses)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0 > losses[-1]
    rows = known.rows(0)
    first = next(item for item in told["items"] if item["id"] == 1)
    assert (first["file_name"], first["width"], first["height"]) == ("0.png", 300, 300)
    assert len(first["truth"]) == rows.stop - rows.start
    assert (first["url"], first["thumbnail"]) == (f"/jobs/{job}/images/1", f"/jobs/{job}/images/1/thumbnail")


@pytest.mark.parametrize("order", ["f1_loss", "id", "gain"])
def test_pages_have_every_image_once_and_in_order(
    jobs: Jobs, page: Callable[..., Any], student: Measured, known: Annotations, order: str
) -> None:
    job, other = jobs.finished(student), jobs.finished(measured(known, 6))
    query: dict[str, Any] = {"order": order, "against": other}
    whole = page(job, limit=100, **query)
    found: list[Any] = []
    while True:
        after = {"after": found[-1]["id"]} if found else {}
        told = page(job, limit=3, **query, **after)
        found += told["items"]
        if not told["has_more"]:
            break
    assert found == whole["items"]
    assert sorted(item["id"] for item in found) == known.image_ids.tolist()
    for item in found:
        assert item["gain"] == pytest.approx(item["student"]["f1"] - item["against"]["f1"])
        assert item["f1_loss"] == pytest.approx(1 - item["student"]["f1"])  # there is no teacher
    key = {"f1_loss": "f1_loss", "gain": "gain", "id": "id"}[order]
    values = [item[key] for item in found]
    assert values == sorted(values, reverse=order != "id")
    assert counts(whole["against"]) == by_hand(measured(known, 6), whole["against"]["score"])
    assert whole["against"]["job"] == other


def test_a_class_alone(jobs: Jobs, page: Callable[..., Any], student: Measured, teacher: Measured) -> None:
    job, other = jobs.finished(student, teacher), jobs.finished(teacher)
    told = page(job, **{"class": "dog"})
    assert counts(told["student"]) == by_hand(student, told["student"]["score"], label=1)
    assert told["student"]["score"] == page(job)["student"]["score"]  # of all classes together
    assert 0 < told["images"] == len(told["items"])
    for item in told["items"]:
        boxes = [*item["truth"], *item["student"]["boxes"], *item["teacher"]["boxes"]]
        assert {box["class_name"] for box in boxes} == {"dog"}
        assert counts(item["student"]) == by_hand(student, told["student"]["score"], item["id"], 1)
        for box in item["student"]["boxes"]:
            assert box["truth"] is None or 0 <= box["truth"] < len(item["truth"])
    newts = page(job, **{"class": "newt"})  # nothing but false detections
    assert newts["student"]["true"] == newts["student"]["missed"] == 0
    gained = page(job, order="gain", against=other, **{"class": "newt"})
    theirs = page(other, **{"class": "newt"})["items"]
    assert {item["id"] for item in gained["items"]} == {item["id"] for item in (*newts["items"], *theirs)}


def test_an_index_is_made_once_and_an_answer_has_a_tag(
    jobs: Jobs, client: TestClient, student: Measured, teacher: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.finished(student, teacher)
    monkeypatch.setattr(images, "_run", RUN)  # the real process
    first = client.get(f"/jobs/{job}/images")
    monkeypatch.setattr(images, "_run", None)  # whoever made it again would fail
    again = client.get(f"/jobs/{job}/images")
    assert (again.status_code, again.json()) == (200, first.json())
    assert first.headers["cache-control"] == "private, no-cache"
    same = client.get(f"/jobs/{job}/images", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert client.get(f"/jobs/{job}/images?order=id").headers["etag"] != first.headers["etag"]


def test_the_sample_images_of_an_evaluation(
    jobs: Jobs, page: Callable[..., Any], client: TestClient, student: Measured, teacher: Measured, known: Annotations
) -> None:
    job = jobs.finished(student, teacher, outcome=None)
    early = measured(known, 9, step=3)
    upload(jobs.worker, "samples-student-00000003.json.gz?kind=samples&step=3", early.samples)
    told = page(job, step=3, order="id")
    assert (told["samples"], told["student"]["step"], told["teacher"]["step"]) == (True, 3, 0)
    assert counts(told["student"]) == by_hand(early, told["student"]["score"])
    assert told["student"]["score"] == pytest.approx(early.result.score)
    assert [item["id"] for item in told["items"]] == known.image_ids.tolist()  # so few are all samples
    names = [item["name"] for item in client.get(f"/jobs/{job}/artifacts").json()["items"]]
    assert "detections.json.gz" in names
    assert not any(name.startswith("samples-") for name in names)
    fault = problem(client.get(f"/jobs/{job}/images?step=4"), 404)
    assert fault["remedy"] == "There are some at the steps 3, 7."


def test_images_that_were_not_evaluated_are_not_told_as_missed(
    jobs: Jobs, page: Callable[..., Any], student: Measured, known: Annotations
) -> None:
    job = jobs.finished(student)
    change(known.path, lambda content: content["images"].append({**content["images"][0], "id": 99}))
    told = page(job)
    assert told["images"] == 8


def test_a_job_on_other_images_is_not_held_against(
    jobs: Jobs, client: TestClient, student: Measured, known: Annotations, root: Path
) -> None:
    job = jobs.finished(student)
    other_file = root / "other.json"
    other_file.write_text(known.path.read_text())
    change(other_file, lambda content: content["annotations"].pop())
    split = {"annotations": str(other_file), "images": str(root / "images")}
    other = jobs.finished(student, data={"train": split, "val": split})
    fault = problem(client.get(f"/jobs/{job}/images", params={"order": "gain", "against": other}), 422)
    assert fault["errors"][0]["pointer"] == "against"
    assert "other images, boxes or classes" in fault["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("query", "pointer", "detail"),
    [
        ({"order": "gain"}, "against", "nothing to gain over"),
        ({"class": "cta"}, "class", "no class of the job"),
        ({"after": 5}, "after", "no image of this list"),
        ({"limit": 101}, "limit", ""),
        ({"order": "worst"}, "order", ""),
        ({"after": 2**63}, "after", ""),
    ],
)
def test_a_wrong_query_is_told(
    jobs: Jobs, client: TestClient, student: Measured, query: dict[str, Any], pointer: str, detail: str
) -> None:
    fault = problem(client.get(f"/jobs/{jobs.finished(student)}/images", params=query), 422)["errors"][0]
    assert fault["pointer"] == pointer
    assert detail in fault["detail"]
    assert fault["remedy"] or not detail


def test_a_job_without_detections_says_how_to_get_some(
    jobs: Jobs, client: TestClient, student: Measured, known: Annotations
) -> None:
    def told(job: str) -> dict[str, Any]:
        found: dict[str, Any] = problem(client.get(f"/jobs/{job}/images"), 404)
        assert problem(client.get(f"/jobs/{job}/images/1"), 404)["detail"] == found["detail"]
        return found

    older = jobs.finished(None)
    assert "run by a version that kept none" in told(older)["detail"]
    command = f"crosskd submit evaluate --weights-job {older} --set data.val.annotations={known.path}"
    assert f"Run `{command}" in told(older)["remedy"]
    assert "ended before it was evaluated" in told(jobs.finished(None, outcome="failed"))["detail"]
    assert "it is queued" in told(jobs.post())["detail"]
    problem(client.get("/jobs/" + "0" * 32 + "/images"), 404)


def test_an_annotation_file_that_has_gone_or_changed_is_told(
    jobs: Jobs, client: TestClient, page: Callable[..., Any], student: Measured, known: Annotations
) -> None:
    job = jobs.finished(student, result={"annotations_sha256": {"val": "0" * 64}})
    (remark,) = page(job)["remarks"]
    assert "has been changed since the job measured" in remark

    def drop(content: dict[str, Any]) -> None:
        content["images"] = [image for image in content["images"] if image["id"] != 1]
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] != 1]

    change(known.path, drop)
    remarks = page(job)["remarks"]
    assert "detections are of images or categories that the annotation file has not" in remarks[1]
    known.path.unlink()
    fault = problem(client.get(f"/jobs/{job}/images"), 410)
    assert "annotation file of the job's validation images cannot be opened" in fault["detail"]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"no gzip", "no file of gzip"),
        (gzip.compress(b"["), "no JSON"),
        (gzip.compress(b"{}"), "no list"),
        (gzip.compress(b'[{"image_id": 1}]'), "lacks an id, a bbox or a score"),
        (
            gzip.compress(b'[{"image_id":1,"category_id":1,"bbox":[0,0,-1,1],"score":1}]'),
            "a bbox or a score that is none",
        ),
        (gzip.compress(b'[{"image_id":1,"category_id":1,"bbox":[0,0,1,1],"score":NaN}]'), "that is none"),
        (gzip.compress(b'[{"image_id":1,"category_id":true,"bbox":[0,0,1,1],"score":1}]'), "no whole number"),
        (gzip.compress(b"[" + b" " * 20_000_000 + b"]"), "too long"),
    ],
    ids=range(8),
)
def test_a_broken_file_of_detections_is_told(
    jobs: Jobs, client: TestClient, student: Measured, content: bytes, detail: str
) -> None:
    job = jobs.finished(student._replace(detections=content))
    (fault,) = problem(client.get(f"/jobs/{job}/images"), 422)["errors"]
    assert "the job's detections cannot be used" in fault["detail"]
    assert detail in fault["detail"]
    assert "Evaluate its weights anew" in fault["remedy"]


def test_a_model_that_finds_nothing_has_no_score(
    jobs: Jobs, page: Callable[..., Any], student: Measured, teacher: Measured
) -> None:
    job = jobs.finished(student._replace(detections=gzip.compress(json.dumps([]).encode())), teacher)
    told = page(job)
    assert told["student"]["score"] is None
    assert counts(told["student"])[:2] == [0, 0]
    assert counts(told["student"])[2] == sum(counts(told["teacher"])[::2])
