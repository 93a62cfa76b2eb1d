"""Charts of the client: as files of the command, and as Altair's for notebooks."""

from __future__ import annotations

import json
import pickle
import sys
from copy import deepcopy
from pathlib import Path

import altair
import pytest

from client.errors import ClientError
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from tests.support.sweeps import order
from wire.jobs import Job, JobSummary
from wire.sweeps import Sweep


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    return service.succeeded("finished", b"weights")


def test_a_notebook_gets_altairs_chart_of_every_job_that_a_client_returns(service: Service, finished: str) -> None:
    with service.client() as client:
        chart = client.jobs.chart(finished, "loss")
        assert isinstance(chart, altair.LayerChart)
        assert chart.to_dict()["width"] > 0  # which "container" is not in every notebook
        listed = next(job for job in client.jobs.list() if job.id == finished)
        for job in (client.jobs.get(finished), listed, client.jobs.wait(finished), deepcopy(listed)):
            assert job.chart("loss").to_dict() == chart.to_dict()
        created = client.jobs.create({"name": "new", "spec": service.spec})
        with pytest.raises(ClientError, match="nothing to draw for 'loss'"):
            created.chart()
        with pytest.raises(ClientError, match="There is no chart 'nope'"):
            client.jobs.cancel(created.id).chart("nope")


def test_a_job_with_charts_is_still_the_wires_model(service: Service, finished: str) -> None:
    with service.client() as client:
        job = client.jobs.get(finished)
        same = client.jobs.get(finished)
    with service.client() as another:
        assert job == same == another.jobs.get(finished)
    plain = Job.model_validate_json(service.http.get(f"/jobs/{finished}").content)
    assert plain == job
    assert job == plain
    assert job != plain.model_copy(update={"name": "other"})
    assert job != JobSummary.model_validate(plain.model_dump())
    assert job.model_dump_json() == plain.model_dump_json()
    assert repr(job) == repr(plain)
    assert job.model_fields_set == plain.model_fields_set
    unpickled = pickle.loads(pickle.dumps(job))
    assert unpickled == job
    with pytest.raises(ClientError, match=r"came from no client\. Use the one that a client returns"):
        unpickled.chart()


def test_a_chart_is_a_picture_in_the_form_of_its_file(service: Service, finished: str, tmp_path: Path) -> None:
    for file, begins in (("loss.png", b"\x89PNG"), ("ap.svg", b"<svg"), ("lr.json", b"{")):
        path = tmp_path / file
        done = run(service, "chart", finished, path.stem, "-o", str(path))
        assert (done.returncode, done.stdout.strip()) == (0, str(path)), done.stderr
        assert path.read_bytes().startswith(begins)
    rows = json.loads((tmp_path / "lr.json").read_text())["datasets"]["series"]
    assert [row["value"] for row in rows] == [1, 0.5, 1 / 3]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        (
            "losss",
            "a.png",
            "There is no chart 'losss'. Did you mean `losses`? The job has losses, ap, classes, learning",
        ),
        ("curves", "a.png", "The job has nothing to draw for 'curves'. The job has losses,"),
        ("loss", "a.gif", "A chart is no .gif. Let the name end with one of .png, .svg, .json."),
        ("loss", "no/a.png", "cannot be written: No such file or directory. Name another file with --output."),
    ],
)
def test_what_is_no_chart_is_said(
    service: Service, finished: str, tmp_path: Path, name: str, file: str, said: str
) -> None:
    done = run(service, "chart", finished, name, "-o", str(tmp_path / file))
    assert done.returncode == 1
    assert said in done.stderr


def test_a_chart_of_a_sweep_without_results_says_so(service: Service, tmp_path: Path) -> None:
    with service.client() as client:
        created = client.sweeps.create(order(service.spec))
        sweep = created.id
        listed = next(one for one in client.sweeps.list() if one.id == sweep)
        for one in (created, listed, client.sweeps.get(sweep), client.sweeps.cancel(sweep)):
            with pytest.raises(ClientError, match="The sweep has nothing to draw for 'sweep_ap'"):
                one.chart("sweep_ap")
        assert client.sweeps.get(sweep) == Sweep.model_validate_json(service.http.get(f"/sweeps/{sweep}").content)
    done = run(service, "chart", sweep, "differences", "-o", str(tmp_path / "a.png"))
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "The sweep has nothing to draw for 'differences'. The sweep has no charts so far.",
    )


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_without_its_libraries_a_chart_names_the_command_that_installs_them(
    service: Service, finished: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    for module in [name for name in list(sys.modules) if name.startswith("report.") and "chart" in name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("report.charts.by_name", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    done = run(service, "chart", finished, "loss", "-o", str(tmp_path / "a.png"))
    said = f"Charts need the package {package}, which is not installed. Install it by `pip install 'crosskd[charts]'`."
    assert (done.returncode, done.stderr.strip()) == (1, said)
