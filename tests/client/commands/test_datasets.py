"""`crosskd datasets` with the service: list, show, add, rm; and the same by the SDK."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.resources import datasets
from crosskd.spec.results.dataset_comparison import compare_reports
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from tests.support.versions import run_import, write_source
from tests.support.worker_calls import Worker


def test_a_data_set_from_the_command_line(service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(home / "data" / "cells")
    worker = Worker(service.http)  # type: ignore[arg-type]  # any client of httpx will do
    made = []
    for seed in (0, 1):
        added = run(service, "datasets", "add", "cells", str(source), "--no-near", "--validation", "0.5", "--seed", "3")
        assert added.returncode == 0, added.stderr
        job = added.stdout.strip()
        assert run(service, "datasets", "show", "cells").stderr == f"importing: {job}\n"
        with service.client() as client:
            spec = client.jobs.get(job).spec
        assert (spec["split"]["validation"], spec["split"]["seed"], spec["near_duplicates"]) == (0.5, 3, False)
        write_source(source, seed=seed)
        made.append(run_import(worker, job, source))
    old, new = made

    listed = run(service, "datasets", "list")
    assert new.digest[:12] in listed.stdout
    shown = run(service, "datasets", "show", "cells").stdout
    assert shown.index(new.digest) < shown.index(old.digest)
    assert f"digest: {old.digest}" in run(service, "datasets", "show", f"cells@{old.digest[:8]}").stdout
    detail = json.loads(run(service, "datasets", "show", f"cells@{old.digest[:8]}", "--json").stdout)
    assert detail["report"] == old.report.model_dump(mode="json")

    monkeypatch.setattr(datasets, "PAGE", 1)
    run(service, "datasets", "add", "others", str(source))
    with service.client() as client:
        assert [known.name for known in client.datasets.list()] == ["cells", "others"]
        found = client.datasets.compare("cells", old.digest, new.digest[:8])
    assert found == compare_reports(old.report, new.report)

    refused = run(service, "datasets", "rm", "others")
    assert refused.returncode == 1
    assert "is about to import others" in refused.stderr
    assert json.loads(run(service, "datasets", "list", "--json").stdout)[0]["version_count"] == 2
    assert json.loads(run(service, "datasets", "add", "more", str(source), "--json").stdout)["kind"] == "import"
    removed = run(service, "datasets", "rm", "cells", "--json")
    assert json.loads(removed.stdout) == {"name": "cells", "deleted": True}
    gone = run(service, "datasets", "show", "cells")
    assert (gone.returncode, "no such data set" in gone.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["a cell", "/etc"], 1, "/name"),
        (["cells", "/etc"], 1, "/source"),
        (["cells", "/etc", "--seed", "1"], 2, "--validation"),
    ],
    ids=str,
)
def test_what_is_refused(service: Service, arguments: list[str], code: int, told: str) -> None:
    done = run(service, "datasets", "add", *arguments)
    assert done.returncode == code
    assert told in done.stderr
