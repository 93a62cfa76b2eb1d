"""The command as a person runs it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from client.stack.home import Home
from client.stack.services import HOST, free_port
from tests.support.api_server import Service
from tests.support.crosskd_command import run, run_process

WEIGHTS = b"weights" * 1000


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    return service.succeeded("finished", WEIGHTS)


@pytest.fixture
def spec_file(service: Service, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(service.spec))
    return path


def test_submit_posts_a_file_and_prints_the_id(service: Service, spec_file: Path) -> None:
    done = run(service, "submit", str(spec_file), "--label", "a=b", "--set", "schedule.epochs=3", "--priority", "7")
    assert done.returncode == 0, done.stderr
    with service.client() as client:
        job = client.jobs.get(done.stdout.strip())
    assert (job.name, job.labels, job.spec["schedule"]["epochs"], job.priority) == ("small", {"a": "b"}, 3, 7)


def test_submit_posts_a_preset_on_a_data_folder(service: Service, home: Path, finished: str) -> None:
    data = home / "data"
    for split in ("train", "val"):
        (data / f"{split}.json").write_text((data / "instances.json").read_text())
    options = ("--data", str(data), "--name", "mine", "--set", "student.strides=[8, 16, 32, 64, 128]")
    done = run(service, "submit", "demo_student", *options)
    assert done.returncode == 0, done.stderr
    with service.client() as client:
        job = client.jobs.get(done.stdout.strip())
    assert job.name == "mine"
    assert job.spec["data"]["val"] == {"annotations": str(data / "val.json"), "images": str(data / "images")}
    assert job.spec["student"]["strides"] == [8, 16, 32, 64, 128]


def test_submit_begins_with_a_former_job(service: Service, spec_file: Path, finished: str) -> None:
    options = ("--name", "the former", "--label", "team=a", "--priority", "7", "--teacher-job", finished)
    done = run(service, "submit", str(spec_file), *options)
    assert done.returncode == 0, done.stderr
    changes = ("--set", "schedule.epochs=7", "--set", "ema={decay: 0.5}", "--label", "try=2")
    with service.client() as client:
        former = client.jobs.get(done.stdout.strip())
        assert former.kind == "distill"

        done = run(service, "submit", "--like", "the former", *changes)
        assert done.returncode == 0, done.stderr
        job = client.jobs.get(done.stdout.strip())
        assert (job.kind, job.name, job.priority, job.labels) == ("distill", former.name, 7, {"team": "a", "try": "2"})
        changed = {"schedule": former.spec["schedule"] | {"epochs": 7}, "ema": {"decay": 0.5, "warmup": True}}
        assert job.spec == former.spec | changed
        assert (job.retried_from, job.status) == (None, "queued")

        alone = ("--set", "teacher=null", "--set", "distill=null", "--name", "alone", "--priority", "2", "--dry-run")
        done = run(service, "submit", "--like", former.id[:31], *alone)
        assert done.returncode == 0, done.stderr
        told = yaml.safe_load(done.stdout)
        assert (told["kind"], told["name"], told["priority"]) == ("train", "alone", 2)
        assert told["spec"] == former.spec | {"teacher": None, "distill": None}

    done = run(service, "submit", "--like", former.id, "--set", "schedul.epochs=7")
    assert done.returncode == 1
    assert "/spec/schedul: " in done.stderr
    assert "Did you mean `schedule`?" in done.stderr


def test_submit_names_every_fault_on_a_line_of_its_own(service: Service, spec_file: Path) -> None:
    wrong = ("batch_size=0", "seed=-1", "student.backbone.name=os.system", "nonsense=1")
    done = run(service, "submit", str(spec_file), *(text for value in wrong for text in ("--set", value)))
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("422 ")
    for pointer in ("/spec/batch_size: ", "/spec/seed: ", "/spec/student/backbone/name: ", "/spec/nonsense: "):
        assert sum(line.startswith(pointer) for line in lines) == 1, lines
    assert "resnet18" in done.stderr  # the names that there are


def test_a_distil_job_names_its_teacher(service: Service, spec_file: Path) -> None:
    unknown = run(service, "submit", str(spec_file), "--teacher-job", "0" * 32)
    assert unknown.returncode == 1
    assert "/spec/teacher/weights/job: " in unknown.stderr
    both = run(service, "submit", str(spec_file), "--teacher-job", "x", "--teacher-file", "y")
    assert both.returncode == 2


def test_weights_are_evaluated_and_exported(service: Service, home: Path, finished: str) -> None:
    done = run(service, "submit", "export", "--weights-job", finished, "--name", "graph", "--set", "check_images=2")
    assert done.returncode == 0, done.stderr
    with service.client() as client:
        job = client.jobs.get(done.stdout.strip())
    assert (job.kind, job.name, job.spec["check_images"]) == ("export", "graph", 2)
    assert job.spec["images"] == str(home / "data" / "images")  # those of the job that made the weights

    data = home / "data"
    for split in ("train", "val"):
        (data / f"{split}.json").write_text((data / "instances.json").read_text())
    done = run(service, "submit", "evaluate", "--weights-job", finished, "--data", str(data), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["spec"]["data"]["val"]["annotations"] == str(data / "val.json")
    both = run(service, "submit", "evaluate", "--weights-job", "x", "--weights-file", "y")
    assert both.returncode == 2


def test_a_dry_run_prints_a_spec_that_can_be_submitted(service: Service, spec_file: Path, tmp_path: Path) -> None:
    done = run(service, "submit", str(spec_file), "--dry-run")
    assert done.returncode == 0, done.stderr
    again = tmp_path / "resolved.yaml"
    again.write_text(done.stdout)
    assert yaml.safe_load(done.stdout)["spec"]["optimizer"]["name"] == "sgd"
    assert yaml.safe_load(run(service, "submit", str(again), "--dry-run").stdout) == yaml.safe_load(done.stdout)
    as_json = run(service, "submit", str(spec_file), "--dry-run", "--json")
    assert json.loads(as_json.stdout) == yaml.safe_load(done.stdout)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_submit_tells_what_is_left_out_of_the_data(service: Service, spec_file: Path, more: list[str]) -> None:
    done = run(service, "submit", str(spec_file), "--set", "data.classes=[ring]", *more)
    assert done.returncode == 0, done.stderr
    warning = "warning: instances.json: 1 of 2 boxes are of categories that are not learnt and are left out."
    assert done.stderr.count(warning) == 2  # in training and in validation
    assert "warning" not in done.stdout


def test_watch_ends_as_the_job_did(service: Service, finished: str) -> None:
    done = run(service, "watch", finished)
    assert done.returncode == 0, done.stderr
    assert f"{finished}: succeeded" in done.stdout

    failing = service.post("failing")
    failure = {"failure_class": "data", "message": "image 7 is broken", "where": "7.png", "remedy": "Mend it."}
    assert service.claimed(failing).finish("failed", failure=failure).is_success
    done = run(service, "watch", failing)
    assert done.returncode == 1
    assert f"{failing}: failed" in done.stdout
    assert done.stderr.splitlines() == ["failed (data): image 7 is broken (at 7.png)", "  what to do: Mend it."]


def test_jobs_and_show_tell_what_there_is(service: Service, finished: str) -> None:
    listed = run(service, "jobs", "--status", "succeeded")
    assert finished in listed.stdout  # ids are never cut, however narrow the terminal
    assert "0.250" in listed.stdout
    data = json.loads(run(service, "jobs", "--status", "succeeded", "--json").stdout)
    assert finished in {job["id"] for job in data}
    found = json.loads(run(service, "jobs", "--search", "INISHE", "--json").stdout)
    assert finished in {job["id"] for job in found}
    assert {job["name"] for job in found} == {"finished"}
    shown = run(service, "show", finished).stdout
    assert "attempt 1: succeeded on w1 cpu" in shown
    assert json.loads(run(service, "show", finished, "--json").stdout)["id"] == finished


def test_a_job_is_called_by_the_beginning_of_its_id_by_its_name_or_last(service: Service) -> None:
    job = service.post("so called")
    for reference in (job[:31], "so called", "@last"):
        assert run(service, "show", reference).stdout.startswith(job), reference
    wrong = run(service, "show", "so caled")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("404 Not Found: there is no job whose id begins with 'so caled'")
    assert "Near are 'so called'" in wrong.stderr
    assert run(service, "cancel", "so called").stdout == f"{job}: cancelled\n"
    again = service.post("so called")
    ambiguous = run(service, "logs", "so called")
    assert ambiguous.returncode == 1
    head, *rows = ambiguous.stderr.splitlines()
    assert head == "2 jobs are called 'so called'. Give more of an id, or all of it."
    assert [row.split()[0] for row in rows] == [again, job]
    assert run(service, "delete", job[:31]).stdout == f"{job}: deleted\n"
    assert run(service, "cancel", "@last").stdout == f"{again}: cancelled\n"


def test_weights_are_named_by_a_job_s_name_too(service: Service, spec_file: Path, finished: str) -> None:
    done = run(service, "submit", str(spec_file), "--teacher-job", finished[:31], "--dry-run")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["spec"]["teacher"]["weights"]["job"] == finished
    wrong = run(service, "submit", str(spec_file), "--set", "teacher={weights: {job: no such job}}")
    assert wrong.stderr.startswith("404 Not Found: there is no job whose id begins with 'no such job'")


def test_text_from_outside_is_shown_and_never_obeyed(service: Service) -> None:
    """An escape would clear the screen or set its title, a newline forge a row, `[/x]` end rich's markup."""
    hostile = "\x1b[2J\x1b]0;X\x07 \x9b31m[/x]\u202e\nforged  row"
    job = service.post(hostile)
    worker = service.claimed(job)
    at = "2026-01-01T00:00:00Z"
    line = {"at": at, "level": "error", "text": hostile}
    assert worker.post("logs", {"sequence": 0, "lines": [line]}).is_success
    failure = {"failure_class": "data", "message": hostile, "where": hostile, "remedy": hostile, "log_tail": [hostile]}
    assert worker.post("finish", {"outcome": "failed", "failure": failure}).is_success
    for arguments in (
        ("jobs",),
        ("show", job),
        ("show", job, "--json"),
        ("logs", job),
        ("watch", job),
        ("jobs", "--json"),
    ):
        done = run(service, *arguments)
        assert "Traceback" not in done.stderr
        text = (done.stdout + done.stderr).replace("\n", "")
        assert [char for char in text if not char.isprintable()] == []
        assert not any(line.startswith("forged") for line in done.stdout.splitlines())
        assert "forged" in text
    refused = run(service, "cancel", hostile)
    assert [char for char in refused.stderr.replace("\n", "") if not char.isprintable()] == []


