"""What W&B's own client writes offline, read back from its file; and a server that never answers."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.tracking import AT, follower, hanging_server, prepared, tell
from tests.support.waiting import until

BLOCK, HEADER = 32768, 7  # bytes; the file is a log of LevelDB's form, which begins with as long a header


def records(path: Path) -> Iterator[Any]:
    """The records of a `run-*.wandb`: each in one or more parts, none of which crosses a block."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_a_run_offline(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking", job="job-1")
    tell(folder, range(1, 120), links=("best.safetensors",))
    folder.end("succeeded")
    with follower(folder, "wandb", CROSSKD_WANDB_MODE="offline", CROSSKD_WANDB_PROJECT="mine") as process:
        assert process.wait(60) == 0, folder.output("wandb").read_text()
    state = folder.state("wandb")
    assert (state.delivered, state.finished) == (238, True)
    (path,) = Path(state.where).glob("run-job-1.wandb")
    assert path.is_relative_to(tmp_path / "wandb-runs")
    found = list(records(path))
    runs = [record.run for record in found if record.HasField("run")]
    assert (runs[0].run_id, runs[0].project) == ("job-1", "mine")
    assert platform.node() not in str(runs[0])
    config = {each.key: json.loads(each.value_json) for each in runs[0].config.update}
    assert config["student"]["backbone"]["name"] == "resnet_tiny"
    points = [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    assert [(each["step"], each["loss"], each["student/AP"]) for each in points] == [
        (step, 0.5, step / 100) for step in range(1, 120)
    ]
    assert {each["_timestamp"] for each in points} == {AT.timestamp()}
    summary = {
        each.key: json.loads(each.value_json)
        for record in found
        if record.HasField("summary")
        for each in record.summary.update
        if each.key
    }
    assert summary["files"] == {"best.safetensors": "http://127.0.0.1:1/jobs/job-1/artifacts/best.safetensors"}
    assert summary["job"] == "http://127.0.0.1:1/jobs/job-1"


def test_a_server_that_never_answers_is_left_behind(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking", job="job-1")
    with hanging_server() as (url, server):
        settings = {"CROSSKD_WANDB_BASE_URL": url, "CROSSKD_WANDB_API_KEY": "k" * 40}
        with follower(folder, "wandb", **settings) as process:
            server.settimeout(60)
            server.accept()[0].close()
            assert process.stdin is not None
            process.stdin.close()  # the supervisor is gone
            until(lambda: process.poll() is not None)
    assert folder.state("wandb").delivered == 0
    assert "kkkk" not in folder.output("wandb").read_text()
