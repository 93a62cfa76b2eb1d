"""Whole trainings of a very small detector on a very small data set: files, order of events, resume, refusals."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import signal
import threading
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.engine.callbacks import Run
from crosskd.engine.checkpoint import digest_path, list_checkpoints, read_checkpoint
from crosskd.errors import CheckpointMismatch, ConfigError, Diverged, Interrupted, WeightsError
from crosskd.runs.train import train
from crosskd.spec.config import ModelConfig, TrainConfig
from crosskd.spec.results.files import BEST_FILES, samples_name
from crosskd.spec.weights.shapes import parameter_count
from crosskd.weights.native import read_weights, write_weights
from report.matches import read_matches
from report.weighted_ap import average_precision
from tests.support.loader_workers import stuck_worker
from tests.support.trainings import CLASSES, MODEL, Died, Story, config, digest, distilled


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    return write_demo(folder, train=12, val=6, size=64, classes=len(CLASSES), seed=1).model_dump()


@pytest.fixture(scope="module")
def teacher(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a trained, if hardly, teacher."""
    workdir = tmp_path_factory.mktemp("teacher")
    torch.set_num_threads(1)
    return train(config(data, schedule={"max_steps": 2}, seed=9), workdir).best_weights


def test_a_training_leaves_its_files_and_tells_its_story(data: dict[str, Any], tmp_path: Path) -> None:
    story = Story()
    result = train(config(data), tmp_path, callbacks=[story])
    best = [event for event in story.events if event == "best.safetensors"]
    told = [event for event in story.events if event != "best.safetensors"]
    epoch = ["log {}", "log {}", "log {}", "checkpoint {}", "evaluating", "student evaluated {}", "training"]
    assert told == [
        *("start", "preparing", "training"),
        *(event.format(min(number, 2) + 1) for number, event in enumerate(epoch)),
        *(event.format(min(number, 2) + 4) for number, event in enumerate(epoch)),
        *("uploading", "last.safetensors", "end"),
    ]
    assert best
    assert result.steps == 6
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == [
        "checkpoint-00000006.pt",
        "checkpoint-00000003.pt",
    ]
    assert (result.best_weights, result.last_weights) == (tmp_path / "best.safetensors", tmp_path / "last.safetensors")
    state, metadata = read_weights(result.best_weights)
    assert json.loads(metadata["classes"]) == CLASSES
    assert ModelConfig.model_validate_json(metadata["model"]) == config(data).student.model
    images = {"antialias": True, "sixteen_bit": "high_byte"}
    assert json.loads(metadata["augment"]) == {"val_short_edge": 64, "long_edge": 96, "pad_to": 32} | images
    assert not any(name.startswith("student.") for name in state)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert any("step 6 of 6 (epoch 2.00)" in line for line in lines)
    assert any(line.endswith("; cpu, 1 thread") for line in lines)


