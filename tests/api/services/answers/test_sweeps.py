"""What a sweep answers, from jobs that a test has trained by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scipy import stats

from api.models import Job, SweepJob
from api.services.answers import arms
from api.services.answers.measured import Child, Figures
from api.services.answers.sweeps import status_of
from tests.support.evaluations import evaluation
from tests.support.sweeps import order, train
from tests.support.worker_calls import Worker, checkpoint

Post = Callable[..., dict[str, Any]]


@pytest.fixture
def post(client: TestClient, spec: dict[str, Any]) -> Post:
    """Post the sweep with changes; the answer."""

    def make(**changes: Any) -> dict[str, Any]:
        answer = client.post("/sweeps", json=order(spec, **changes))
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return make


def read(client: TestClient, sweep: dict[str, Any]) -> dict[str, Any]:
    answer = client.get(f"/sweeps/{sweep['id']}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def train_all(worker: Worker, sweep: dict[str, Any], aps: dict[str, list[float]], **more: Any) -> None:
    for arm, values in aps.items():
        jobs = [child["job"] for child in sweep["children"] if child["arm"] == arm]
        for job, ap in zip(jobs, values, strict=False):
            train(worker, job, ap, **more)


def test_an_arm_is_compared_with_the_baseline_pair_by_pair(client: TestClient, post: Post, worker: Worker) -> None:
    sweep = post(seeds=[1, 2, 3])
    alone, faster = [0.20, 0.25, 0.22], [0.24, 0.1 + 0.2, 0.27]  # one with more digits than SQLite's JSON has
    train_all(worker, sweep, {"alone": alone, "faster": faster})
    answer = read(client, sweep)

    assert (answer["status"], answer["partial"], answer["jobs"]) == ("finished", False, {"succeeded": 6})
    baseline, arm = answer["results"]
    assert (baseline["arm"], baseline["baseline"], baseline["verdict"]) == ("alone", True, None)
    assert arm["ap"]["mean"] == pytest.approx(0.27)
    assert arm["ap"]["standard_error"] == pytest.approx(stats.sem(faster))
    assert (arm["ap"]["n"], arm["finished"], arm["jobs"], arm["failed"]) == (3, 3, 3, [])
    interval = stats.ttest_rel(faster, alone).confidence_interval(0.95)
    assert arm["difference"]["mean"] == pytest.approx(0.14 / 3)
    assert (arm["difference"]["low"], arm["difference"]["high"]) == pytest.approx((interval.low, interval.high))
    assert arm["difference"]["pairs"] == 3
    assert arm["verdict"]["outcome"] == "helps"
    assert answer["answer"] == [arm["verdict"]["sentence"]]
    assert arm["verdict"]["sentence"].startswith(
        "faster helps: 4.67 AP points above alone (95 % interval +3.23 to +6.1"
    )
    assert arm["ap50"]["mean"] == pytest.approx(0.54)
    assert {size: spread["mean"] for size, spread in arm["by_size"].items()} == pytest.approx(
        {"small": 0.135, "medium": 0.25}
    )
    assert list(arm["by_class"]) == ["ring"]
    assert arm["by_class"]["ring"]["mean"] == pytest.approx(0.27)
    assert (arm["training_seconds"]["mean"], arm["milliseconds"]["mean"]) == (60, 3)
    assert (arm["parameters"], arm["megabytes"], arm["gap_closed"]) == (1000, 4.0, None)


@pytest.mark.parametrize("huge", [10**400, 1e308], ids=["whole", "float"])
def test_a_manifest_with_numbers_beyond_all_measure_breaks_no_answer(
    client: TestClient, spec: dict[str, Any], post: Post, worker: Worker, huge: float
) -> None:
    sweep = post()
    cost = {"parameters": huge, "megabytes": huge, "latency": {"pytorch": {"milliseconds": huge}}}
    train_all(worker, sweep, {"alone": [0.2, 0.3]}, seconds=huge, student=cost)
    result = read(client, sweep)["results"][0]
    assert (result["finished"], result["training_seconds"], result["parameters"]) == (2, None, None)
    assert client.get(f"/jobs/{sweep['children'][0]['job']}/report").json()["seconds"] is None
    dry = client.post("/sweeps?dry_run=true", json=order(spec))  # it looks at finished jobs of the same shape
    assert (dry.status_code, dry.json()["estimated_seconds"]) == (200, None)


def test_a_part_is_answered_while_jobs_run(client: TestClient, post: Post, worker: Worker) -> None:
    sweep = post(seeds=[1, 2, 3])
    train_all(worker, sweep, {"alone": [0.2, 0.3, 0.2], "faster": [0.25]})
    assert worker.claim(sweep["children"][4]["job"]).status_code == 200
    answer = read(client, sweep)

    assert (answer["status"], answer["partial"]) == ("running", True)
    arm = answer["results"][1]
    assert (arm["difference"]["pairs"], arm["difference"]["low"], arm["verdict"]["more_seeds"]) == (1, None, 1)
    assert "One pair cannot tell a difference from chance" in answer["answer"][0]
    assert answer["answer"][-1] == "4 of 6 jobs have ended: the verdicts may still change."
    assert answer["children"][4]["status"] == "running"


def test_jobs_that_failed_are_named(client: TestClient, post: Post, worker: Worker) -> None:
    sweep = post(seeds=[1, 2, 3])
    train_all(worker, sweep, {"alone": [0.2, 0.3, 0.2], "faster": [0.25]})
    broken, dropped = (child["job"] for child in sweep["children"][4:])
    worker.claim(broken)
    failure = {"failure_class": "data", "message": "7.png is broken", "remedy": "Mend it."}
    assert worker.finish("failed", failure=failure).status_code == 200
    client.post(f"/jobs/{dropped}/cancel")
    answer = read(client, sweep)

    assert (answer["status"], answer["partial"]) == ("failed", False)
    named = [
        f"a sweep / faster / seed 2 ({broken}) failed (data): 7.png is broken",
        f"a sweep / faster / seed 3 ({dropped}) was cancelled",
    ]
    assert answer["results"][1]["failed"] == named
    assert answer["answer"][-1] == f"Not counted, for they did not end well: {'; '.join(named)}."
    assert answer["children"][4]["failure"]["remedy"] == "Mend it."

    assert client.delete(f"/jobs/{broken}").status_code == 204
    answer = read(client, sweep)
    assert answer["children"][4]["status"] == "deleted"
    assert f"({broken}) was deleted" in answer["answer"][-1]
    assert (answer["status"], answer["jobs"]) == ("cancelled", {"succeeded": 4, "deleted": 1, "cancelled": 1})


def test_the_share_of_the_teachers_gap(client: TestClient, post: Post, spec: dict[str, Any], worker: Worker) -> None:
    teacher = client.post("/jobs", json={"kind": "train", "name": "t", "spec": spec}).json()["id"]
    train(worker, teacher, 0.5)
    base = {**spec, "teacher": {"weights": {"job": teacher}}}
    sweep = post(base=base, arms={"alone": {"distill": None}, "crosskd": {}, "pkd": {"distill": {"pkd": {}}}})
    train_all(worker, sweep, {"alone": [0.20, 0.30]})
    train_all(worker, sweep, {"crosskd": [0.30, 0.40], "pkd": [0.25, 0.33]}, teacher_ap=0.45)
    answer = read(client, sweep)
    assert answer["teacher"] == {"job": None, "status": None, "ap": 0.45}
    assert [arm["gap_closed"] for arm in answer["results"]] == [None, pytest.approx(0.5), pytest.approx(0.2)]
    assert "2 arms are compared" in answer["answer"][2]


def test_a_teacher_that_is_no_better_leaves_no_gap(
    client: TestClient, post: Post, spec: dict[str, Any], worker: Worker
) -> None:
    teacher = client.post("/jobs", json={"kind": "train", "name": "t", "spec": spec}).json()["id"]
    train(worker, teacher, 0.1)
    sweep = post(
        base={**spec, "teacher": {"weights": {"job": teacher}}}, arms={"alone": {"distill": None}, "crosskd": {}}
    )
    train_all(worker, sweep, {"alone": [0.20, 0.30]})
    train_all(worker, sweep, {"crosskd": [0.30, 0.40]}, teacher_ap=0.1)
    answer = read(client, sweep)
    assert answer["results"][1]["gap_closed"] is None
    assert "The teacher (AP 0.100) is no better than alone: there is no gap to close." in answer["answer"]


@pytest.mark.parametrize(("ap", "told"), [(0.004, True), (0.02, False)])
def test_arms_that_have_learnt_nothing_are_not_compared_without_a_word(
    client: TestClient, post: Post, worker: Worker, ap: float, told: bool
) -> None:
    sweep = post()
    train_all(worker, sweep, {arm: [0.0, ap] for arm in read(client, sweep)["arms"]})
    said = "No arm has reached an AP of 0.01: train longer before you compare (`schedule.epochs`)."
    assert (said in read(client, sweep)["answer"]) == told


def test_points_of_a_grid_are_paired_and_told_one_by_one(client: TestClient, post: Post, worker: Worker) -> None:
    sweep = post(seeds=[1, 2], grid={"optimizer.momentum": [0.8, 0.9]})
    # by point, then by seed
    train_all(worker, sweep, {"alone": [0.20, 0.30, 0.40, 0.50], "faster": [0.21, 0.32, 0.43, 0.54]})
    arm = read(client, sweep)["results"][1]
    assert (arm["difference"]["pairs"], arm["difference"]["mean"]) == (4, pytest.approx(0.025))
    assert [point["point"] for point in arm["points"]] == [{"optimizer.momentum": 0.8}, {"optimizer.momentum": 0.9}]
    assert [point["difference"]["mean"] for point in arm["points"]] == pytest.approx([0.015, 0.035])
    assert [point["ap"]["n"] for point in arm["points"]] == [2, 2]
    assert all(point["verdict"]["outcome"] == "not shown" for point in arm["points"])


def test_one_job_of_the_baseline_stands_in_one_pair(
    client: TestClient, post: Post, spec: dict[str, Any], worker: Worker
) -> None:
    """A knob that the baseline has not: its job is compared with the mean over the points, not once with each."""
    teacher = client.post("/jobs", json={"kind": "train", "name": "t", "spec": spec}).json()["id"]
    train(worker, teacher, 0.5)
    sweep = post(
        base={**spec, "teacher": {"weights": {"job": teacher}}},
        arms={"alone": {"distill": None}, "crosskd": {}},
        grid={"distill.crosskd.cls_weight": [1, 2]},
    )
    train_all(worker, sweep, {"alone": [0.20, 0.30], "crosskd": [0.22, 0.31, 0.26]})  # seed 2 of the second point runs
    arm = read(client, sweep)["results"][1]
    assert arm["difference"]["pairs"] == 1
    assert arm["difference"]["mean"] == pytest.approx((0.22 + 0.26) / 2 - 0.20)
    assert arm["difference"]["unpaired"] == 1
    assert [point["difference"]["pairs"] for point in arm["points"]] == [2, 1]


def test_a_retry_that_gets_no_better_is_told_with_the_student_that_it_delivers(
    client: TestClient, post: Post, worker: Worker
) -> None:
    sweep = post(seeds=[1])
    job = sweep["children"][1]["job"]
    worker.claim(job)
    worker.post("evaluations", evaluation("teacher", 0, 0.6))
    worker.post("evaluations", evaluation("student", 10, 0.4, best=True))
    checkpoint(worker, 10)
    worker.post("evaluations", evaluation("student", 20, 0.45, best=True))  # behind the checkpoint: done anew
    worker.finish("failed", failure={"failure_class": "data", "message": "broken"})
    again = client.post(f"/jobs/{job}/retry").json()["id"]
    worker.claim(again)
    worker.post("evaluations", evaluation("student", 20, 0.3))
    worker.finish("succeeded")
    report = client.get(f"/jobs/{again}/report").json()
    assert report["verdict"].startswith("AP 0.400, its teacher 0.600")
    assert [(one["role"], one["step"]) for one in report["detectors"]] == [("teacher", 0), ("student", 10)]
    arm = read(client, sweep)["results"][1]
    assert (arm["ap"]["mean"], arm["ap50"]["mean"], arm["by_class"]["ring"]["mean"]) == (0.4, 0.5, 0.4)


def test_the_mean_of_equal_values_makes_no_difference() -> None:
    """The mean of 0.1, 0.1 and 0.1 is not quite 0.1: an arm that changes nothing would help by that."""

    def child(seed: int, *points: float) -> list[Child]:
        places = [SweepJob(arm="a", seed=seed, point={"k": point} if len(points) > 1 else {}) for point in points]
        return [Child(place, Job(status="succeeded"), Figures(ap=0.1)) for place in places]

    found = arms.pairs([*child(1, 1, 2, 3), *child(2, 1, 2, 3)], [*child(1, 0), *child(2, 0)])
    assert found.differences == [0.0, 0.0]


def test_arms_with_one_seed_are_allowed(client: TestClient, post: Post, worker: Worker) -> None:
    sweep = post(seeds=[0])
    train_all(worker, sweep, {"alone": [0.2], "faster": [0.9]})
    answer = read(client, sweep)
    assert answer["results"][1]["verdict"]["outcome"] == "not shown"
    assert answer["results"][1]["ap"]["standard_error"] is None


def test_sweeps_are_listed_page_by_page(client: TestClient, post: Post, worker: Worker) -> None:
    made = [post(name=f"sweep {n}")["id"] for n in range(3)]
    first = client.get("/sweeps?limit=2").json()
    assert ([one["id"] for one in first["items"]], first["has_more"]) == (made[:0:-1], True)
    rest = client.get(f"/sweeps?limit=2&after={made[1]}").json()
    assert ([one["id"] for one in rest["items"]], rest["has_more"]) == (made[:1], False)
    assert (rest["items"][0]["status"], rest["items"][0]["jobs"]) == ("waiting", {"queued": 4})
    assert rest["items"][0]["verdicts"] == {}
    train_all(worker, read(client, {"id": made[2]}), {"alone": [0.2, 0.21], "faster": [0.31, 0.32]})
    (newest,) = client.get("/sweeps?limit=1").json()["items"]
    assert newest["verdicts"] == read(client, newest)["verdicts"] == {"faster": "helps"}
    assert client.get("/sweeps?after=x").status_code == 422
    for path in (f"/sweeps/{'0' * 32}", "/sweeps/x%00y"):
        assert client.get(path).status_code == 404


def test_sweeps_are_found_as_jobs_are(client: TestClient, post: Post) -> None:
    one, other, third = (post(name=name)["id"] for name in ("a", "b", "a"))
    for query, wanted in {
        "name=a": [third, one],
        "name=A": [],
        f"id={one}": [one],
        f"id={one[:31]}": [one],
        f"id={one[:4]}": [third, other, one],
        f"id={other}&name=a": [],
        f"name=a&after={third}": [one],
        "owner=@me&limit=1": [third],
        "owner=local&name=b": [other],
        "owner=nobody": [],
    }.items():
        assert [sweep["id"] for sweep in client.get(f"/sweeps?{query}").json()["items"]] == wanted, query


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"queued": 2}, "waiting"),
        ({"waiting": 1, "queued": 1}, "waiting"),
        ({"running": 1, "waiting": 3}, "running"),
        ({"succeeded": 1, "queued": 1}, "running"),
        ({"failed": 1, "waiting": 1}, "running"),
        ({"paused": 2, "succeeded": 1}, "paused"),
        ({"paused": 2, "queued": 1}, "waiting"),
        ({"succeeded": 3}, "finished"),
        ({"succeeded": 3, "failed": 1, "cancelled": 1}, "failed"),
        ({"succeeded": 3, "cancelled": 1}, "cancelled"),
        ({"deleted": 2}, "cancelled"),
    ],
)
def test_the_status_follows_from_the_jobs(counts: dict[str, int], status: str) -> None:
    assert status_of(counts) == status


def test_its_report_is_a_page_and_a_job_of_it_stands_beside_the_baseline(
    client: TestClient, post: Post, spec: dict[str, Any], worker: Worker
) -> None:
    teacher = client.post("/jobs", json={"kind": "train", "name": "t", "spec": spec}).json()["id"]
    train(worker, teacher, 0.5)
    sweep = post(
        base={**spec, "teacher": {"weights": {"job": teacher}}}, arms={"alone": {"distill": None}, "crosskd": {}}
    )
    train_all(worker, sweep, {"alone": [0.20, 0.30]})
    train_all(worker, sweep, {"crosskd": [0.30, 0.40]}, teacher_ap=0.5)
    answer = client.get(f"/sweeps/{sweep['id']}/report", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert "crosskd" in answer.text
    assert "sandbox allow-scripts" in answer.headers["content-security-policy"]
    assert client.get(f"/sweeps/{sweep['id']}/report").json() == client.get(f"/sweeps/{sweep['id']}").json()

    second = next(child["job"] for child in sweep["children"] if (child["arm"], child["seed"]) == ("crosskd", 2))
    report = client.get(f"/jobs/{second}/report").json()
    assert [(one["role"], one["metrics"]["AP"]) for one in report["detectors"]] == [
        ("teacher", 0.5),
        ("alone", 0.30),
        ("student", 0.40),
    ]
    assert report["gap_closed"] == pytest.approx(0.5)
    assert f"its sweep compares all of its seeds (GET /sweeps/{sweep['id']}/report" in report["verdict"]
