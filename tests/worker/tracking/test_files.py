from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.tracking import AT, prepared, tell
from worker.tracking.files import Link, Points, Reader, State, Writer


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: as on a full disk, a write may be cut short or fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def point(step: int) -> Points:
    return Points(step=step, at=AT, values={"loss": float(step), "lr": 0.1})


def test_a_reader_takes_what_is_whole_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    reader = Reader(path)
    assert reader.next(10) == ([], 0)
    writer = Writer(path, 10**6)
    writer.write(point(1))
    writer.write(Link(name="best.safetensors"))
    writer.write(Points(step=3, at=AT, values={"loss": "NaN"}))
    first, size = reader.next(2)
    assert [told.record for told in first] == [point(1), Link(name="best.safetensors")]
    assert [told.points for told in first] == [2, 0]
    assert reader.next(2)[0] == first  # not taken yet
    reader.take(size)
    with path.open("ab") as file:
        file.write(b'2 {"kind":"poi')  # the rest is not there yet
    (last,), size = reader.next(2)
    assert isinstance(last.record, Points)
    assert math.isnan(float(last.record.values["loss"]))
    reader.take(size)
    assert reader.next(2) == ([], 0)
    writer.close()


@pytest.mark.parametrize("how", ["bound", "disk"])
def test_what_finds_no_room_is_counted_and_nothing_is_torn(tmp_path: Path, how: str) -> None:
    path = tmp_path / "records.jsonl"
    room = 250  # bytes: two records and a part of the third
    writer = Writer(path, room if how == "bound" else 10**6)
    with largest_file(room) if how == "disk" else largest_file(10**9):
        for step in range(5):
            writer.write(point(step))
    writer.close()
    told, size = Reader(path).next(10)
    assert [each.record for each in told] == [point(0), point(1)]
    assert size == path.stat().st_size
    assert writer.left_out == 6


def test_a_supervisor_counts_points_and_asks_for_states(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking")
    assert folder.points() == 0
    tell(folder, range(3), links=("log.txt",))
    with folder.records.open("ab") as file:
        file.write(b"7 {torn")
    assert folder.points() == 6
    assert folder.state("mlflow") == State()
    (folder.path / "mlflow.json").write_text("{")  # of a process that was killed on another file system
    assert folder.state("mlflow") == State()
    folder.write_state("mlflow", State(delivered=4, error="refused"))
    assert folder.state("mlflow").delivered == 4
    assert folder.ended() is None
    folder.end("released")
    assert folder.ended() == "released"
