"""What is written, as TensorBoard itself reads it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.support.tracking import AT, prepared, tell
from worker.tracker_settings import TrackerSettings
from worker.tracking.adapters.tensorboard import TensorBoard
from worker.tracking.files import Points
from worker.tracking.follow import Follower

JOB = "0123456789abcdef"


def followed(home: Path, name: str, steps: range, resume_step: int = 0, loss: float = 0.5) -> None:
    """An attempt of the job, from its start to its end."""
    folder = prepared(home / name, job=JOB, resume_step=resume_step)
    tell(folder, steps, links=("best.safetensors",), loss=loss)
    folder.end("succeeded")
    Follower(folder, "tensorboard", TensorBoard(TrackerSettings())).run()
    state = folder.state("tensorboard")
    assert (state.delivered, state.finished) == (2 * len(steps), True)
    assert state.where == str(home / "tensorboard" / JOB)


def read(home: Path) -> EventAccumulator:
    found = EventAccumulator(str(home / "tensorboard" / JOB), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def test_a_run_as_tensorboard_reads_it(tmp_path: Path) -> None:
    followed(tmp_path, "first", range(1, 300))
    found = read(tmp_path)
    assert found.Tags()["scalars"] == ["loss", "student/AP"]
    scalars = found.Scalars("student/AP")
    assert [each.step for each in scalars] == list(range(1, 300))
    assert scalars[4].value == pytest.approx(0.05)
    assert scalars[4].wall_time == AT.timestamp()
    (files,) = found.Tensors("files")
    url = f"http://127.0.0.1:1/jobs/{JOB}"
    assert files.tensor_proto.string_val == [f"- [best.safetensors]({url}/artifacts/best.safetensors)".encode()]
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["student.backbone.name"].string_value == "resnet_tiny"
    assert hparams["optimizer.lr"].number_value == 0.001
    assert hparams["student.strides"].string_value == "[8, 16, 32]"


def test_a_resume_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """What the attempt before had written behind its last checkpoint is not shown twice."""
    followed(tmp_path, "first", range(1, 9))
    followed(tmp_path, "second", range(5, 12), resume_step=4, loss=0.25)
    scalars = read(tmp_path).Scalars("loss")
    assert [(each.step, each.value) for each in scalars] == [(n, 0.5 if n < 5 else 0.25) for n in range(1, 12)]


def test_a_full_disk_leaves_whole_records_and_is_gone_on_from(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking", job=JOB)
    tracker = TensorBoard(TrackerSettings())
    tracker.start(folder.job())
    points = [Points(step=step, at=AT, values={"loss": 1.0}) for step in range(50)]
    (path,) = (tmp_path / "tensorboard" / JOB).iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))  # a part of them would find room
    try:
        with pytest.raises(OSError, match=r"full|too large"):
            tracker.push(points)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tracker.push(points)
    assert [each.step for each in read(tmp_path).Scalars("loss")] == list(range(50))