def test_a_running_job_says_what_it_is_asked(service: Service) -> None:
    job = service.post("at work")
    service.claimed(job)
    assert run(service, "pause", job).stdout == f"{job}: running, asked to pause\n"
    assert run(service, "cancel", job).stdout.startswith(f"{job}: running, asked to cancel")


def test_cancel_and_its_refusal(service: Service, finished: str) -> None:
    job = service.post("unwanted")
    done = run_process(service, "cancel", job)
    assert (done.returncode, done.stdout) == (0, f"{job}: cancelled\n")
    done = run_process(service, "cancel", finished)
    assert done.returncode == 1
    assert done.stderr.startswith("409 ")


def test_a_job_is_paused_resumed_retried_and_deleted(service: Service) -> None:
    job = service.post("long")
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        done = run(service, verb, job)
        assert (done.returncode, done.stdout) == (0, f"{job}: {status}\n")
    done = run(service, "stop", job)
    assert done.returncode == 1
    assert done.stderr == "409 Conflict: the job was cancelled. Possible now: retry, delete.\n"
    again = run(service, "retry", job)
    assert again.returncode == 0
    with service.client() as client:
        assert client.jobs.get(again.stdout.strip()).retried_from == job
        client.jobs.cancel(again.stdout.strip())
    done = run(service, "delete", job)
    assert (done.returncode, done.stdout) == (0, f"{job}: deleted\n")
    assert run(service, "show", job).stderr.startswith("404 ")


def test_presets_are_listed_and_printed(service: Service) -> None:
    assert "gfl_r18_r50" in run(service, "presets").stdout
    printed = yaml.safe_load(run(service, "presets", "gfl_r18_r50").stdout)
    assert printed["spec"]["student"]["backbone"]["name"] == "resnet18"
    unknown = run(service, "presets", "nope")
    assert unknown.returncode == 1
    assert "gfl_r18_r50" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["submit", "gone.yaml"], 1),
        (["submit", "no_such_preset"], 1),
        (["show", "nope"], 1),
        (["submit"], 2),
        (["submit", "demo_student", "--like", "x"], 2),
        (["submit", "--like", "nope"], 1),
        (["show"], 2),
        (["metrics", "x", "--since-step", "-1"], 2),
        (["jobs", "--label", "novalue"], 1),
        (["jobs", "--status", "nonsense"], 1),
        (["frobnicate"], 2),
        (["up", "--port", "70000"], 2),
        (["--help"], 0),
        (["submit", "--help"], 0),
    ],
)
def test_exit_codes(service: Service, arguments: list[str], status: int) -> None:
    done = run(service, *arguments)
    assert done.returncode == status, done.stderr
    assert (done.stderr == "") == (status == 0)


def test_no_service_is_said_in_one_line(tmp_path: Path) -> None:
    done = run(f"http://{HOST}:{free_port(0)}", "jobs", home=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "crosskd up" in done.stderr


def test_a_token_file_that_is_none_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSKD_TOKEN_FILE", str(tmp_path / "none"))
    done = run("http://nowhere", "jobs")
    said = "CROSSKD_TOKEN: the file that CROSSKD_TOKEN_FILE names cannot be read (No such file or directory)"
    assert (done.returncode, done.stderr.startswith(said), done.stderr.count("\n")) == (1, True, 1), done.stderr


def test_the_address_of_a_running_stack_is_read_from_its_home(service: Service, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lock()
    home.announce(service.url)
    assert run("", "presets", home=tmp_path).returncode == 0
    home.unlock()


def test_a_reader_that_leaves_early_is_no_error(service: Service) -> None:
    command = f"{sys.executable} -m client.cli presets --url {service.url} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_cores_own_verbs_are_verbs_here(service: Service) -> None:
    done = run_process(service, "train", "no_such_recipe", "--workdir", "/nowhere")
    assert done.returncode == 2
    assert "no_such_recipe" in done.stderr
    done = run_process(service, "evaluate", "--help")
    assert done.returncode == 0
    assert "--annotations" in done.stdout
    done = run_process(service, "convert", "gone.pth", "out.safetensors", "--to", "native")
    assert done.returncode == 1
    assert "there is no file gone.pth" in done.stderr
