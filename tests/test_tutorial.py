"""docs/tutorial.md, every command of it, as a reader types them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crosskd.data.demo import write_demo
from tests.support.crosskd_command import up
from tests.support.processes import processes_of

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FIRST, *COMMANDS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHOWN = "".join(re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
SECONDS = 1700.0  # on a machine that does other things too


def headers(text: str) -> set[str]:
    """The header lines of the tables in `text`, with single spaces."""
    return {" ".join(line.split()) for line in text.splitlines() if re.match(r"(id|model|name) {2,}[a-zA-Z]+ ", line)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorials_commands_lead_to_distilled_weights(tmp_path: Path) -> None:
    assert FIRST == "make up\n"
    assert "\n\t@$(BIN)/crosskd up\n" in (ROOT / "Makefile").read_text()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")}
    home = tmp_path / ".crosskd"
    with up(home) as process:
        write_demo(home / "data" / "mine", train=16, val=8)  # what the reader brings
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(COMMANDS)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    print(done.stdout, done.stderr, sep="\n")  # noqa: T201 - pytest shows it with a failure
    assert done.returncode == 0

    reached = [float(ap) for ap in re.findall(r"^\w{32}: succeeded, (?:best )?AP ([\d.]+)$", done.stdout, re.MULTILINE)]
    teacher, alone, distilled = reached
    assert min(alone, distilled) > 0.01  # else it would compare nothing with nothing
    assert max(alone, distilled) < teacher
    again = re.search(r"^│ AP +│ +([\d.]+) │$", done.stdout, re.MULTILINE)
    assert again is not None
    assert float(again[1]) == pytest.approx(distilled, abs=6e-4)  # as they are printed
    assert headers(SHOWN) <= headers(done.stdout)
    for name in ("student.safetensors", "model.onnx", "mine.yaml", "job.yaml"):
        assert (tmp_path / name).stat().st_size > 0
    assert processes_of(tmp_path) == []
