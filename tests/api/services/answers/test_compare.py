"""Comparisons of jobs: what is told, what is refused and why, and that the API computes nothing itself."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.services.answers import compare
from api.services.submission import coco_check, datasets
from api.stores.threads import COMPARING
from crosskd.evaluation.average_precision import CocoResult, average_precision
from crosskd.spec.coco.survey import Use
from crosskd.spec.inputs import Input
from report.compare import compare as computed
from tests.support.matches import detections, truth
from tests.support.worker_calls import Worker, upload

Finished = Callable[..., str]
RUN = compare._run


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"  # one query: another database answers it alike


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[CocoResult]:
    """Three detectors on the same images."""
    known = truth(tmp_path_factory.mktemp("truth"), 3)
    return [average_precision(known, detections(known, seed)) for seed in (4, 5, 6)]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real processes are started where they matter; elsewhere they would only take time."""

    def run(files: Any, _seconds: float) -> Any:
        contents = []
        for file in files:
            file.seek(0)
            contents.append(file.read())
        return json.loads(json.dumps(computed(contents, compare.RESAMPLES, compare.SEED)))

    def check(file: Input, use: Use, *_limits: float) -> datasets.CheckResult:
        with file.reader() as reader:
            report = coco_check.check(reader, use)
        return datasets.CheckResult(**{field.name: report[field.name] for field in fields(datasets.CheckResult)})

    monkeypatch.setattr(compare, "_run", run)
    monkeypatch.setattr(datasets, "_check", check)


@pytest.fixture
def finished(post_job: Callable[..., str], worker: Worker) -> Finished:
    """A job that has ended, with matches of its student and perhaps of its teacher."""

    def make(student: bytes | None = None, teacher: bytes | None = None, outcome: str = "succeeded") -> str:
        job = post_job()
        assert worker.claim(job).status_code == 200
        for name, content in (("matches", student), ("teacher_matches", teacher)):
            if content is not None:
                upload(worker, f"{name}.safetensors?step=7", content)
        assert worker.finish(outcome, **FAILURE if outcome == "failed" else {}).status_code == 200
        return job

    return make


FAILURE: dict[str, Any] = {"failure": {"failure_class": "user", "message": "wrong"}}


def content(result: CocoResult) -> bytes:
    assert result.matches is not None
    return result.matches


def faults(answer: Any, status: int = 422) -> list[dict[str, str]]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: list[dict[str, str]] = answer.json()["errors"]
    return found


def test_jobs_are_compared_with_the_first(client: TestClient, finished: Finished, results: list[CocoResult]) -> None:
    a, b, c = (finished(content(result)) for result in results)
    answer = client.get("/compare", params={"job": [a, b, c]})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["baseline"], told["images"], told["resamples"], told["confidence"]) == (a, 8, 1000, 95.0)
    assert [job["ref"] for job in told["jobs"]] == [a, b, c]
    assert told["jobs"][0]["differences"] is None
    for job, result in zip(told["jobs"], results, strict=True):
        assert job["metrics"] == result.metrics
        assert job["per_class"] == result.per_class
        assert (job["model"], job["step"], job["name"]) == ("student", 7, "a job")
    for job, result in zip(told["jobs"][1:], results[1:], strict=True):
        differences = job["differences"]["numbers"]
        assert list(differences) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
        for name, difference in differences.items():
            assert difference["value"] == pytest.approx(result.metrics[name] - results[0].metrics[name])
            assert difference["low"] < difference["value"] < difference["high"]
        assert differences["AP"]["resamples"] == 1000
        assert set(job["differences"]["classes"]) == {"cat", "dog", "newt"}
        assert job["differences"]["classes"]["newt"] is None  # it has no boxes


def test_a_baseline_and_a_teacher_are_named(client: TestClient, finished: Finished, results: list[CocoResult]) -> None:
    a = finished(content(results[0]), teacher=content(results[1]))
    told = client.get("/compare", params={"job": [a, f"{a}:teacher"], "baseline": f"{a}:teacher"}).json()
    assert [(job["ref"], job["model"]) for job in told["jobs"]] == [(f"{a}:teacher", "teacher"), (a, "student")]
    assert told["jobs"][1]["differences"]["numbers"]["AP"]["value"] == pytest.approx(
        results[0].metrics["AP"] - results[1].metrics["AP"]
    )


def test_the_same_detections_differ_by_nothing(
    client: TestClient, finished: Finished, results: list[CocoResult]
) -> None:
    jobs = [finished(content(results[0])) for _ in range(2)]
    told = client.get("/compare", params={"job": jobs}).json()
    difference = told["jobs"][1]["differences"]["numbers"]["AP"]
    assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)