def test_the_manifest_accounts_for_the_run(data: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    story = Story()
    result = train(distilled(data, teacher), tmp_path, callbacks=[story])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == result.manifest
    state, _ = read_weights(result.last_weights)
    assert manifest["student"]["parameters"] == parameter_count(config(data).student, len(CLASSES))
    assert manifest["student"]["megabytes"] == pytest.approx(sum(v.nbytes for v in state.values()) / 1e6, abs=1e-3)
    for model in ("student", "teacher"):
        assert manifest[model]["milliseconds_per_image"] > 0
        assert manifest[model]["gflops"] > 0
        assert manifest[model]["latency"]["pytorch"]["milliseconds"] > 0
        assert len(manifest[model]["metrics"]) == 12
        name = {"student": "matches", "teacher": "teacher_matches"}[model]
        again = average_precision(read_matches((tmp_path / f"{name}.safetensors").read_bytes()))
        assert (again.metrics, again.per_class) == (manifest[model]["metrics"], manifest[model]["per_class"])
        prefix, step = {"student": ("", result.best_step), "teacher": ("teacher_", 0)}[model]
        listed = json.loads(gzip.decompress((tmp_path / f"{prefix}detections.json.gz").read_bytes()))
        assert len(listed) == len(read_matches((tmp_path / f"{name}.safetensors").read_bytes()).scores)
        samples = json.loads(gzip.decompress((tmp_path / "samples" / samples_name(model, step)).read_bytes()))
        assert (len(samples["images"]), samples["detections"]) == (6, listed)  # so few images are all samples
        assert set(manifest[model]["per_class"]) == set(CLASSES)
    assert manifest["gap_to_teacher"] == manifest["teacher"]["metrics"]["AP"] - manifest["student"]["metrics"]["AP"]
    assert [e["step"] for e in manifest["evaluations"]] == [3, 6]
    assert manifest["teacher_weights_sha256"] == digest(teacher)
    assert not list(tmp_path.rglob("*.tmp"))
    assert manifest["annotations_sha256"]["val"] == digest(Path(data["val"]["annotations"]))
    assert manifest["weights"]["best.safetensors"]["sha256"] == digest(result.best_weights)
    assert set(manifest["versions"]) == {"python", "torch", "torchvision"}
    assert manifest["config"]["schedule"]["epochs"] == 2
    assert manifest["seconds"] > 0


def test_the_teacher_is_evaluated_first_and_a_poor_one_is_said(
    data: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    story = Story()
    result = train(distilled(data, teacher, schedule={"max_steps": 1}), tmp_path, callbacks=[story])
    assert story.events[:5] == ["start", "preparing", "evaluating_teacher", "teacher evaluated 0", "training"]
    assert {"loss_cls", "loss_bbox", "loss_dfl", "crosskd_cls", "crosskd_box"} <= set(story.logs[1])
    assert result.manifest["teacher"]["metrics"]["AP"] < 0.01
    assert "check its classes, their order and its pixels" in (tmp_path / "log.txt").read_text()


def test_a_teacher_of_more_classes_and_other_pixels_is_narrowed_and_evaluated_alike(
    data: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    """The same weights with two classes more, in another order, must reach the very same AP."""
    state, metadata = read_weights(teacher)
    rows = [2, 0, 1]  # Z, E, A, B, Q
    for name in ("head.cls.weight", "head.cls.bias"):
        spare = state[name][:1] + 9.0  # so sure of itself that it would drown the others
        state[name] = torch.cat((spare, state[name][rows], spare))
    model = ModelConfig.model_validate_json(metadata["model"])
    write_weights(tmp_path / "wide.safetensors", state, model=model, classes=["Z", "E", "A", "B", "Q"])
    metrics = {}
    for name, weights in {"narrow": teacher, "wide": tmp_path / "wide.safetensors"}.items():
        result = train(distilled(data, weights, schedule={"max_steps": 1}), tmp_path / name)
        metrics[name] = result.manifest["teacher"]["metrics"]
    assert metrics["wide"] == metrics["narrow"]
    assert "5 classes; 3 of them are taken" in (tmp_path / "wide" / "log.txt").read_text()


def test_what_bridges_the_widths_is_named_in_the_manifest_and_not_delivered(
    data: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    student = MODEL | {"head": {**MODEL["head"], "channels": 8, "norm_groups": 4}}
    result = train(distilled(data, teacher, student=student, schedule={"max_steps": 2}), tmp_path)
    assert set(result.manifest["adapters"]) == {"crosskd.adapt_cls", "crosskd.adapt_box"}
    assert not [name for name in read_weights(result.best_weights)[0] if "adapt" in name]


def test_the_student_starts_alike_with_and_without_a_teacher(
    data: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    alone, taught = Story(), Story()
    train(config(data, schedule={"max_steps": 1}), tmp_path / "alone", callbacks=[alone])
    train(distilled(data, teacher, schedule={"max_steps": 1}), tmp_path / "taught", callbacks=[taught])
    for term in ("loss_cls", "loss_bbox", "loss_dfl"):
        assert alone.logs[1][term] == taught.logs[1][term]


def test_a_former_job_s_weights_are_handed_in(data: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    spec = config(data, teacher={"weights": {"job": "abc"}}, distill={"crosskd": {"cut": 1}}, schedule={"max_steps": 1})
    with pytest.raises(ConfigError, match="the job 'abc'") as caught:
        train(spec, tmp_path / "without")
    assert caught.value.where == "/teacher/weights/job"
    assert train(spec, tmp_path / "with", teacher_weights=teacher).steps == 1


def rewritten(teacher: Path, path: Path, *, model: dict[str, Any] | None = None, classes: list[str]) -> Path:
    state, metadata = read_weights(teacher)
    described = ModelConfig.model_validate(model) if model else ModelConfig.model_validate_json(metadata["model"])
    write_weights(path, state, model=described, classes=classes)
    return path


@pytest.mark.parametrize(
    ("classes", "model", "message", "where"),
    [
        (["A", "B", "Q"], None, r"the teacher does not know \['E'\]", "/teacher/classes"),
        (CLASSES, MODEL | {"strides": [8, 16, 32, 64]}, "strides", "/student/strides"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(
    data: dict[str, Any],
    teacher: Path,
    tmp_path: Path,
    classes: list[str],
    model: dict[str, Any] | None,
    message: str,
    where: str,
) -> None:
    other = rewritten(teacher, tmp_path / "other.safetensors", model=model, classes=classes)
    story = Story()
    with pytest.raises(ConfigError, match=message) as caught:
        train(distilled(data, other), tmp_path / "run", callbacks=[story])
    assert caught.value.where == where
    assert story.events == ["start", "preparing"]
    assert message.split(":")[0].replace("\\", "") in (tmp_path / "run" / "log.txt").read_text()


def test_a_bare_file_needs_the_teacher_s_model(data: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    bare = tmp_path / "teacher.pth"
    torch.save({"state_dict": read_weights(teacher)[0]}, bare)
    with pytest.raises(ConfigError, match="does not say which model") as caught:
        train(distilled(data, bare), tmp_path / "run")
    assert caught.value.where == "/teacher/model"
    told = {"weights": {"file": str(bare)}, "model": MODEL}
    spec = config(data, teacher=told, distill={"crosskd": {"cut": 1}}, schedule={"max_steps": 1})
    assert train(spec, tmp_path / "told").steps == 1
    with pytest.raises(WeightsError, match="other shapes"):
        train(
            config(data, teacher=told | {"model": MODEL | {"neck": {"channels": 24}}}, distill={}), tmp_path / "wrong"
        )


# --- resume ----------------------------------------------------------------------------------------------------------

# One of its three epochs has mosaics, two have MixUp: a resume goes over both ends.
MIXED = {
    "short_edges": [64],
    "letterbox": [64, 96],
    "mosaic": {"off_last_epochs": 2},
    "affine": {},
    "mixup": {"off_last_epochs": 1},
    "hsv": {},
}
EVERYTHING = {
    "augment": MIXED,
    "loader": {"workers": 2},
    "batch_size": 2,
    "accumulate": 4,  # 6 batches an epoch: the second group is short
    "ema": {"decay": 0.9},
    "clip_norm": 5.0,
    "schedule": {"epochs": 3, "warmup_steps": 3},
    "checkpoint": {"every_steps": 1, "keep_last": 2},
}


def everything(data: dict[str, Any], teacher: Path) -> TrainConfig:
    """All that has a state of its own, a term with adapters (FitNet's) among it."""
    distill = {"crosskd": {"cut": 1}, "fitnet": {}}
    return config(data, teacher={"weights": {"file": str(teacher)}}, distill=distill, **EVERYTHING)


@pytest.fixture(scope="module")
def straight(data: dict[str, Any], teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story]:
    """A run that is never disturbed."""
    workdir, story = tmp_path_factory.mktemp("straight"), Story()
    torch.set_num_threads(1)
    train(everything(data, teacher), workdir, callbacks=[story])
    return workdir, story


@pytest.mark.parametrize("moment", ["log 2", "log 3", "student evaluated 4", "checkpoint 6"])
def test_a_run_that_dies_and_is_resumed_is_the_run_that_did_not(
    data: dict[str, Any], teacher: Path, straight: tuple[Path, Story], tmp_path: Path, moment: str
) -> None:
    """Weights, metrics, AP and every generator's state, bit by bit; the resume happens in a new folder."""
    workdir, whole = straight
    spec = everything(data, teacher)

    def die(event: str, run: Run) -> None:
        if event == moment:
            raise Died

    first, second = Story(die), Story()
    with pytest.raises(Died):
        train(spec, tmp_path / "first", callbacks=[first])
    newest = list_checkpoints(tmp_path / "first" / "checkpoints")[0]
    result = train(spec, tmp_path / "second", callbacks=[second], resume=newest)

    for name in ("best.safetensors", "last.safetensors", *BEST_FILES.values()):
        assert digest(tmp_path / "second" / name) == digest(workdir / name), name
    assert first.logs | second.logs == whole.logs
    assert set(second.logs) == set(range(int(newest.stem[-8:]) + 1, 7))
    assert result.manifest["evaluations"] == json.loads((workdir / "manifest.json").read_text())["evaluations"]
    assert "evaluating_teacher" not in second.events
    ours = read_checkpoint(list_checkpoints(tmp_path / "second" / "checkpoints")[0] if second.logs else newest)
    theirs = read_checkpoint(workdir / "checkpoints")
    for part in ("trainee", "optimizer", "ema", "random", "position", "scaler"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_a_checkpoint_holds_the_adapters_and_not_the_teacher(
    data: dict[str, Any], teacher: Path, straight: tuple[Path, Story]
) -> None:
    """Adapters live beside the student: saved with the run, with a momentum each, and left behind at its end."""
    state = read_checkpoint(straight[0] / "checkpoints")
    parts = {name.partition(".")[0] for name in state["trainee"]}
    assert parts == {"student", "terms"}
    delivered = read_weights(straight[0] / "last.safetensors")[0]
    assert {name for name in state["trainee"] if name.startswith("student.")} == {f"student.{n}" for n in delivered}
    adapters = [value for name, value in state["trainee"].items() if name.startswith("terms.fitnet.")]
    remembered = [memory["exp_avg"].shape for memory in state["optimizer"]["state"].values()]
    assert adapters
    assert all(remembered.count(adapter.shape) for adapter in adapters)
    assert set(json.loads((straight[0] / "manifest.json").read_text())["adapters"]) >= {"fitnet.regressors.0"}


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "no digest"])
def test_a_resume_goes_on_from_the_checkpoint_before_a_broken_one(
    data: dict[str, Any], tmp_path: Path, damage: str
) -> None:
    spec = config(data, ema={"decay": 0.9}, checkpoint={"every_steps": 1, "keep_last": 2})
    whole = train(spec, tmp_path / "whole")
    folder = tmp_path / "run" / "checkpoints"
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "run", callbacks=[Story(lambda e, run: run.request_stop() if e == "log 4" else None)])
    newest = list_checkpoints(folder)[0]
    raw = bytearray(newest.read_bytes())
    if damage == "no digest":
        digest_path(newest).unlink()
    elif damage == "cut short":
        newest.write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 3] ^= 4
        newest.write_bytes(raw)
    resumed = train(spec, tmp_path / "run", resume=folder)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{newest.name} {'has no sha256' if damage == 'no digest' else 'does not have the sha256'}" in log
    assert "resuming after step 3" in log
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert resumed.manifest["evaluations"] == whole.manifest["evaluations"]


def test_a_stop_is_a_checkpoint_and_the_run_goes_on_from_it(data: dict[str, Any], tmp_path: Path) -> None:
    spec = config(data, ema={"decay": 0.9})
    whole = train(spec, tmp_path / "whole")
    stop = threading.Event()
    stopper = Story(lambda event, run: stop.set() if event == "log 2" else None)
    with pytest.raises(Interrupted, match="after step 2"):
        train(spec, tmp_path / "run", callbacks=[stopper], stop=stop)
    assert stopper.events[-1] == "checkpoint 2"
    resumed = train(spec, tmp_path / "run", resume=tmp_path / "run" / "checkpoints")
    assert digest(resumed.last_weights) == digest(whole.last_weights)
    assert "resuming after step 2" in (tmp_path / "run" / "log.txt").read_text()


def test_a_new_run_does_not_mix_with_a_former_one(data: dict[str, Any], tmp_path: Path) -> None:
    """It would prune its own checkpoints in favour of the former run's, whose steps are higher."""
    train(config(data), tmp_path / "run")
    story, before = Story(), (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(ConfigError, match=r"checkpoints of a former run, .*checkpoint-00000006\.pt") as caught:
        train(config(data, seed=5), tmp_path / "run", callbacks=[story])
    assert caught.value.where == str(tmp_path / "run")
    assert "--resume" in caught.value.remedy
    assert story.events == []
    assert (tmp_path / "run" / "log.txt").read_text() == before


def test_a_resume_from_an_earlier_checkpoint_keeps_its_own_later_ones(data: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    train(config(data, checkpoint={"every_steps": 1, "keep_last": 4}), tmp_path / "run")
    early = folder / "checkpoint-00000004.pt"
    kept: list[list[int]] = []

    def look(event: str, run: Run) -> None:
        if event in ("training", "checkpoint 5"):
            kept.append([int(path.stem[-8:]) for path in list_checkpoints(folder)])

    train(config(data, checkpoint={"every_steps": 1}), tmp_path / "run", callbacks=[Story(look)], resume=early)
    assert kept[:2] == [[4, 3], [5, 4, 3]]
    assert [int(path.stem[-8:]) for path in list_checkpoints(folder)] == [6, 5]


def test_a_stop_before_the_first_step_promises_no_resume(data: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    stopper = Story(lambda event, run: run.request_stop() if event == "evaluating_teacher" else None)
    with pytest.raises(Interrupted, match="in an evaluation after step 0") as caught:
        train(distilled(data, teacher), tmp_path, callbacks=[stopper])
    assert (caught.value.step, caught.value.remedy) == (0, "Start it again.")
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_another_teacher_is_another_run(data: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    train(distilled(data, teacher, schedule={"max_steps": 1}), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    state, metadata = read_weights(teacher)
    other = tmp_path / "other.safetensors"
    state["head.cls.bias"] += 1
    write_weights(other, state, model=ModelConfig.model_validate_json(metadata["model"]), classes=CLASSES)
    with pytest.raises(CheckpointMismatch, match="/teacher/weights was"):
        train(distilled(data, other), tmp_path / "wrong", resume=folder)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(teacher.read_bytes())
    assert train(distilled(data, moved, schedule={"max_steps": 2}), tmp_path / "right", resume=folder).steps == 2


def test_a_stop_in_an_evaluation_does_not_wait_for_its_end(data: dict[str, Any], tmp_path: Path) -> None:
    spec = config(data)
    stopper = Story(lambda event, run: run.request_stop() if event == "evaluating" else None)
    with pytest.raises(Interrupted, match="in an evaluation after step 3"):
        train(spec, tmp_path / "run", callbacks=[stopper])
    story = Story()
    train(spec, tmp_path / "run", callbacks=[story], resume=tmp_path / "run" / "checkpoints")
    assert story.events[:5] == ["start", "preparing", "training", "evaluating", "student evaluated 3"]
    assert digest(tmp_path / "run" / "last.safetensors") == digest(
        train(spec, tmp_path / "whole").last_weights,
    )


def test_a_resume_delivers_the_best_from_before(data: dict[str, Any], tmp_path: Path) -> None:
    spec = config(data)
    train(spec, tmp_path / "run")
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    state = read_checkpoint(path)
    best = state["results"]["evaluations"][0] | {"metrics": state["results"]["evaluations"][0]["metrics"] | {"AP": 0.9}}
    state["results"]["best"] = best
    unbeaten = tmp_path / "unbeaten.pt"
    torch.save(state, unbeaten)
    result = train(spec, tmp_path / "again", resume=unbeaten)
    assert (result.best_ap, result.best_step) == (0.9, 3)
    saved = state["results"]["best_state"]
    torch.testing.assert_close(read_weights(result.best_weights)[0], dict(saved), rtol=0, atol=0)


def test_a_checkpoint_of_another_run_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    train(config(data, schedule={"max_steps": 1}), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    with pytest.raises(CheckpointMismatch, match=r"/optimizer/lr was 0\.002 and is 0\.5"):
        train(config(data, optimizer={"lr": 0.5}), tmp_path / "other", resume=folder)
    longer = train(config(data, schedule={"max_steps": 4}, log_every=3), tmp_path / "longer", resume=folder)
    assert longer.steps == 4


# --- what ends a run -------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(data: dict[str, Any], tmp_path: Path) -> None:
    wild = {"name": "sgd", "lr": 100.0, "base_batch": None}
    spec = config(data, optimizer=wild, schedule={"epochs": 50, "warmup_steps": 0}, checkpoint={"every_steps": 1})
    with pytest.raises(Diverged, match=r"(loss_\w+|gradient's norm) is (nan|inf).* in step \d+"):
        train(spec, tmp_path)
    state = read_checkpoint(tmp_path / "checkpoints")
    assert all(value.isfinite().all() for value in state["trainee"].values())


def test_the_average_is_what_is_evaluated_and_delivered(data: dict[str, Any], tmp_path: Path) -> None:
    result = train(config(data, ema={"decay": 0.9}), tmp_path)
    state = read_checkpoint(tmp_path / "checkpoints")
    delivered, _ = read_weights(result.last_weights)
    torch.testing.assert_close(delivered, dict(state["ema"]["model"]), rtol=0, atol=0)
    assert any(not torch.equal(delivered[name], state["trainee"][name]) for name in delivered)


def test_a_stop_ends_a_training_whose_loader_hangs(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosskd.data.loader._start_worker", stuck_worker)
    monkeypatch.setattr("crosskd.data.waiting.PATIENCE_SECONDS", 0.2)
    stop, before = threading.Event(), set(multiprocessing.active_children())
    story = Story(lambda event, _: Timer(0.5, stop.set).start() if event == "log 1" else None)
    stuck = config(data, loader={"workers": 1}, schedule={"epochs": 1})
    with pytest.raises(Interrupted, match="in step 2, for which the loader gave no batch") as caught:
        train(stuck, tmp_path, callbacks=[story], stop=stop)
    assert caught.value.step == 1
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-00000001.pt"]
    for worker in set(multiprocessing.active_children()) - before:
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL
