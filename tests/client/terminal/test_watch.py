from __future__ import annotations

import io
import threading
from collections.abc import Collection

import pytest
from rich.console import Console

from client.terminal.watch import best, clock, describe, follow
from tests.support.api_server import Service
from tests.support.waiting import until
from wire.jobs import Job, Progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (61, "1:01"), (3599.9, "1:00:00"), (3725, "1:02:05")],
)
def test_the_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("kind", "ap", "said"),
    [
        ("train", 0.25, "best AP 0.250"),
        ("evaluate", 0.25, "AP 0.250"),
        ("distill", -1.0, "best AP -"),
        ("train", None, None),
    ],
)
def test_the_best_ap_of_a_training_is_called_so(kind: str, ap: float | None, said: str | None) -> None:
    assert best(Job.model_construct(kind=kind, best_ap=ap)) == said


def test_a_job_in_a_few_words(service: Service) -> None:
    job = service.post("described")
    with service.client() as client:
        assert describe(client.jobs.get(job)) == "queued"
        worker = service.claimed(job)
        progress = Progress(phase="training", step=120, total_steps=300, loss=1.2345, eta_seconds=42.0)
        assert worker.post("metrics", {"sequence": 0, "progress": progress.model_dump()}).is_success
        assert describe(client.jobs.get(job)) == "training · step 120/300 · loss 1.234 · ETA 0:42"
        assert worker.finish("released").is_success
        again = describe(client.jobs.get(job))
    assert again.startswith("queued · ")  # and why
    assert len(again) > len("queued · ")


def test_a_waiting_job_says_for_what() -> None:
    why = "it waits for the weights of job 1a (running, epoch 3 of 12)"
    job = Job.model_construct(status="waiting", waiting=why, progress=None, attempts=[], best_ap=None, kind="train")
    assert describe(job) == f"waiting · {why}"


def play(service: Service, job: str, screen: io.StringIO, seen: Collection[int]) -> None:
    """A worker that reports three steps and succeeds. Behind each step of `seen` it waits until the screen shows it."""
    worker = service.claimed(job)
    for step in (1, 2, 3):
        progress = {
            "phase": "training",
            "step": step,
            "total_steps": 3,
            "epoch": 0.5,
            "loss": 1 / step,
            "eta_seconds": 5,
        }
        assert worker.post("metrics", {"sequence": step, "progress": progress}).is_success
        if step in seen:
            until(lambda figure=f"loss {1 / step:.3f}": figure in screen.getvalue())  # type: ignore[misc]
    assert worker.finish("succeeded").is_success


def shown(service: Service, console: Console, name: str, seen: Collection[int]) -> str:
    assert isinstance(console.file, io.StringIO)
    job = service.post(name)
    worker = threading.Thread(target=play, args=(service, job, console.file, seen))
    worker.start()
    with service.client() as client:
        ended = follow(client, job, console, interval=0.05, timeout=60)
    worker.join()
    assert ended.status == "succeeded"
    return console.file.getvalue()


def test_plain_lines_where_there_is_no_terminal(service: Service) -> None:
    # Of one phase there is a line every ten seconds: the later steps are told by none.
    lines = shown(service, Console(file=io.StringIO(), width=200), "plain", {1}).splitlines()
    assert lines[0].startswith("plain: ")
    assert lines[-1] == "plain: succeeded"
    assert any("training · step 1/3 · loss 1.000 · ETA 0:05" in line for line in lines)
    assert len(lines) < 8  # a line for each change of state, not for each poll
    assert "\x1b" not in "".join(lines)


def test_a_live_bar_on_a_terminal(service: Service) -> None:
    text = shown(service, Console(file=io.StringIO(), width=120, force_terminal=True), "live", {1, 2, 3})
    assert "\x1b" in text
    assert "loss 0.333" in text
    assert "100%" in text


def test_a_name_is_no_markup_on_a_live_bar(service: Service) -> None:
    """`[/x]` closes what nobody has opened: watching ended with a traceback."""
    screen = Console(file=io.StringIO(), width=200, force_terminal=True)
    assert "[/x]\\x1b]0;X" in shown(service, screen, "[/x]\x1b]0;X", set())