def test_an_answer_is_computed_once_and_has_a_tag(
    client: TestClient, finished: Finished, results: list[CocoResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"job": [finished(content(result)) for result in results[:2]]}
    first = client.get("/compare", params=params)
    monkeypatch.setattr(compare, "_run", None)  # whoever computed again would fail
    again = client.get("/compare", params=params)
    assert (again.status_code, again.json()) == (200, first.json())
    cached = client.get("/compare", params=params, headers={"If-None-Match": first.headers["etag"]})
    assert (cached.status_code, cached.content) == (304, b"")
    turned = client.get("/compare", params=params | {"baseline": params["job"][1]}, headers={"If-None-Match": "*"})
    assert turned.headers["etag"] != first.headers["etag"]


def test_answers_are_given_up_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CACHED_BYTES", 200)
    comparisons = compare.Comparisons()
    answer: Any = {"faults": [], "images": 1, "compared": []}
    for tag in "abcdef":
        comparisons.put(tag, answer)
        assert comparisons.get("a") == answer  # what is asked for stays
    assert comparisons.get("f") == answer
    assert comparisons.get("b") is None


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 11}, "ground truth: the boxes of the images are others"),
        ({"images": 6}, "images: it was measured on 6, the baseline on 8, and 6 are the same"),
        ({"as_is": True}, "ground truth: only it was measured `as_is`"),
        ({"limit": 300}, "detections an image: AP counts 300, the baseline's counts 100"),
        ({"classes": ["dog", "cat", "newt"]}, "classes: they are in another order"),
        ({"classes": ["cat", "dog"]}, "classes: only the baseline has 'newt'"),
    ],
)
def test_what_was_measured_otherwise_is_named(
    client: TestClient,
    finished: Finished,
    results: list[CocoResult],
    tmp_path: Path,
    change: dict[str, Any],
    said: str,
) -> None:
    limit, seed = change.pop("limit", 100), change.pop("seed", 3)
    known = truth(tmp_path, seed, **change)
    other = average_precision(known, detections(known, 4), max_detections=limit)
    jobs = [finished(content(results[0])), finished(content(other))]
    answer = client.get("/compare", params={"job": jobs})
    (fault,) = faults(answer)
    assert (fault["pointer"], fault["detail"]) == ("job", f"{jobs[1]}, otherwise than {jobs[0]}: {said}")
    assert f"crosskd submit evaluate --weights-job {jobs[1]} " in fault["remedy"]


def test_a_job_on_its_way_is_refused(
    client: TestClient, finished: Finished, results: list[CocoResult], post_job: Callable[..., str]
) -> None:
    job = post_job()
    answer = client.get("/compare", params={"job": [finished(content(results[0])), job]})
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"the job {job} has not ended: it is queued"
    assert f"crosskd watch {job}" in answer.json()["remedy"]


def test_how_an_older_job_comes_to_matches_is_told(
    client: TestClient, finished: Finished, results: list[CocoResult], spec: dict[str, Any]
) -> None:
    """By a command that the client understands as it stands."""
    job = finished()
    (fault,) = faults(client.get("/compare", params={"job": [finished(content(results[0])), job]}))
    assert fault["detail"] == (
        f"the student of the job {job} has no matches: it was run by a version that kept no matches"
    )
    words = shlex.split(fault["remedy"].split("`")[1])
    val = spec["data"]["val"]
    expected = ["crosskd", "submit", "evaluate", "--weights-job", job]
    for name in ("annotations", "images"):
        expected += ["--set", f"data.val.{name}={val[name]}"]
    classes = client.get(f"/jobs/{job}").json()["spec"]["data"]["classes"]
    expected += ["--set", f"data.classes={json.dumps(classes)}"]
    assert words == expected


@pytest.mark.parametrize(
    ("outcome", "teacher", "said"),
    [
        ("failed", False, "it has failed before it was evaluated"),
        ("succeeded", True, "it was trained without a teacher"),
    ],
)
def test_why_there_are_no_matches_is_told(
    client: TestClient, finished: Finished, results: list[CocoResult], outcome: str, teacher: bool, said: str
) -> None:
    job = finished(outcome=outcome)
    ref = f"{job}:teacher" if teacher else job
    (fault,) = faults(client.get("/compare", params={"job": [finished(content(results[0])), ref]}))
    assert fault["detail"].endswith(said)
    assert fault["remedy"].startswith("Compare ")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("job={a}", 422),
        ("", 422),
        ("job={a}&job={a}", 422),
        ("job={a}&job={b}&baseline=x", 422),
        ("job={a}&job=x", 404),
        ("job={a}&job=:teacher", 404),
        ("job={a}&job=" + "0" * 32, 404),
        ("job={a}&job=%00", 422),
        ("job={a}&job=" + "x" * 201, 422),
        ("&".join(f"job={n}" for n in range(9)), 422),
    ],
)
def test_a_query_that_names_no_comparison_is_refused(
    client: TestClient, finished: Finished, results: list[CocoResult], query: str, status: int
) -> None:
    a, b = (finished(content(result)) for result in results[:2])
    answer = client.get("/compare?" + query.format(a=a, b=b))
    assert answer.status_code == status, answer.text
    assert answer.json()["remedy"] or answer.json()["errors"]


