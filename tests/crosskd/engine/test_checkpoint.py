"""Checkpoints: what they hold, how they are written, how a broken one is told, and whose they are."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosskd.engine import checkpoint
from crosskd.engine.checkpoint import (
    digest_path,
    fingerprint,
    fingerprint_digest,
    list_checkpoints,
    prune,
    read_checkpoint,
    remove_later,
    require_same_run,
    write_checkpoint,
)
from crosskd.engine.random_state import random_state, restore_random_state, seed_all
from crosskd.errors import CheckpointCorrupt, CheckpointMismatch, ConfigError, CrossKDError
from crosskd.spec.config import TrainConfig
from tests.support.toys import full_disk, toy_config


def test_a_checkpoint_goes_round_with_its_digest_beside_it(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.arange(3.0)}, "best_ap": 0.25, "nested": [1, (2, None)]}
    path = write_checkpoint(tmp_path / "checkpoints", 120, state).path
    assert path.name == "checkpoint-00000120.pt"
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".sha256"]
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest_path(path).read_text() == f"{expected}  {path.name}\n"
    read = read_checkpoint(path)
    assert torch.equal(read["weights"]["a"], state["weights"]["a"])
    assert (read["best_ap"], read["nested"]) == (0.25, [1, (2, None)])


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (10, 9, 100_000_000, 2):
        write_checkpoint(tmp_path, step, {})
    (tmp_path / ".checkpoint-00000011.pt.77.tmp").write_bytes(b"half of it")  # of a process that was killed
    (tmp_path / "checkpoint-00000012.pt.tmp").write_bytes(b"half of it")
    prune(tmp_path, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-100000000.pt", "checkpoint-00000010.pt"]
    assert len(list(tmp_path.iterdir())) == 4


def test_later_checkpoints_are_removed_with_their_digests(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        write_checkpoint(tmp_path, step, {})
    remove_later(tmp_path, 6)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-00000006.pt", "checkpoint-00000003.pt"]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_disk_that_is_full_is_told_and_costs_no_older_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, {"step": 1})
    with full_disk(), pytest.raises((OSError, CrossKDError), match=r"(?i)large|cannot be written"):
        write_checkpoint(tmp_path, 2, {"weights": torch.zeros(1_000_000)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000001.pt", "checkpoint-00000001.pt.sha256"]
    assert read_checkpoint(tmp_path)["step"] == 1


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "emptied", "another digest", "half a digest"])
def test_a_broken_checkpoint_is_told_and_the_one_before_is_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, 1, {"step": 1, "w": torch.ones(100)})
    newest = write_checkpoint(tmp_path, 2, {"step": 2, "w": torch.ones(100)}).path
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    broken = {"flipped bit": bytes(raw), "cut short": bytes(raw[:-50]), "emptied": b""}
    digests = {"another digest": "0" * 64 + "  other.pt", "half a digest": digest_path(newest).read_text()[:20]}
    newest.write_bytes(broken.get(damage, newest.read_bytes()))
    digest_path(newest).write_text(digests.get(damage, digest_path(newest).read_text()))
    with pytest.raises(CheckpointCorrupt, match="does not have the sha256"):
        read_checkpoint(newest)
    assert read_checkpoint(tmp_path)["step"] == 1
    assert f"{newest.name} does not have the sha256 that was written with it; trying the one before" in caplog.text


def test_a_checkpoint_whose_digest_is_gone_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Named itself it is read: then it was brought here alone, and whoever brought it has checked it."""
    write_checkpoint(tmp_path, 1, {"step": 1})
    newest = write_checkpoint(tmp_path, 2, {"step": 2}).path
    digest_path(newest).unlink()
    assert read_checkpoint(tmp_path)["step"] == 1
    assert f"{newest.name} has no sha256 beside it" in caplog.text
    assert read_checkpoint(newest)["step"] == 2
    digest_path(tmp_path / "checkpoint-00000001.pt").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"no checkpoint in the folder is sound: .*00000002.*; .*00000001"):
        read_checkpoint(tmp_path)


def test_a_folder_without_a_sound_checkpoint_says_so(tmp_path: Path) -> None:
    for nowhere in (tmp_path, tmp_path / "missing.pt"):
        with pytest.raises(ConfigError, match="there is no checkpoint"):
            read_checkpoint(nowhere)
    write_checkpoint(tmp_path, 1, {}).path.write_bytes(b"junk")
    with pytest.raises(CheckpointCorrupt, match="does not have the sha256"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 no zip"])
def test_a_file_without_a_digest_that_is_no_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "downloaded.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        read_checkpoint(path)


def test_a_pickle_that_carries_code_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(marker),))

    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps(Bomb()))
    torch.save({"format": checkpoint.FORMAT, "bomb": Bomb()}, zipped)
    for path in (plain, zipped):
        with pytest.raises(CheckpointCorrupt):
            read_checkpoint(path)
    assert not marker.exists()


