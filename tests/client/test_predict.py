"""`client.predict` and `crosskd predict`, against the real API."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from client import predict
from client.commands import predict as command
from client.errors import ApiProblem
from crosskd.errors import ConfigError
from crosskd.spec.results.predictions import PredictionModel, Predictions
from tests.support.api_server import Service, digest_of
from tests.support.crosskd_command import run
from tests.support.flows import ended, flowing
from tests.support.tiny_graph import tiny_graph

NO_IMAGE = "\x1b[2Jno\udcff.png"  # a terminal would obey it, and it is no UTF-8


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    """A job that has left a graph."""
    job = service.post("graph")
    worker = service.claimed(job)
    graph = tiny_graph()
    assert worker.put("model.onnx?kind=onnx", graph, **digest_of(graph)).is_success
    assert worker.finish("succeeded").is_success
    return job


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of one name, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "other").mkdir()
    paths = [folder / "street.jpg", folder / "other" / "street.png"]
    for path in paths:
        Image.new("RGB", (400, 200)).save(path)
    (folder / NO_IMAGE).write_text("this is no image at all")
    return [*paths, folder / NO_IMAGE]


def test_the_sdk_predicts_one_image_or_several(service: Service, job: str, images: list[Path]) -> None:
    with service.client() as client:
        one = client.jobs.predict(job, images[0])
        assert [result.bbox for result in one.results] == [(0, 0, 200, 100), (100, 100, 300, 50)]
        assert one.images[0].file_name == "street.jpg"
        several = client.jobs.predict(job, [images[2], *images], score=0.5)
        assert [result.image_id for result in several.results] == [1, 2]
        assert [image.fault is None for image in several.images] == [False, True, True, False]
        with pytest.raises(ApiProblem, match="no image of a known format"):
            client.jobs.predict(job, images[2])
        with pytest.raises(ConfigError, match="cannot be read"):
            client.jobs.predict(job, "gone.jpg")
        picture = Image.open(io.BytesIO(client.jobs.predict_picture(job, images[0])))
        assert (picture.format, picture.size) == ("PNG", (400, 200))


def test_the_command_leaves_pictures_and_one_answer(
    service: Service, job: str, images: list[Path], tmp_path: Path
) -> None:
    done = run(service, "predict", job, *map(str, images), "-o", str(tmp_path), "--score", "0.1")
    assert done.returncode == 1  # for the one that is no image
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.json", "street-boxes-2.png", "street-boxes.png",
    ]  # fmt: skip
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["image_id"] for row in found["results"]] == [0, 0, 1, 1]
    assert "ring 0.90" in done.stdout
    assert "no image of a known format" in done.stdout
    assert "\x1b" not in done.stdout

    told = run(service, "predict", job, str(images[0]), "-o", str(tmp_path), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["images"][0]["file_name"] == "street.jpg"
    unknown = run(service, "predict", "0" * 32, str(images[0]), "-o", str(tmp_path))
    assert unknown.returncode == 1
    assert "no such job" in unknown.stderr


@pytest.mark.parametrize("name", ["gone.onnx", "best.safetensors", "here", "folder"])
def test_a_file_is_the_cores_matter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Became(Exception):
        pass

    def become(verb: str, arguments: list[str]) -> None:
        raise Became(verb, *arguments)

    monkeypatch.setattr(command, "become_core", become)
    (tmp_path / "here").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").touch()
    model = str(tmp_path / name)
    with pytest.raises(Became) as caught:
        run("http://127.0.0.1:1", "predict", "-o", "out", "--json", "--", model, "-a.jpg", "b.jpg")
    options = ["--output", "out", "--score", "0.3", "--max", "100", "--json"]
    assert list(caught.value.args) == ["predict", *options, "--", model, "-a.jpg", "b.jpg"]


def test_many_images_go_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BYTES", 50)
    paths = []
    for number, size in enumerate([10] * 10 + [60, 30, 30]):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(bytes(size))
    asked: list[list[str]] = []

    def ask(some: list[predict.Image]) -> Predictions:
        asked.append([name for name, _ in some])
        told: list[Any] = [{"id": number, "file_name": name} for number, (name, _) in enumerate(some)]
        model = PredictionModel(name="m", sha256="s")
        return Predictions.model_validate({"model": model, "categories": [], "images": told, "results": []})

    whole = ended(predict.ask_all(flowing(ask), paths))
    assert asked == [list("01234"), list("56789"), ["10"], ["11"], ["12"]]
    assert [(image.id, image.file_name) for image in whole.images] == [(n, str(n)) for n in range(13)]
