"""A process that works on a file from outside: its answer, and each way in which there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from api.processes.bounded import Failed, TooMuchMemory, TooSlow, ask

READ = "import json, os, sys; print(json.dumps([json.load(sys.stdin), os.read(int(sys.argv[1]), 9).decode()]))"


def test_it_is_given_the_file_open_and_answers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open("rb") as file:
        assert ask([sys.executable, "-c", READ, str(file.fileno())], {"a": 1}, [file], 60) == [{"a": 1}, "content"]


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("import time; time.sleep(60)", TooSlow, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", TooSlow, ""),
        ("raise MemoryError", TooMuchMemory, ""),
        ("raise OSError('gone')", Failed, "OSError: gone"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", Failed, "it was ended by signal 15"),
    ],
)
def test_why_there_is_no_answer(program: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as refused:
        ask([sys.executable, "-S", "-c", program], None, [], 0.5 if "sleep" in program else 60)
    assert said in str(refused.value)
