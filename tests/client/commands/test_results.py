"""The verbs that show what a job made, as a person runs them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from crosskd.evaluation.average_precision import average_precision
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from tests.support.matches import detections, truth
from tests.support.sweeps import order

WEIGHTS = b"weights" * 1000


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    return service.succeeded("finished", WEIGHTS)


def test_jobs_are_compared(service: Service, tmp_path: Path) -> None:
    """By the process that the API starts for it, out of files that a worker has sent."""
    known = truth(tmp_path, 3)
    jobs: list[str] = []
    for seed in (4, 5):
        packed = average_precision(known, detections(known, seed)).matches
        assert packed is not None
        jobs.append(service.succeeded(f"seed {seed}", WEIGHTS, **{"matches.safetensors": packed}))
    done = run(service, "compare", "seed 4", jobs[1], "--baseline", jobs[0][:31])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"seed 5 ({jobs[1]}) against seed 4 ({jobs[0]})")
    assert "8 images, 1000 resamples, seed 0" in done.stdout
    assert "name two jobs or more" in run(service, "compare", jobs[0]).stderr
    told = run(service, "compare", *jobs, "--json")
    assert [job["job"] for job in json.loads(told.stdout)["jobs"]] == jobs
    older = service.succeeded("older", WEIGHTS)
    done = run(service, "compare", jobs[0], older)
    assert done.returncode == 1
    assert f"crosskd submit evaluate --weights-job {older} " in done.stderr


def test_images_are_listed_and_fetched(service: Service) -> None:
    """By the processes that the API starts for it, out of files that a worker has sent."""
    ring, square = [4.0, 4.0, 20.0, 20.0], [30.0, 30.0, 20.0, 20.0]  # of the one image, as it is annotated

    def packed(*found: tuple[int, list[float]]) -> bytes:
        entries = [{"image_id": 1, "category_id": label, "bbox": box, "score": 0.75} for label, box in found]
        return gzip.compress(json.dumps(entries).encode())

    files = {"detections.json.gz": packed((1, ring)), "teacher_detections.json.gz": packed((1, ring), (2, square))}
    job = service.succeeded("with images", WEIGHTS, **files)
    done = run(service, "images", "with images", "-n", "5")
    assert done.returncode == 0, done.stderr
    head, *_, row, total = (line.split() for line in done.stdout.strip().splitlines())
    assert " ".join(head).endswith("IoU 0.5: student from score 0.750, teacher from score 0.750")
    assert row == ["1", "1.png", "0.667", "1", "0", "1", "1.000", "+0.333"]
    assert total == ["all", "1", "images", "0.667", "1", "0", "1", "1.000"]
    other = service.succeeded("other images", WEIGHTS, **{"detections.json.gz": packed()})
    done = run(service, "images", job, "--order", "gain", "--against", other, "--class", "ring", "--json")
    assert done.returncode == 0, done.stderr
    (image,) = json.loads(done.stdout)["items"]
    assert (image["gain"], [box["class_name"] for box in image["truth"]]) == (1.0, ["ring"])
    with service.client() as client:
        assert client.jobs.images(job, order="id").items[0].student.boxes[0].kind == "true"
        picture = Image.open(io.BytesIO(client.jobs.thumbnail(job, 1, size=32)))
    assert (picture.format, picture.size) == ("JPEG", (32, 32))
    older = service.succeeded("without images", WEIGHTS)
    done = run(service, "images", older)
    assert done.returncode == 1
    assert f"crosskd submit evaluate --weights-job {older} " in done.stderr


def test_figures_and_files_are_listed(service: Service, finished: str) -> None:
    evaluations = run(service, "evaluations", finished).stdout.splitlines()
    assert evaluations[1].split()[:4] == ["student", "3", "1", "0.250"]
    assert "-" in evaluations[1].split()  # nothing large to measure
    metrics = run(service, "metrics", finished, "--key", "loss", "--since-step", "2").stdout.splitlines()
    assert [line.split()[:3] for line in metrics[1:]] == [["2", "loss", "0.5"], ["3", "loss", "0.333333"]]
    artifacts = run(service, "artifacts", finished).stdout
    assert "best.safetensors" in artifacts
    assert str(len(WEIGHTS)) in artifacts


def test_download_prints_where_the_file_is(service: Service, finished: str, tmp_path: Path) -> None:
    done = run(service, "download", finished, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "best.safetensors")
    assert (tmp_path / "best.safetensors").read_bytes() == WEIGHTS
    done = run(service, "download", finished, "nothing.txt", "--output", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("404 ")
    assert "'nothing.txt'. It has: best.safetensors" in done.stderr


@pytest.mark.parametrize(
    ("job", "file", "said"),
    [
        (
            "@last-of-all",
            "r.html",
            "There is no job and no sweep @last-of-all. GET /jobs (`crosskd jobs`) lists the jobs. GET /sweeps (",
        ),
        (
            "f" * 32,
            "r.html",
            f"There is no job and no sweep {'f' * 32}. `crosskd jobs` and `crosskd sweeps` list them.",
        ),
        ("f" * 32, "README.md", f"There is no job and no sweep {'f' * 32}."),
        (None, "README.md", "A sweep has no model card. Name one of its jobs, or "),
    ],
)
def test_what_has_no_report_is_said(service: Service, tmp_path: Path, job: str | None, file: str, said: str) -> None:
    if job is None:
        with service.client() as client:
            client.sweeps.create(order(service.spec, name="without a card"))
            job = "without a card"
    done = run(service, "report", job, "-o", str(tmp_path / file))
    assert done.returncode == 1
    assert done.stderr.startswith(said)
