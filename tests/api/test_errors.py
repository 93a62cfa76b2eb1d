"""Every failure is a problem (RFC 9457): where, what, and what to do; never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.errors import NotFound, problem_response
from api.settings import Settings
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker
from wire.errors import Fault

NOBODY = "0" * 32
POINT = {"key": "a", "step": 0, "value": 1}
JSON = {"Content-Type": "application/json"}


def nested(levels: int) -> dict[str, Any]:
    """Objects and arrays in turn, so many levels of them."""
    value: Any = {} if levels % 2 else []
    for level in range(levels - 1, 0, -1):
        value = {"a": value} if level % 2 else [value]
    return dict(value)


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert "Traceback" not in answer.text
    return body


def faults(answer: Any) -> dict[str, tuple[str, str]]:
    return {f["pointer"]: (f["detail"], f["remedy"]) for f in problem(answer, 422)["errors"]}


@pytest.mark.parametrize("junk", [NOBODY, "x", "%00", "..%2f..", "a" * 10_000, "%F0%9F%90%8D", "0" * 31 + "G", "'"])
def test_an_id_that_is_none(client: TestClient, junk: str) -> None:
    problem(client.post(f"/jobs/{junk}/cancel"), 404)
    for path in (
        "",
        "/metrics",
        "/evaluations",
        "/evaluations/0/curves",
        "/artifacts",
        "/artifacts/log.txt",
        "/weights",
    ):
        problem(client.get(f"/jobs/{junk}{path}"), 404)
    if len(junk) <= 200 and junk != "%00":  # else it is no id at all
        problem(client.get(f"/compare?job={junk}&job={junk}:teacher"), 404)


@pytest.mark.parametrize("junk", [NOBODY, "x", "%00", "a" * 5000])
def test_an_attempt_that_is_none(client: TestClient, junk: str) -> None:
    headers = WORKER | {"Fencing-Token": "1"}
    problem(client.post(f"/worker/jobs/{junk}/claim", json={"worker": "w"}, headers=WORKER), 404)
    problem(client.post(f"/worker/attempts/{junk}/heartbeat", headers=headers), 404)
    problem(client.get(f"/worker/attempts/{junk}/commands?wait=0", headers=headers), 404)
    problem(client.post(f"/worker/attempts/{junk}/finish", json={"outcome": "released"}, headers=headers), 404)


@ONE_DATABASE
def test_unknown_paths_and_methods(client: TestClient) -> None:
    assert "openapi.json" in problem(client.get("/nothing/here"), 404)["remedy"]
    for method, path, allowed in (
        ("DELETE", "/jobs", "GET, POST"),
        ("PUT", f"/jobs/{NOBODY}", "DELETE, GET"),
        ("POST", f"/jobs/{NOBODY}/weights", "GET, HEAD"),
        ("OPTIONS", f"/worker/attempts/{NOBODY}/artifacts/log.txt", "HEAD, PATCH, PUT"),
    ):
        answer = client.request(method, path)
        problem(answer, 405)
        assert answer.headers["allow"] == allowed


@ONE_DATABASE
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "line 1, column 2"),
        ('{"kind": "train",\n  "name": }', "line 2, column 11"),
        ('{"a": 1} x', "line 1, column 10"),
        ("nope", "line 1, column 1"),
    ],
)
def test_malformed_json_tells_the_position(client: TestClient, text: str, where: str) -> None:
    body = problem(client.post("/jobs", content=text, headers=JSON), 400)
    assert where in body["detail"]


@ONE_DATABASE
@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b'"\\ud800"'],
    ids=["not utf-8", "deep", "huge number", "half a surrogate"],
)
def test_unreadable_bodies(client: TestClient, content: bytes) -> None:
    answer = client.post("/jobs", content=content, headers=JSON)
    assert answer.status_code in (400, 422), answer.text
    problem(answer, answer.status_code)


def test_half_a_surrogate_anywhere(client: TestClient, spec: dict[str, Any]) -> None:
    """JSON can spell it and UTF-8 cannot: a fault that quotes it must still be told."""
    half = "\ud800"
    order = {"kind": "train", "name": "x", "spec": spec}
    for broken in (
        {half: 1},
        order | {"name": half},
        order | {"labels": {half: "a"}},
        order | {"labels": {"a": half}},
        order | {"spec": spec | {half: {half: half}}},
        order | {"spec": spec | {"student": {"detector": half, "backbone": {"name": half}}}},
        order | {"spec": spec | {"data": {"train": {"annotations": half, "images": half}}}},
    ):
        assert faults(client.post("/jobs", content=json.dumps(broken), headers=JSON)), broken


def test_a_fault_may_quote_anything() -> None:
    told = problem_response(NotFound("\ud800", remedy="\udfff", errors=[Fault(pointer="/\ud800", detail="x")]))
    assert json.loads(bytes(told.body))["detail"] == "\\ud800"


@ONE_DATABASE
def test_a_body_that_is_no_json(client: TestClient) -> None:
    assert "application/json" in problem(client.post("/jobs", content="kind=train"), 415)["remedy"]
    problem(client.post("/jobs", data={"kind": "train"}), 415)
    for path in ("/jobs", "/sweeps"):
        for nothing in ({}, {"content": b"", "headers": JSON}):
            told = problem(client.post(path, **nothing), 422)
            assert told["detail"] == "the request has no body"
            assert told["remedy"].startswith("Send JSON with `Content-Type: application/json`")
            assert told["errors"][0]["pointer"] == ""  # the whole body, in RFC 6901
    assert faults(client.post("/jobs", json=None, headers=JSON)) != {}
    assert faults(client.post("/jobs", json=[])) != {}


@ONE_DATABASE
def test_bodies_are_bounded(client: TestClient, spec: dict[str, Any]) -> None:
    order = {"kind": "train", "name": "x", "spec": spec, "labels": {"a": "b" * 1_000_001}}
    text = json.dumps(order).encode()
    problem(client.post("/jobs", content=text, headers=JSON), 413)

    def pieces() -> Any:  # of unknown length
        for start in range(0, len(text), 100_000):
            yield text[start : start + 100_000]

    body = problem(client.post("/jobs", content=pieces(), headers=JSON), 413)
    assert "1000000 bytes" in body["detail"]
    problem(client.post(f"/jobs/{NOBODY}/cancel", content=text), 413)


@ONE_DATABASE
def test_a_body_of_two_lengths_is_refused(client: TestClient) -> None:
    """Proxy and service would each believe another one of them, and see other requests on the connection."""
    both = {**JSON, "Content-Length": "2", "Transfer-Encoding": "chunked"}
    assert "Transfer-Encoding" in problem(client.post("/jobs", content=b"{}", headers=both), 400)["detail"]


@ONE_DATABASE
def test_no_answer_leads_to_the_host_that_the_caller_has_written(client: TestClient) -> None:
    answer = client.get("/jobs/", headers={"Host": "127.0.0.1:1"}, follow_redirects=False)
    assert "location" not in answer.headers
    problem(answer, 404)


@ONE_DATABASE
def test_every_fault_at_once(client: TestClient, spec: dict[str, Any]) -> None:
    spec = copy.deepcopy(spec)
    spec["student"]["backbone"]["name"] = "resnet9000"
    spec["student"]["detector"] = "yolo"
    spec["batch_size"] = 0
    spec["optimizer"] = {"lr": 1000, "name": "sgdd", "learning_rate": 1}
    spec["data"]["train"].pop("images")
    spec["schedule"] = {"milestones": [1, "x"]}
    found = faults(client.post("/jobs", json={"kind": "tran", "spec": spec, "lables": {}}))

    assert "resnet50" in found["/spec/student/backbone/name"][1]
    assert "gfl" in found["/spec/student/detector"][1]
    assert found["/spec/batch_size"] == ("Input should be greater than or equal to 1", "Give a number >= 1.")
    assert found["/spec/optimizer/lr"][1] == "Give a number <= 100.0."
    assert found["/spec/optimizer/name"][1] == "Did you mean `sgd`? Use 'sgd' or 'adamw'."
    assert "base_batch" in found["/spec/optimizer/learning_rate"][1]
    assert found["/spec/data/train/images"] == ("Field required", "Add it.")
    assert "/spec/schedule/milestones/1" in found
    assert found["/lables"][1].startswith("Did you mean `labels`? Known here: ")
    assert found["/name"] == ("Field required", "Add it.")
    assert found["/kind"][1].startswith("Did you mean `train`? Use 'train', 'distill'")


@ONE_DATABASE
def test_the_documented_problem_is_a_real_one(client: TestClient, spec: dict[str, Any], settings: Settings) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api" / "calling.md").read_text(encoding="utf-8")
    documented = json.loads(page.partition("```json")[2].partition("```")[0])
    spec["student"]["backbone"]["name"] = "resnet19"
    spec["data"]["val"] = spec["data"]["val"] | {"images": "../outside"}
    answer = client.post("/jobs", json={"kind": "train", "name": "x", "spec": spec})
    told = json.loads(answer.text.replace(str(settings.data_roots[0]), "/data"))
    assert told == documented | {"request_id": answer.headers["x-request-id"]}


@ONE_DATABASE
def test_faults_of_a_union_are_those_of_the_branch_meant(client: TestClient, spec: dict[str, Any]) -> None:
    def found(weights: Any) -> dict[str, tuple[str, str]]:
        order = {"kind": "distill", "name": "x", "spec": spec | {"teacher": {"weights": weights}}}
        return faults(client.post("/jobs", json=order))

    assert list(found({"job": "x", "checkpoint": "bset"})) == ["/spec/teacher/weights/checkpoint"]
    assert list(found({"file": ""})) == ["/spec/teacher/weights/file"]
    assert list(found("a string")) == ["/spec/teacher/weights"]


@ONE_DATABASE
def test_kind_must_fit_the_spec(client: TestClient, spec: dict[str, Any]) -> None:
    distil = faults(client.post("/jobs", json={"kind": "distill", "name": "x", "spec": spec}))
    assert "teacher" in distil["/spec/teacher"][0]


@ONE_DATABASE
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1e999"])
def test_numbers_that_are_none(client: TestClient, spec: dict[str, Any], value: Any) -> None:
    text = json.dumps({"kind": "train", "name": "x", "spec": spec | {"clip_norm": "@"}})
    text = text.replace('"@"', value if isinstance(value, str) else json.dumps(value))
    assert list(faults(client.post("/jobs", content=text, headers=JSON))) == ["/spec/clip_norm"]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "a\0b"}, "/name"),
        ({"name": "   "}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"labels": {"a": "\0"}}, "/labels/a"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"labels": {"a b": "c"}}, "/labels/a b"),
        ({"labels": {"~/": "c"}}, "/labels/~0~1"),
        ({"labels": {str(n): "" for n in range(65)}}, "/labels"),
    ],
)
def test_bad_names_and_labels(client: TestClient, spec: dict[str, Any], change: Any, pointer: str) -> None:
    answer = client.post("/jobs", json={"kind": "train", "name": "x", "spec": spec} | change)
    assert list(faults(answer)) == [pointer]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("status=dead", "status"),
        ("label=alone", "label"),
        ("label==x", "label"),
        ("label=a=%00", "label"),
        ("after=x", "after"),
        ("after=%00", "after"),
        ("&".join(["label=a=b"] * 1000), "label"),
        ("&".join(["status=queued"] * 65), "status"),
    ],
)
def test_bad_list_queries(client: TestClient, query: str, name: str) -> None:
    assert list(faults(client.get(f"/jobs?{query}"))) == [name]


def test_a_query_may_repeat_a_parameter_and_not_without_end(client: TestClient, post_job: Callable[..., str]) -> None:
    for path, parameter in (("/jobs", "label=a=b"), (f"/jobs/{post_job()}/metrics", "key=loss")):
        assert client.get(f"{path}?" + "&".join([parameter] * 64)).status_code == 200
        assert faults(client.get(f"{path}?" + "&".join([parameter] * 65)))


@ONE_DATABASE
@pytest.mark.parametrize(
    "query", ["since_step=-1", "since_step=99999999999999999999", "limit=0", "attempt=0", "key=%00"]
)
def test_bad_metric_queries(client: TestClient, post_job: Callable[..., str], query: str) -> None:
    assert list(faults(client.get(f"/jobs/{post_job()}/metrics?{query}"))) == [query.partition("=")[0]]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("metrics", {"sequence": -1}),
        ("metrics", {"sequence": 2**70}),
        ("metrics", {"sequence": 0, "points": [{"key": "a b", "step": 0, "value": 1, "at": "2026-01-01T00:00:00Z"}]}),
        ("metrics", {"sequence": 0, "points": [{"key": "a", "step": 0, "value": 1, "at": "yesterday"}]}),
        ("metrics", {"sequence": 0, "points": [{"key": "a", "step": 0, "value": 1e999, "at": "2026-01-01"}]}),
        ("metrics", {"sequence": 0, "points": [{"key": "a", "step": 2**60, "value": 1, "at": "2026-01-01T00:00:00Z"}]}),
        ("metrics", {"sequence": 0, "points": [{**POINT, "at": "0001-01-01T00:00:00+14:00"}]}),
        ("metrics", {"sequence": 0, "points": [{**POINT, "at": "9999-12-31T23:59:59-14:00"}]}),
        ("metrics", {"sequence": 0, "points": [{**POINT, "at": "1969-12-31T23:59:59Z"}]}),
        ("evaluations", {"model": "student", "step": 1, "metrics": {"AP": 1}}),
        ("finish", {"outcome": "exploded"}),
        ("finish", {"outcome": "failed", "failure": {"failure_class": "weather", "message": ""}}),
        ("finish", {"outcome": "succeeded", "result": nested(33)}),
        ("finish", {"outcome": "succeeded", "result": nested(900)}),
    ],
)
def test_bad_reports(post_job: Callable[..., str], worker: Worker, what: str, body: Any) -> None:
    worker.claim(post_job())
    text = json.dumps(body)
    headers = worker.headers | JSON
    answer = worker.client.post(f"/worker/attempts/{worker.attempt}/{what}", content=text, headers=headers)
    assert faults(answer)


def test_a_manifest_may_have_32_levels(post_job: Callable[..., str], worker: Worker) -> None:
    worker.claim(post_job())
    answer = worker.finish("succeeded", result=nested(32))
    assert answer.status_code == 200, answer.text


def test_a_database_that_is_away(client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that went away stands for it on SQLite, a wrong socket on Postgres: a real driver error either way."""
    from api.database import Database

    url = "postgresql+psycopg://x@/x?host=/nowhere" if app.state.database.dialect == "postgresql" else "sqlite:////no/x"
    monkeypatch.setattr(app.state, "database", Database(url), raising=False)
    answer = client.get("/jobs")
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert "/no" not in answer.text


def test_what_nobody_foresaw(client: TestClient, app: FastAPI) -> None:
    @app.get("/boom")
    def boom() -> None:
        raise ZeroDivisionError("a secret")

    assert "secret" not in problem(client.get("/boom"), 500)["detail"]
