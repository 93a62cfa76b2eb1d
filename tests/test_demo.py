"""`crosskd demo`, whole, as a person runs it, on fewer images.

That students learn from such presets on all of them is shown by the commands of the tutorial (`test_tutorial.py`), and
on ten seeds by `benchmarks/gain.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.crosskd_command import DEMO, IMAGES, VAL_IMAGES
from tests.support.processes import processes_of

MOST_MEMORY = 3e9  # bytes, of all processes together


def memory_of(home: Path) -> int:
    """Bytes that the processes of a home hold, shared ones counted once."""
    total = 0
    for pid in processes_of(home):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_tells_its_story_to_the_end(tmp_path: Path) -> None:
    output, figures = tmp_path / "output.txt", tmp_path / "figures.json"
    home = tmp_path / "home"
    command = [*DEMO, "--home", str(home), "--json"]
    environment = {**os.environ, "CROSSKD_DEVICES": "cpu"}
    peak = 0
    with (
        output.open("w") as out,
        figures.open("w") as told,
        subprocess.Popen(command, env=environment, stdout=told, stderr=out) as demo,
    ):
        while demo.poll() is None:
            peak = max(peak, memory_of(home))
            time.sleep(1.0)
    text = output.read_text()
    print(text, f"peak memory: {peak / 1e9:.2f} GB", sep="\n")  # noqa: T201 - pytest shows it with a failure

    assert demo.returncode == 0
    for name in ("teacher", "student alone", "student + CrossKD"):
        assert re.search(rf"^{re.escape(name)} +0\.\d{{3}} ", text, re.MULTILINE)
    assert f"Drawing {IMAGES} + {VAL_IMAGES} images" in text
    assert "of the gap to the teacher closed." in text
    assert "crosskd is not shown to differ from alone: there is one pair" in text  # however large the gain is
    report = re.search(r"^The report, for a browser: (.+)$", text, re.MULTILINE)
    assert report is not None
    assert Path(report[1]).read_text().startswith("<!DOCTYPE html>")
    assert ": verified)." in text
    found = re.search(r"measures AP ([\d.]+); the service said ([\d.]+)\.$", text, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(found[2]), abs=1e-6)
    numbers = json.loads(figures.read_text())
    assert [row["name"] for row in numbers["rows"]] == ["teacher", "student alone", "student + CrossKD"]
    assert f"{numbers['rows'][-1]['metrics']['AP']:.6f}" == found[2]
    assert Path(numbers["weights"]).is_file()
    assert 0 < peak < MOST_MEMORY
    assert processes_of(home) == []
