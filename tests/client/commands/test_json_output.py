"""`--json`: every command has it, and what then stands on standard output is JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image
from typer.core import TyperCommand, TyperGroup

from api import tokens
from client.cli import app
from crosskd import __main__ as core
from tests.support.api_server import Service, digest_of
from tests.support.coco_files import content, write
from tests.support.crosskd_command import run
from tests.support.sources import ROOT
from tests.support.sweeps import ARMS, order, train
from tests.support.tiny_graph import tiny_graph
from tests.support.worker_calls import Worker

# Whose output is looked at where the command itself is tested.
ELSEWHERE = {
    "compare": "tests/client/commands/test_results.py",
    "datasets add": "tests/client/commands/test_datasets.py",
    "datasets list": "tests/client/commands/test_datasets.py",
    "datasets rm": "tests/client/commands/test_datasets.py",
    "datasets show": "tests/client/commands/test_datasets.py",
    "demo": "tests/test_demo.py",
    "doctor": "tests/client/doctor/test_doctor.py",
    "images": "tests/client/commands/test_results.py",
    "init": "tests/client/commands/test_init.py",
    "up": "tests/client/stack/test_up.py",
}
# Their arguments go on as they are: to the core, and to the API's own command.
CORE = ("train", "evaluate", "export", "convert")
PASSED_ON = {*CORE, "token"}

# By command: the arguments. {…} are names of what `world` has made; `queued`, `ended` and so on are made for the one.
ARGUMENTS = {
    "submit": ["{spec}"],
    "jobs": [],
    "show": ["{job}"],
    "watch": ["{job}"],
    "cancel": ["{queued}"],
    "stop": ["{running}"],
    "pause": ["{queued}"],
    "resume": ["{paused}"],
    "retry": ["{cancelled}"],
    "delete": ["{cancelled}"],
    "sweep": ["{sweep_file}"],
    "distill": ["--data", "{data}", "--dry-run"],
    "sweeps": [],
    "sweeps show": ["{sweep}"],
    "sweeps watch": ["{sweep}"],
    "sweeps cancel": ["{sweep_begun}"],
    "sweeps pause": ["{sweep_begun}"],
    "sweeps resume": ["{sweep_paused}"],
    "sweeps retry": ["{sweep_cancelled}"],
    "sweeps delete": ["{sweep_cancelled}"],
    "metrics": ["{job}"],
    "logs": ["{job}"],
    "evaluations": ["{job}"],
    "artifacts": ["{job}"],
    "download": ["{job}", "-o", "{folder}"],
    "presets": [],
    "audit": [],
    "predict": ["{predictor}", "{image}", "-o", "{folder}"],
    "report": ["{job}", "-o", "{folder}/report.html"],
    "chart": ["{job}", "loss", "-o", "{folder}/loss.json"],
    "data demo": ["{folder}/drawn"],
    "import": ["{data}", "--to", "{folder}/imported"],
    "datasets compare": ["{imported}", "{imported}"],
    "datasets page": ["{imported}", "-o", "{folder}/page.html"],
}
LINES = {"logs", "audit"}  # a line of JSON for each thing: they may go on for long


def commands(group: Any, before: str = "") -> Iterator[tuple[str, TyperCommand]]:
    """Every command of the parser by its words; a group that does something by itself is one too."""
    for name, command in group.commands.items():
        words = f"{before}{name}"
        if isinstance(command, TyperGroup):
            if command.invoke_without_command:
                yield words, command
            yield from commands(command, f"{words} ")
        else:
            yield words, command


COMMANDS = dict(commands(typer.main.get_command(app)))


def lacking(found: dict[str, Any]) -> list[str]:
    """Those that have no `--json`."""
    return [name for name, command in found.items() if not any("--json" in param.opts for param in command.params)]


def test_every_command_has_it() -> None:
    assert [name for name in lacking(COMMANDS) if name not in PASSED_ON] == []
    assert lacking({name: typer.main.get_command(core.app).commands[name] for name in CORE}) == []  # type: ignore[attr-defined]
    verbs = next(action.choices for action in tokens._parser()._actions if action.choices)
    assert [name for name, verb in verbs.items() if "--json" not in verb.format_help()] == []


def test_one_without_it_would_be_found() -> None:
    other = typer.Typer()
    other.command("new")(lambda: None)
    other.command("newer")(lambda: None)
    assert lacking(dict(commands(typer.main.get_command(other)))) == ["new", "newer"]


def test_of_every_command_the_output_is_looked_at() -> None:
    assert COMMANDS.keys() - PASSED_ON == ARGUMENTS.keys() | ELSEWHERE.keys()
    for name, file in ELSEWHERE.items():
        text = (ROOT / file).read_text()
        assert "--json" in text or "as_json" in text, f"{name} is to be tested in {file}"


@pytest.fixture(scope="module")
def world(service: Service, home: Path) -> dict[str, str]:
    """A job and a sweep that have ended, and files."""
    folder = home / "files"
    folder.mkdir()
    for split in ("train", "val"):
        write(home / "data" / "set", content(), name=f"{split}.json")
    Image.new("RGB", (40, 20)).save(folder / "a.png")
    (folder / "spec.yaml").write_text(yaml.safe_dump(service.spec))
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"base": service.spec, "arms": ARMS, "seeds": [1]}))
    job, predictor = service.succeeded("of json", b"weights"), service.post("of a graph")
    worker, graph = service.claimed(predictor), tiny_graph()
    assert worker.put("model.onnx?kind=onnx", graph, **digest_of(graph)).is_success
    assert worker.finish("succeeded").is_success
    with service.client() as client:
        sweep = client.sweeps.create(order(service.spec))
        for child in sweep.children:
            train(Worker(service.http), child.job, 0.2)  # type: ignore[arg-type]  # any client of httpx will do
    files = {"spec": folder / "spec.yaml", "sweep_file": folder / "sweep.yaml", "image": folder / "a.png"}
    known = {
        "job": job,
        "predictor": predictor,
        "sweep": sweep.id,
        "data": home / "data" / "set",
        "folder": folder,
        **files,
    }
    done = run(service, "import", str(known["data"]), "--to", str(folder / "before"))
    assert done.returncode == 0, done.stderr
    return {name: str(value) for name, value in known.items()} | {"imported": str(folder / "before")}


def made(service: Service, what: str) -> str:
    """A job or a sweep in this state, for one command to change."""
    with service.client() as client:
        if what.startswith("sweep_"):
            sweep = client.sweeps.create(order(service.spec))
            act = {"sweep_cancelled": client.sweeps.cancel, "sweep_paused": client.sweeps.pause}.get(what)
            return sweep.id if act is None else act(sweep.id).id
        job = service.post(what)
        if what == "running":
            service.claimed(job)
        elif what != "queued":
            {"paused": client.jobs.pause, "cancelled": client.jobs.cancel}[what](job)
        return job


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_it_prints_is_json(
    name: str, service: Service, world: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.demo.IMAGES", 2)
    monkeypatch.setattr("client.demo.VAL_IMAGES", 1)
    arguments = [_filled(text, service, world) for text in ARGUMENTS[name]]
    done = run(service, *name.split(), *arguments, "--json")
    assert done.returncode == 0, done.stderr
    texts = done.stdout.splitlines() if name in LINES else [done.stdout]
    told = [json.loads(text) for text in texts]
    if name in ("download", "report", "chart", "data demo", "datasets page"):
        assert Path(told[0]["path"]).exists()


def _filled(text: str, service: Service, world: dict[str, str]) -> str:
    name = text[1:-1]
    return made(service, name) if text == f"{{{name}}}" and name not in world else text.format(**world)
