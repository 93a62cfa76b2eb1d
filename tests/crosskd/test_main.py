"""`python -m crosskd`: the commands as a user types them, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from crosskd.__main__ import app
from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Callbacks, Run
from crosskd.engine.checkpoint import list_checkpoints
from crosskd.errors import Interrupted
from crosskd.runs.evaluate import Evaluated, evaluate, evaluate_weights
from crosskd.spec.config import EvaluateConfig
from crosskd.weights.files import File
from crosskd.weights.native import write_weights
from report.matches import read_matches
from report.weighted_ap import average_precision
from tests.support import small
from tests.support.ranks import end_of

# A training on GPUs that ends with an error: it leaves its group behind, whose clean-up waits for the others.
ABANDONING = """
import atexit, runpy, time
import torch.distributed as dist
import crosskd.runs.train
from crosskd.errors import DataError

def fail(*_, **__):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    atexit.register(time.sleep, 300)
    raise DataError("an image is broken")

crosskd.runs.train.train = fail
runpy.run_module("crosskd", run_name="__main__")
"""
RECIPE = {
    "student": {
        "backbone": {"name": "resnet_tiny", "width": 8},
        "neck": {"channels": 16},
        "head": {"channels": 16, "depth": 2, "norm_groups": 4, "reg_max": 8},
        "strides": [8, 16, 32],
    },
    "augment": {"short_edges": [64], "long_edge": 64},
    "loader": {"workers": 0},
    "batch_size": 4,
    "optimizer": {"name": "adamw", "lr": 0.002, "base_batch": None},
    "schedule": {"epochs": 2, "warmup_steps": 2},
    "threads": 1,
    "log_every": 1,
    "export": None,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder, train=12, val=6, size=64, classes=3, seed=1)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(result: Result, code: int) -> str:
    """What was said, once it is clear that it was no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_train_then_evaluate(data: Path, recipe: Path, tmp_path: Path) -> None:
    result = invoke("train", recipe, "--workdir", tmp_path / "run", "--data", data)
    assert result.exit_code == 0, result.output
    assert "student after step 6: AP " in result.output
    weights = tmp_path / "run" / "best.safetensors"
    result = invoke(
        "evaluate", weights, "--annotations", data / "val.json", "--images", data / "images",
        "--set", "augment.short_edges=[64]", "--set", "augment.long_edge=64", "--set", "loader.workers=0",
        "--set", "evaluation.as_is=true",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for row in ("AP50", "AP of A", "ms per image", "detections an image", "100 at most", "as they stand in the file"):
        assert row in result.output


def test_images_may_be_links_into_a_folder_that_is_named(data: Path, recipe: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    (linked / "images").mkdir(parents=True)
    for split in ("train", "val"):
        (linked / f"{split}.json").write_text((data / f"{split}.json").read_text())
    for image in (data / "images").iterdir():
        (linked / "images" / image.name).symlink_to(image)
    options = ("train", recipe, "--workdir", tmp_path / "run", "--data", linked)
    said = failed(invoke(*options), 1)
    assert "12 of 12 images are links that lead out of the data" in said
    assert "--data-root" in said
    result = invoke(*options, "--data-root", data)
    assert result.exit_code == 0, result.output


def test_evaluate_takes_the_scale_of_the_training_and_what_the_user_says_before_it(
    data: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 pixels in training, 800 by default."""
    small = ("--set", "augment.val_short_edge=48", "--set", "schedule.max_steps=1")
    told = invoke("train", recipe, "--workdir", tmp_path / "run", "--data", data, *small, "--json")
    assert json.loads(told.stdout)["best_weights"] == str(tmp_path / "run" / "best.safetensors")
    seen: list[EvaluateConfig] = []

    def watch(config: EvaluateConfig, **options: Any) -> Evaluated:
        seen.append(config)
        return evaluate_weights(config, **options)

    monkeypatch.setattr("crosskd.runs.evaluate.evaluate_weights", watch)
    weights = tmp_path / "run" / "last.safetensors"
    command = ("evaluate", weights, "--annotations", data / "val.json", "--images", data / "images", "--json")
    figures = []
    for options in (
        ("--matches", tmp_path / "matches.safetensors"),
        ("--set", "student.postprocess.max_detections=1", "--set", "augment.short_edges=[64]"),
        ("--recipe", recipe, "--set", "batch_size=2"),
    ):
        result = invoke(*command, "--set", "loader.workers=0", *options)
        assert result.exit_code == 0, result.output
        figures.append(json.loads(result.output))
    scales = [config.scale.model_dump() for config in seen if config.scale is not None]
    images = [(True, "high_byte"), (True, "high_byte"), (None, None)]  # a recipe leaves it to the file
    assert scales == [
        {"short_edge": edge, "long_edge": 64, "pad_to": 32, "antialias": antialias, "sixteen_bit": sixteen_bit}
        | {"keep_ratio": True}
        for edge, (antialias, sixteen_bit) in zip((48, 64, 64), images, strict=True)
    ]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert figures[0]["metrics"] == manifest["evaluations"][-1]["metrics"]
    matches = read_matches((tmp_path / "matches.safetensors").read_bytes())
    assert average_precision(matches).metrics == figures[0]["metrics"]
    assert seen[1].postprocess is not None
    assert [seen[1].postprocess.max_detections, *(each["max_detections"] for each in figures)] == [1, 100, 1, 100]
    assert manifest["student"]["max_detections"] == 100
    assert [config.batch_size for config in seen] == [16, 16, 2]
    # A job comes to the very same function.
    job = evaluate(seen[0], tmp_path / "job")
    assert len(seen) == 4
    assert job["model"]["metrics"] == figures[0]["metrics"]


def test_changes_and_a_teacher_from_the_command_line(data: Path, recipe: Path, tmp_path: Path) -> None:
    one = ("--data", data, "--set", "schedule.max_steps=1")
    assert invoke("train", recipe, "--workdir", tmp_path / "teacher", *one).exit_code == 0
    teacher = tmp_path / "teacher" / "best.safetensors"
    result = invoke(
        "train", recipe, "--workdir", tmp_path / "kd", *one, "--teacher", teacher, "--set", "distill.crosskd={cut: 1}"
    )
    assert result.exit_code == 0, result.output
    assert "teacher after step 0: AP " in result.output
    assert "crosskd_cls" in (tmp_path / "kd" / "log.txt").read_text()


def killed(arguments: list[str]) -> None:
    """`crosskd` that is killed, as from outside, in a step behind its second checkpoint."""
    made = []

    def on_file(_: Callbacks, run: Run, file: File) -> None:
        if file.kind == "checkpoint":
            made.append(file.step)

    def on_log(_: Callbacks, run: Run, values: dict[str, float]) -> None:
        if len(made) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Callbacks.on_file, Callbacks.on_log = on_file, on_log  # type: ignore[method-assign]
    app(arguments)


def test_a_run_killed_outright_goes_on_where_it_was(data: Path, recipe: Path, tmp_path: Path) -> None:
    options = ("--data", data, "--set", "schedule.epochs=40", "--set", "checkpoint.every_steps=1")
    cut = ("--set", "schedule.max_steps=6", "--set", "evaluation.every_epochs=40")
    command = ["train", recipe, "--workdir", tmp_path / "run", *options, *cut]
    assert end_of(killed, [str(part) for part in command]) == -signal.SIGKILL
    assert list_checkpoints(tmp_path / "run" / "checkpoints") != []
    assert invoke("train", recipe, "--workdir", tmp_path / "run", *options, *cut, "--resume").exit_code == 0
    assert invoke("train", recipe, "--workdir", tmp_path / "whole", *options, *cut).exit_code == 0
    ours, theirs = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("run", "whole"))
    assert ours == theirs
    assert "resuming after step" in (tmp_path / "run" / "log.txt").read_text()


def test_a_signal_asks_for_a_checkpoint(data: Path, recipe: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "crosskd", "train", recipe, "--workdir", tmp_path / "run", "--data", data,
        "--set", "schedule.epochs=10000", "--set", "evaluation.every_epochs=10000", "--set", "channels_last=false",
    ]  # fmt: skip
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not list_checkpoints(tmp_path / "run" / "checkpoints"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert "--resume goes on from there" in said
    assert "Traceback" not in said


def test_a_stop_before_the_first_checkpoint_does_not_speak_of_a_resume(
    data: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted("stopped on request in an evaluation after step 0", step=0)

    monkeypatch.setattr("crosskd.runs.train.train", interrupted)
    said = failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--data", data), 130)
    assert "there is no checkpoint yet" in said
    assert "--resume" not in said


def test_a_folder_in_use_is_not_trained_into(data: Path, recipe: Path, tmp_path: Path) -> None:
    once = ("train", recipe, "--workdir", tmp_path / "run", "--data", data, "--set", "schedule.max_steps=1")
    assert invoke(*once).exit_code == 0
    assert "--resume" in failed(invoke(*once), 2)


def test_every_fault_of_a_configuration_is_a_line_with_its_pointer(data: Path, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(yaml.safe_dump(RECIPE | {"batch_size": 0, "student": {"backbone": {"name": "vgg"}}, "sed": 1}))
    said = failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--data", data), 2).splitlines()
    assert len(said) == 3
    assert any(line.startswith("/batch_size: ") and "greater than or equal to 1" in line for line in said)
    assert any(line.startswith("/student/backbone/name: ") and "resnet_tiny" in line for line in said)
    assert any(line.startswith("/sed: ") for line in said)


def test_a_recipe_without_data_says_so(tmp_path: Path) -> None:
    assert failed(invoke("train", "demo_student", "--workdir", tmp_path), 2).strip() == "/data: Field required"


def test_a_data_set_of_the_service_is_not_sought_here(recipe: Path, tmp_path: Path) -> None:
    said = failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--set", "data={dataset: cells}"), 2)
    assert "'cells' is a data set of the service" in said
    assert "or let the service train: crosskd submit." in " ".join(said.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no recipe"),
        ("a: [1", "cannot be read"),
        ("a: [1", "Correct the text at that place"),
        ("- 1", "no mapping"),
        ("!!python/object:os.system {}", "cannot be read"),
        ("seed: 2001-99-99", "cannot be read: month must be in 1..12"),
        ("seed: !!int abc", "cannot be read: invalid literal"),
        ("seed: !!bool maybe", "cannot be read"),
        ("seed: !!timestamp never", "cannot be read"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("student: {hed: 1}", "/student/hed: Extra inputs are not permitted. Did you mean `head`? Known here: anchor"),
    ],
)
def test_recipes_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    assert message in failed(invoke("train", path, "--workdir", tmp_path / "run"), 2)


@pytest.mark.parametrize(
    "change",
    [
        *("schedule.epochs", "=3", "a..b=1", "seed=[1"),
        *("seed=2001-99-99", "seed=!!int abc", "seed=!!int ''", "seed=!!timestamp x", "seed=" + "[" * 5000),
    ],
)
def test_changes_that_are_none(recipe: Path, tmp_path: Path, change: str) -> None:
    assert "--set" in failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--set", change), 2)


def test_broken_data_is_one_message(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_text('{"images": 3}')
    said = failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--data", tmp_path), 1)
    assert said.startswith("error: ")
    assert "train.json" in said


def test_a_data_folder_of_no_known_layout_says_what_is_missing(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "_annotations.coco.json").write_text("{}")
    said = failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--data", tmp_path), 2)
    assert "lacks valid/_annotations.coco.json and valid/: nearest is the layout train/_annotations.coco.json" in said


def test_an_error_ends_a_rank_at_once(data: Path, recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ABANDONING, "train", recipe, "--workdir", tmp_path / "run", "--data", data]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "error: an image is broken.\n")


def test_weights_that_are_none(data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"junk")
    said = failed(invoke("evaluate", bad, "--annotations", data / "val.json", "--images", data / "images"), 1)
    assert "bad.safetensors" in said


def test_evaluate_knows_the_model_from_the_file_alone(data: Path, tmp_path: Path) -> None:
    """Knobs of its detector can be set, and a file that says none is told so."""
    model = small.detector(detector="fcos")
    path = tmp_path / "fcos.safetensors"
    write_weights(path, model.state_dict(), model=model.config, classes=["A", "B", "E"])
    scale = ("--set", "augment.short_edges=[64]", "--set", "augment.long_edge=64", "--set", "loader.workers=0")
    split = ("--annotations", data / "val.json", "--images", data / "images", *scale)
    result = invoke("evaluate", path, *split, "--set", "student.postprocess.score=root")
    assert result.exit_code == 0, result.output
    said = failed(invoke("evaluate", path, *split, "--set", "student.losses.l1=1"), 2)
    assert "leave it out for fcos" in said
    for change, knob in (
        ("student.head.depth=2", "student.head.depth"),  # the file has its head
        ("schedule={epochs: 3}", "schedule.epochs"),
        ("augment={short_edges: [64], long_edge: 64, flip: 0}", "augment.flip"),
    ):
        said = " ".join(failed(invoke("evaluate", path, *split, "--set", change), 2).split())
        assert f"--set '{knob}' has no effect on an evaluation" in said
        assert "student.postprocess" in said.partition("Heeded are: ")[2]
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    said = failed(invoke("evaluate", tmp_path / "bare.pth", *split), 2)
    assert "bare.pth does not say which model it holds" in said


def test_resuming_nothing_is_said(data: Path, recipe: Path, tmp_path: Path) -> None:
    said = failed(invoke("train", recipe, "--workdir", tmp_path / "run", "--data", data, "--resume"), 2)
    assert "there is no checkpoint" in said