def test_a_write_that_is_killed_leaves_the_old_checkpoints_alone(tmp_path: Path, monkeypatch: Any) -> None:
    write_checkpoint(tmp_path, 1, {"step": 1})

    class Killed(BaseException):
        pass

    def die(*args: Any) -> None:
        raise Killed

    for place in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os if place == "fsync" else Path, place, die)
            with pytest.raises(Killed):
                write_checkpoint(tmp_path, 2, {"step": 2})
        assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-00000001.pt"]
    assert read_checkpoint(tmp_path)["step"] == 1
    assert read_checkpoint(write_checkpoint(tmp_path, 2, {"step": 2}).path)["step"] == 2


DRAWS: dict[str, Callable[[], float]] = {
    "python": random.random,
    "python, normal": lambda: random.gauss(0, 1),
    "numpy": np.random.rand,
    "numpy, normal": np.random.standard_normal,
    "torch": lambda: float(torch.rand(())),
    "torch, normal": lambda: float(torch.randn(())),
}


@pytest.mark.parametrize("generator", DRAWS)
def test_every_random_generator_is_restored_through_a_file(tmp_path: Path, generator: str) -> None:
    draw = DRAWS[generator]
    seed_all(3)
    draw()  # of a pair of normal values, the second is kept for the next call
    state = read_checkpoint(write_checkpoint(tmp_path, 0, {"random": random_state()}).path)["random"]
    expected = [draw() for _ in range(3)]
    assert [draw() for _ in range(3)] != expected
    restore_random_state(state)
    assert [draw() for _ in range(3)] == expected


def test_another_configuration_is_named_setting_by_setting() -> None:
    saved = fingerprint(toy_config(), {"train": "aa", "val": "bb"})
    changed = fingerprint(toy_config(batch_size=4, clip_norm=1.0, optimizer={"lr": 0.5}), {"train": "cc", "val": "bb"})
    with pytest.raises(CheckpointMismatch) as caught:
        require_same_run(saved, changed)
    message = str(caught.value)
    for part in ("/batch_size was 2 and is 4", "/clip_norm was null and is 1.0", "/optimizer/lr was 0.01 and is 0.5"):
        assert part in message
    assert '/data/train was "aa" and is "cc"' in message


def test_another_teacher_is_another_run_and_the_same_one_elsewhere_is_not() -> None:
    def taught(file: str) -> TrainConfig:
        return toy_config(teacher={"weights": {"file": file}})

    saved = fingerprint(taught("/a/teacher.pth"), {}, "aa")
    require_same_run(saved, fingerprint(taught("/b/teacher.pth"), {}, "aa"))
    with pytest.raises(CheckpointMismatch, match='/teacher/weights was "aa" and is "bb"'):
        require_same_run(saved, fingerprint(taught("/a/teacher.pth"), {}, "bb"))


@pytest.mark.parametrize("model", [None, {"detector": "gfl", "backbone": {"name": "resnet_tiny", "init": "random"}}])
def test_a_run_of_0_2_goes_on_which_had_fewer_knobs(model: dict[str, Any] | None) -> None:
    teacher = {"weights": {"file": "t.pth"}, "model": model}
    current = fingerprint(toy_config(teacher=teacher), {}, "aa")
    before = json.loads(json.dumps(current))
    for values in [before["student"], *([before["teacher"]["model"]] if model else [])]:
        for section, knobs in {
            "neck": ("kind", "blocks", "depthwise"),
            "head": ("exp_on_reg", "depthwise"),
            "losses": ("l1_last_epochs", "cross_entropy", "objectness"),
            "pixels": ("padding",),
        }.items():
            for knob in knobs:
                del values[section][knob]
    runs = {
        "schedule": ("flat", "final_epochs"),
        "optimizer": ("nesterov", "backbone_lr_factor", "sampling_lr_factor"),
        "augment": ("antialias", "sixteen_bit", "keep_ratio"),
    }
    for section, names in runs.items():
        for knob in names:
            del before[section][knob]
    later = {**current, "augment": {**current["augment"], "antialias": True, "sixteen_bit": "high_byte"}}
    require_same_run(before, later)
    otherwise = {**later, "schedule": {**later["schedule"], "flat": 0.5}}
    with pytest.raises(CheckpointMismatch, match=r"/schedule/flat was 0.0 and is 0.5"):
        require_same_run(before, otherwise)


def test_what_does_not_decide_the_weights_may_differ() -> None:
    saved = fingerprint(toy_config(), {})
    elsewhere = {"annotations": "/elsewhere/a.json", "images": "/elsewhere"}
    current = fingerprint(
        toy_config(
            data={"train": elsewhere, "val": elsewhere},
            loader={"workers": 0, "cache_mib": 100},
            device="cpu",
            channels_last=True,
            compile=True,
            threads=1,
            log_every=7,
            track=["mlflow"],
            checkpoint={"every_steps": 3},
            schedule={"epochs": 3, "warmup_steps": 2, "milestones": [2], "max_steps": 9},
        ),
        {},
    )
    require_same_run(saved, current)
    assert fingerprint_digest(saved) == fingerprint_digest(current)
    assert fingerprint_digest(saved) != fingerprint_digest(fingerprint(toy_config(seed=1), {}))