@pytest.mark.parametrize("broken", [b"nothing", b"\0" * 100])
def test_a_file_that_holds_no_matches_is_named(
    client: TestClient, finished: Finished, results: list[CocoResult], broken: bytes
) -> None:
    jobs = [finished(content(results[0])), finished(broken)]
    (fault,) = faults(client.get("/compare", params={"job": jobs}))
    assert fault["detail"] == f"{jobs[1]}: its matches cannot be read: it does not say that it holds matches"
    assert "crosskd submit evaluate" in fault["remedy"]


def test_a_file_that_is_gone_or_changed_is_told(
    client: TestClient, finished: Finished, results: list[CocoResult], app: FastAPI
) -> None:
    jobs = [finished(content(result)) for result in results[:2]]
    (path,) = Path(app.state.settings.storage).glob(f"{jobs[1]}/*")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert client.get("/compare", params={"job": jobs}).status_code == 410
    path.unlink()
    answer = client.get("/compare", params={"job": jobs})
    assert answer.status_code == 410
    assert jobs[1] in answer.json()["detail"]


# --- the process -----------------------------------------------------------------------------------------------------


def test_the_process_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, client: TestClient, finished: Finished, results: list[CocoResult]
) -> None:
    jobs = [finished(content(result)) for result in results[:2]]
    here = client.get("/compare", params={"job": jobs}).json()
    client.app.state.comparisons = compare.Comparisons()  # type: ignore[attr-defined]
    monkeypatch.setattr(compare, "_run", RUN)
    assert client.get("/compare", params={"job": jobs}).json() == here


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (subprocess.TimeoutExpired("x", 1), "takes more than 60 s"),
        (subprocess.CompletedProcess("x", -9, b"", b""), "takes more than 60 s"),
        (subprocess.CompletedProcess("x", 1, b"", b"numpy._core._exceptions._ArrayMemoryError"), "more memory"),
    ],
)
def test_a_process_that_reaches_its_bounds_is_told(
    monkeypatch: pytest.MonkeyPatch,
    client: TestClient,
    finished: Finished,
    results: list[CocoResult],
    done: Any,
    said: str,
) -> None:
    def run(*_arguments: Any, **_more: Any) -> Any:
        if isinstance(done, Exception):
            raise done
        return done

    jobs = [finished(content(result)) for result in results[:2]]
    monkeypatch.setattr(compare, "_run", RUN)
    monkeypatch.setattr(subprocess, "run", run)
    (fault,) = faults(client.get("/compare", params={"job": jobs}))
    assert said in fault["detail"]
    assert "CROSSKD_COMPARE_SECONDS" in fault["remedy"]


def test_whoever_comes_when_too_many_wait_is_asked_to_come_back(
    monkeypatch: pytest.MonkeyPatch, client: TestClient, finished: Finished, results: list[CocoResult]
) -> None:
    """What was computed before is answered all the same."""
    jobs = [finished(content(result)) for result in results]
    assert client.get("/compare", params={"job": jobs[:2]}).status_code == 200
    monkeypatch.setattr(COMPARING, "waiting", 0)
    assert client.get("/compare", params={"job": jobs[:2]}).status_code == 200
    answer = client.get("/compare", params={"job": jobs[1:]})
    assert answer.status_code == 503
    assert answer.json()["detail"] == "too many comparisons are being computed"
    assert int(answer.headers["retry-after"]) > 0


def test_a_comparison_leaves_the_api_to_others(
    monkeypatch: pytest.MonkeyPatch, client: TestClient, finished: Finished, results: list[CocoResult]
) -> None:
    running, go_on = threading.Event(), threading.Event()
    computes = compare._run

    def run(files: Any, seconds: float) -> Any:
        running.set()
        assert go_on.wait(60)
        return computes(files, seconds)

    monkeypatch.setattr(compare, "_run", run)
    params = {"job": [finished(content(result)) for result in results[:2]]}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.get, "/compare", params=params)
        assert running.wait(60)
        try:
            assert client.get("/jobs").status_code == 200
        finally:
            go_on.set()
        assert first.result().status_code == 200
