"""The process that writes a graph: it is ended when asked, when its time is over, and what ends it is told."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from crosskd.errors import CrossKDError, ExportError, Interrupted
from crosskd.onnx import apart
from crosskd.onnx.apart import Watch, write_graph_apart
from tests.support import small

ENDLESS = "import signal, time; signal.signal(2, lambda *_: 0); signal.signal(15, lambda *_: 0); time.sleep(600)"


def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, watch: Watch) -> None:
    """As an export does, with another program in the place of the exporter."""
    run = apart._run
    monkeypatch.setattr(apart, "_run", lambda _, folder, check: run([sys.executable, "-c", program], folder, check))
    write_graph_apart(small.detector(1), tmp_path / "model.onnx", opset=18, metadata={}, watch=watch)


@pytest.mark.parametrize("by", ["stop", "time"])
def test_what_never_ends_is_ended(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    watch = Watch(stop, 0.5 if by == "time" else 600)
    if by == "stop":
        threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted if by == "stop" else ExportError) as caught:
        write(tmp_path, monkeypatch, ENDLESS, watch)
    assert time.monotonic() - started < 60  # of 600
    if by == "time":
        assert "not ended within 0.5 seconds" in caught.value.message
        assert caught.value.where == "/max_seconds"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9 (SIGKILL)"),
        ("raise RecursionError('too deep')", "cannot be written as ONNX: RecursionError: too deep"),
        ("import sys; sys.exit(3)", "cannot be written as ONNX: exit status 3"),
    ],
)
def test_how_it_ended_is_told(program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossKDError) as caught:
        write(tmp_path, monkeypatch, program, Watch(threading.Event(), 600))
    assert message in caught.value.message
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_ctrl_c_that_ends_the_other_first_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    monkeypatch.setattr(apart, "SIGNAL_SECONDS", 60)
    monkeypatch.setattr(apart, "_run", lambda *_: 1)
    with pytest.raises(Interrupted):
        write_graph_apart(small.detector(1), tmp_path / "model.onnx", opset=18, metadata={}, watch=Watch(stop, 600))
