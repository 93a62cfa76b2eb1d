"""`crosskd sweep`, `sweeps` and `distill` against the real API over a real socket; the test plays the worker."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from client import sweeps as orders
from client.commands import jobs, sweeps
from client.errors import ClientError
from client.terminal.sweep_tables import results_tables
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from tests.support.sweeps import ARMS, order, train
from tests.support.worker_calls import Worker

PRESET: dict[str, Any] = {"student": {"backbone": {"name": "resnet_tiny"}}, "distill": {"crosskd": {"cls_weight": 2.0}}}


def preset(name: str) -> dict[str, Any]:
    return {"kind": "distill", "spec": {**PRESET, "teacher": {"model": {"name": name}}}}


def distillation(teacher: str = "teacher", **changes: Any) -> dict[str, Any]:
    known = {"name": "n", "student": "student", "data": None, "arms": ["crosskd"], "seeds": 2}
    return orders.distillation(preset, teacher=teacher, **known | changes)


@pytest.fixture
def data(home: Path) -> Path:
    folder = home / "data"
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text((folder / "instances.json").read_text())
    return folder


@pytest.fixture
def file(service: Service, tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(service.spec))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "arms": ARMS, "seeds": [1, 2]}))
    return path


def made(service: Service, **changes: Any) -> str:
    with service.client() as client:
        return client.sweeps.create(order(service.spec, **changes)).id


def finish(service: Service, sweep: str, aps: list[float]) -> None:
    with service.client() as client:
        jobs = [child.job for child in client.sweeps.get(sweep).children]
    for job, ap in zip(jobs, aps, strict=True):
        train(Worker(service.http), job, ap)  # type: ignore[arg-type]  # any client of httpx will do


def test_a_file_is_posted_and_its_answer_shown(service: Service, file: Path) -> None:
    done = run(service, "sweep", str(file), "--set", "schedule.epochs=3")
    assert done.returncode == 0, done.stderr
    sweep = done.stdout.strip()
    with service.client() as client:
        found = client.sweeps.get(sweep)
        assert (found.name, found.seeds, found.spec["base"]["schedule"]) == ("mine", [1, 2], {"epochs": 3})
    finish(service, sweep, [0.20, 0.25, 0.30, 0.35])

    watched = run(service, "sweeps", "watch", sweep)
    assert watched.returncode == 0, watched.stderr
    assert "mine: finished · 4 of 4 jobs ended" in watched.stdout
    assert "faster helps: 10.00 AP points above alone" in watched.stdout
    assert watched.stdout.rstrip().endswith(f"The report: {service.url}/sweeps/{sweep}/report")
    shown = run(service, "sweeps", "show", sweep).stdout
    assert "0.325 ± 0.025" in shown
    assert found.children[0].job in shown
    assert json.loads(run(service, "sweeps", "show", sweep, "--json").stdout)["status"] == "finished"
    listed = run(service, "sweeps").stdout
    assert next(line for line in listed.splitlines() if sweep in line).split()[1:4] == ["mine", "finished", "4/4"]
    assert run(service, "sweeps", "delete", sweep).stdout == f"{sweep}: deleted\n"


def test_a_narrow_terminal_gets_the_figures_in_two_tables(service: Service) -> None:
    sweep = made(service)
    finish(service, sweep, [0.20, 0.25, 0.30, 0.35])
    with service.client() as client:
        found = client.sweeps.get(sweep)
    assert len(results_tables(found)) == len(results_tables(found, 200)) == 1
    narrow = results_tables(found, 80)
    assert [len(table.columns) for table in narrow] == [6, 5]
    out = io.StringIO()
    for table in narrow:
        Console(file=out, width=80).print(table)
    for word in ("faster", "difference", "95 % interval", "ms/image", "0.325 ± 0.025"):
        assert word in out.getvalue()


@pytest.mark.parametrize(("command", "verb"), [(sweeps, "crosskd sweeps"), (jobs, "crosskd")])
def test_after_ctrl_c_one_is_told_that_it_goes_on(
    command: Any, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.terminal.sweep_watch.follow", interrupted)
    monkeypatch.setattr("client.commands.jobs.follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command._follow(None, "01a2", as_json=False)
    told = capsys.readouterr().err
    assert f"`{verb} watch 01a2` follows it again, `{verb} cancel 01a2` ends it." in told


def test_a_dry_run_lists_the_jobs(service: Service, file: Path) -> None:
    before = run(service, "sweeps").stdout
    done = run(service, "sweep", str(file), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "mine: 4 jobs (alone: 2, faster: 2)" in done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        [arm, str(seed), "train"] for arm in ARMS for seed in (1, 2)
    ]
    assert run(service, "sweeps").stdout == before


def test_faults_stand_at_their_arm(service: Service, file: Path) -> None:
    file.write_text(yaml.safe_dump({"base": "base.yaml", "arms": {"alone": {}, "x": {"foo": 1}}, "seeds": [1, 1]}))
    done = run(service, "sweep", str(file))
    assert done.returncode == 1
    assert "/arms/x/foo: " in done.stderr
    assert "/seeds/1: seed 1 is given twice" in done.stderr


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "base: nowhere.yaml\n", "base: {a: 2001-01-01}\n"])
def test_a_file_that_is_no_sweep_is_told(service: Service, tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    done = run(service, "sweep", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_a_sweep_is_steered_by_whatever_it_may_be_called(service: Service) -> None:
    sweep = made(service, name="to steer")
    assert run(service, "sweeps", "pause", sweep).stdout == f"{sweep}: paused (4 paused)\n"
    assert run(service, "sweeps", "resume", sweep[:31]).stdout == f"{sweep}: waiting (4 queued)\n"
    assert run(service, "sweeps", "cancel", "to steer").stdout == f"{sweep}: cancelled (4 cancelled)\n"
    watched = run(service, "sweeps", "watch", "@last")
    assert watched.returncode == 1
    assert f"/sweeps/{sweep}/report" in watched.stdout
    assert run(service, "sweeps", "retry", "@last").stdout == f"{sweep}: waiting (4 queued)\n"
    unknown = run(service, "sweeps", "show", "to stear")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("404 Not Found: there is no sweep whose id begins with 'to stear'")
    assert "Near are 'to steer'" in unknown.stderr
    again = made(service, name="to steer")
    head, *rows = run(service, "sweeps", "delete", "to steer").stderr.splitlines()
    assert head == "2 sweeps are called 'to steer'. Give more of an id, or all of it."
    assert [row.split()[0] for row in rows] == [again, sweep]
    for which in (sweep[:31], again):
        run(service, "sweeps", "cancel", which)
    assert run(service, "sweeps", "delete", again[:31]).stdout == f"{again}: deleted\n"


def test_text_from_outside_is_shown_and_not_obeyed(service: Service) -> None:
    sweep = made(service, name="red \x1b[31m", arms={"alone": {}}, seeds=[0])
    with service.client() as client:
        job = client.sweeps.get(sweep).children[0].job
    failure = {"failure_class": "user", "message": "clear \x1b[2J"}
    assert service.claimed(job).finish("failed", failure=failure).is_success
    for command in (("sweeps",), ("sweeps", "show", sweep), ("sweeps", "watch", sweep)):
        shown = run(service, *command).stdout
        assert "\x1b" not in shown
        assert r"red \x1b[31m" in shown


def test_distill_asks_for_a_teacher_a_student_alone_and_the_arms(service: Service, data: Path) -> None:
    options = ("--data", str(data), "--seeds", "2", "--epochs", "1", "--arm", "crosskd", "--arm", "pkd")
    done = run(service, "distill", *options, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "5 jobs" not in done.stderr
    assert "distill data: 7 jobs (teacher: 1, alone: 2, crosskd: 2, pkd: 2)" in done.stderr
    wrong = run(service, "distill", "--data", str(data / "nowhere"))
    assert wrong.returncode == 1
    assert "there is no data folder" in wrong.stderr
    unknown = run(service, "distill", "--data", str(data), "--arm", "magic")
    assert "There is no method 'magic'" in unknown.stderr
    alone = run(service, "distill", "--data", str(data), "--arm", "alone")
    assert alone.stderr.startswith("The arm 'alone' has nothing to be compared with. It is trained in any case: ")


def test_arms_keep_what_the_student_says_of_their_terms() -> None:
    found = distillation(arms=["alone", "crosskd", "pkd", "crosskd+pkd"], epochs=3, teacher_epochs=5)
    assert found["arms"] == {
        "alone": {"distill": None},
        "crosskd": {"distill": {"crosskd": {}}},
        "pkd": {"distill": {"crosskd": None, "pkd": {}}},
        "crosskd+pkd": {"distill": {"crosskd": {}, "pkd": {}}},
    }
    assert found["seeds"] == [0, 1]
    assert (found["base"]["schedule"], found["teacher"]["schedule"]) == ({"epochs": 3}, {"epochs": 5})
    assert "teacher" not in found["base"]
    assert "schedule" not in PRESET


@pytest.mark.parametrize(
    ("teacher", "weights"),
    [("0" * 32, {"job": "0" * 32}), ("/data/best.safetensors", {"file": "/data/best.safetensors"})],
)
def test_a_teacher_that_is_there_is_not_trained(teacher: str, weights: dict[str, str]) -> None:
    found = distillation(teacher)
    assert found["base"]["teacher"] == {"weights": weights}
    assert "teacher" not in found


def test_weights_that_are_not_there_are_said_to_be_missing() -> None:
    with pytest.raises(ClientError, match=r"There is no file 'gone.pth' in /.*Name one that is there"):
        distillation("gone.pth")


def test_an_arm_without_a_method_is_refused() -> None:
    with pytest.raises(ClientError, match="no method"):
        distillation(arms=["crosskd+"])
