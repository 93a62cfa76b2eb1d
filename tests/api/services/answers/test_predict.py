"""`POST /jobs/{id}/predict`, by a graph of a few nodes in real processes; what is refused, and that it stops nobody."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from api.errors import BadRequest, TooManyRequests, Unavailable
from api.predict.pool import Pool
from api.services import tokens
from api.services.answers.predict import Graph, Question, Upload, predict
from api.settings import Settings
from tests.support.api_client import ELSEWHERE, bearer, problem
from tests.support.tiny_graph import CLASSES, tiny_graph
from tests.support.waiting import until
from tests.support.worker_calls import Worker, upload
from wire.tokens import TokenCreate

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

EXPORT = "crosskd submit export --weights-job"


def stored(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return file.getvalue()


SMALL, WIDE = stored(96, 64, "JPEG"), stored(400, 200)
ENDLESS = stored(64, 96)  # the tiny graph goes round for ever
HUGE = stored(10_000, 10_000, mode="1")  # a hundred megapixels in some kilobytes
HUNGRY = stored(8_000, 7_900, mode="1")  # within the limit of pixels; 190 MB as RGB, twice
TEXT = b"<html><body>no image at all</body></html>"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    return make_settings(predict_threads=1, **getattr(request, "param", {}))


@pytest.fixture
def job(post_job: Callable[..., str], worker: Worker) -> str:
    """A job that has ended, with a graph."""
    return finished(post_job, worker, {"best.safetensors": b"weights", "model.onnx": tiny_graph()})


def finished(
    post_job: Callable[..., str], worker: Worker, files: dict[str, bytes], outcome: str = "succeeded", **more: Any
) -> str:
    job = post_job()
    worker.claim(job)
    for name, content in files.items():
        upload(worker, f"{name}?kind=onnx" if name.endswith(".onnx") else name, content)
    assert worker.finish(outcome, **more).status_code == 200
    return job


@pytest.fixture
def ask(client: TestClient, job: str) -> Callable[..., Any]:
    """Predict on images: one as the body, or several as a form."""

    def post(*images: bytes, query: str = "", **headers: str) -> Any:
        path = f"/jobs/{job}/predict{query}"
        if len(images) == 1:
            return client.post(path, content=images[0], headers=headers)
        return client.post(path, files=[("image", (f"{n}.png", image)) for n, image in enumerate(images)])

    return post


def test_one_image_gets_coco_results(
    client: TestClient, job: str, ask: Callable[..., Any], app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSKD_BROKER_PASSWORD", "a-secret")
    answer = ask(WIDE)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["categories"] == [{"id": 7, "name": "ring"}, {"id": 3, "name": CLASSES[1]}]
    (image,) = found["images"]
    assert (image["id"], image["width"], image["height"], image["left_out"], image["fault"]) == (0, 400, 200, 0, None)
    assert 0 < image["milliseconds"]["model"] <= image["milliseconds"]["total"]
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in found["results"]] == [
        (0, 7, [0, 0, 200, 100]),
        (0, 3, [100, 100, 300, 50]),
    ]
    assert found["model"]["name"] == "model.onnx"
    assert found["model"]["weights_sha256"] == "ab"
    assert (app.state.settings.home / "predict" / f"{found['model']['sha256']}.onnx").exists()

    surest = ask(WIDE, query="?score=0.5").json()
    assert ([row["score"] for row in surest["results"]], surest["images"][0]["left_out"]) == ([0.9], 1)
    first = ask(SMALL, query="?max=1").json()
    assert (len(first["results"]), first["images"][0]["left_out"]) == (1, 1)

    several = ask(WIDE, TEXT, HUGE, SMALL).json()  # those that are no use have their fault
    kinds = [(image["id"], image["file_name"], (image["fault"] or {}).get("kind")) for image in several["images"]]
    assert kinds == [(0, "0.png", None), (1, "1.png", "format"), (2, "2.png", "pixels"), (3, "3.png", None)]
    assert [row["image_id"] for row in several["results"]] == [0, 0, 3, 3]
    assert several["images"][1]["fault"]["remedy"] == "Save it as JPEG or PNG."

    path, half = f"/jobs/{job}/predict", {"content-type": f"{FORM}; charset=unicode_escape"}
    named = client.post(path, content=form_of("half of a pair: \\ud800"), headers=half).json()
    assert named["images"][0]["file_name"] == "half of a pair: \\ud800"

    picture = ask(WIDE, accept="image/png")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    drawn = np.asarray(Image.open(io.BytesIO(picture.content)))
    assert drawn.shape == (200, 400, 3)
    assert drawn[99, 150].any()  # the lower edge of the first box
    assert not drawn[149, 250].any()  # of the second, whose score is not enough for a picture
    (process,) = app.state.predictions._all
    assert b"a-secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()


FORM = "multipart/form-data; boundary=x"


def form_of(name: str) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return head.encode() + SMALL + b"\r\n--x--\r\n"


NO_IMAGES = [
    (b"", 422, "the body is empty"),
    (b"\x89", 422, "1 byte cannot be an image"),
    (SMALL[:300], 422, "cannot be decoded"),
    (TEXT, 415, "no image of a known format"),
    (b'{"image": 1, "and": "more"}', 415, "no image of a known format"),
    (HUGE, 413, "10000 x 10000 pixels are more than the 64,000,000"),
]


def test_what_is_no_image_to_use(ask: Callable[..., Any], app: FastAPI) -> None:
    for content, status, what in NO_IMAGES:
        answer = ask(content)
        assert what in problem(answer, status)
        assert answer.json()["remedy"]
    assert len(app.state.predictions._all) == 1  # which goes on after each of them


@pytest.mark.parametrize("settings", [{"predict_images": 2, "predict_body_limit": 20_000}], indirect=True)
def test_forms_that_cannot_be_used(client: TestClient, job: str, app: FastAPI) -> None:
    path = f"/jobs/{job}/predict"
    image = ("image", ("a.png", SMALL))
    assert "more than 2 images" in problem(client.post(path, files=[image] * 3), 413)
    assert "no file" in problem(client.post(path, files=[image], data={"score": "0.5"}), 422)
    form = {"content-type": FORM}
    assert "no file" in problem(client.post(path, content=b"--x--\r\n", headers=form), 422)
    assert "cannot be read" in problem(client.post(path, content=b"nonsense", headers=form), 400)
    assert "cannot be read" in problem(
        client.post(path, content=b"a", headers={"content-type": form["content-type"][:19]}), 400
    )
    undefined = client.post(path, content=form_of("a.png"), headers={"content-type": f"{FORM}; charset=undefined"})
    assert "cannot be read" in problem(undefined, 400)
    assert "larger than 20000 bytes" in problem(client.post(path, content=bytes(20_001)), 413)
    chunks = (bytes(1000) for _ in range(21))  # without a word on how many there are
    assert "larger than 20000 bytes" in problem(client.post(path, content=chunks), 413)
    two = client.post(path, files=[image] * 2, headers={"accept": "image/png"})
    assert "2 images have no one picture" in problem(two, 406)
    assert "text/html" in problem(client.post(path, content=SMALL, headers={"accept": "text/html"}), 406)
    assert problem(client.post(f"{path}?score=2", content=SMALL), 422)
    assert problem(client.post(f"{path}?max=0", content=SMALL), 422)
    assert problem(client.post(f"{path}?scores=0.5", content=SMALL), 422)
    assert app.state.predictions._all == set()  # none of these needed a process
    assert app.state.predictions._admitted == 0


def test_jobs_without_a_graph_say_how_to_get_one(
    client: TestClient, worker: Worker, post_job: Callable[..., str], spec: dict[str, Any]
) -> None:
    weights = {"best.safetensors": b"weights"}

    def asked(job: str, status: int) -> tuple[str, str]:
        answer = client.post(f"/jobs/{job}/predict", content=SMALL)
        return problem(answer, status), answer.json()["remedy"]

    queued = post_job()
    detail, remedy = asked(queued, 409)
    assert detail == "the job has no model.onnx yet: it is queued"
    assert "ask again" in remedy
    assert f"{EXPORT} {queued}" in remedy
    off = finished(post_job, worker, weights)
    detail, remedy = asked(off, 404)
    assert "its spec had none written" in detail
    assert f"{EXPORT} {off} --data FOLDER" in remedy
    failing = finished(post_job, worker, weights, result={"onnx": {"missing": "there is no onnx here"}})
    assert "there is no onnx here" in asked(failing, 404)[0]
    last = client.get(f"/jobs/{failing}").json()["transitions"][-1]
    assert last["reason"] == "attempt 1 finished; no ONNX is written: there is no onnx here"
    nothing = finished(post_job, worker, {}, "failed", failure={"failure_class": "user", "message": "m"})
    assert asked(nothing, 404)[0] == "the job has no model.onnx and never will: it is failed"
    windows = post_job(spec=spec | {"student": {"backbone": {"name": "swin_t", "init": "random"}}})
    detail, remedy = asked(windows, 404)  # an export is no way out, now or later
    assert "never will: swin_t cannot be exported" in detail
    assert "crosskd.load" in remedy
    assert "no such job" in asked("0" * 32, 404)[0]


def test_a_graph_that_is_none_and_one_that_is_gone(
    client: TestClient, worker: Worker, post_job: Callable[..., str], settings: Settings
) -> None:
    strange = finished(post_job, worker, {"best.safetensors": b"w", "model.onnx": b"no graph"})
    answer = client.post(f"/jobs/{strange}/predict", content=SMALL)
    assert "onnxruntime does not load" in problem(answer, 409)
    lost = finished(post_job, worker, {"best.safetensors": b"w", "model.onnx": tiny_graph(more=1)})
    for path in (settings.storage / lost).iterdir():
        path.write_bytes(b"damaged")
    assert "gone or damaged" in problem(client.post(f"/jobs/{lost}/predict", content=SMALL), 410)
    assert list((settings.home / "predict").glob(".*")) == []


@contextmanager
def running(app: FastAPI, ask: Callable[..., Any], image: bytes) -> Iterator[Any]:
    """A request that is being answered in another thread meanwhile."""
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(ask, image)
        until(lambda: app.state.predictions._limiter.borrowed_tokens == 1)
        yield answer


@pytest.mark.parametrize("settings", [{"predict_seconds": 2, "predict_queue": 0}], indirect=True)
def test_an_endless_image_stops_nobody(
    app: FastAPI, client: TestClient, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(SMALL).status_code == 200
    (first,) = app.state.predictions._all
    with running(app, ask, ENDLESS) as answer:
        assert client.get("/health").status_code == 200
        full = ask(SMALL)
        assert "1 requests for predictions" in problem(full, 429)
        assert int(full.headers["retry-after"]) > 0
        late = answer.result()
    assert "given up after 2 seconds" in problem(late, 504)
    assert not first.alive
    assert ask(SMALL).status_code == 200  # by a process of its own

    (second,) = app.state.predictions._all
    with running(app, ask, ENDLESS) as answer:
        os.kill(second.pid, signal.SIGKILL)
        assert "has died" in problem(answer.result(), 422)
    assert ask(SMALL).status_code == 200
    (third,) = app.state.predictions._all
    os.kill(third.pid, signal.SIGKILL)  # while nobody uses it
    until(lambda: not third.alive)
    assert ask(SMALL).status_code == 200
    (fourth,) = app.state.predictions._all
    app.state.predictions.close()
    assert not fourth.alive


@pytest.mark.parametrize("settings", [{"predict_memory": 256 << 20}], indirect=True)
def test_an_image_that_needs_too_much_memory(ask: Callable[..., Any]) -> None:
    answer = ask(HUNGRY)
    assert "more memory than the 256 MiB" in problem(answer, 413)
    assert ask(SMALL).status_code == 200


@pytest.mark.parametrize("settings", [{"predict_processes": 0}], indirect=True)
def test_predictions_may_be_turned_off(ask: Callable[..., Any]) -> None:
    answer = ask(SMALL)
    assert "makes no predictions" in problem(answer, 501)
    assert "CROSSKD_PREDICT_PROCESSES" in answer.json()["remedy"]


@pytest.mark.parametrize("settings", [{"auth": "tokens"}], indirect=True)
def test_who_may_read_may_predict(app: FastAPI) -> None:
    with app.state.database.transaction() as session:
        made = tokens.create(session, TokenCreate(name="r", scopes=["read"]))
    with TestClient(app, raise_server_exceptions=False, **ELSEWHERE) as client:
        path = f"/jobs/{'0' * 32}/predict"
        assert client.post(path, content=SMALL).status_code == 401
        assert client.post(path, content=SMALL, headers=bearer(made.token)).status_code == 404
        assert client.post(f"/jobs/{'0' * 32}/cancel", headers=bearer(made.token)).status_code == 403


def test_images_that_do_not_come_are_not_waited_for(settings: Settings) -> None:
    pool = Pool(settings.model_copy(update={"predict_processes": 1, "predict_queue": 1}))
    held = [pool.admitted() for _ in range(3)]
    held[0].__enter__()
    held[1].__enter__()
    with pytest.raises(TooManyRequests):
        held[2].__enter__()
    held[0].__exit__(None, None, None)
    with pool.admitted():
        assert pool._admitted == 2


def test_of_a_client_that_leaves_and_a_service_that_stops_no_more_images_are_looked_at(settings: Settings) -> None:
    """The place of the one is another's at once; for the other no process starts that nobody would end."""
    pool = Pool(settings)
    request = (Graph("0" * 32, "key", "00"), Path("graph"), [Upload("a", SMALL)] * 2, Question(0.1, 1, picture=False))

    async def asked(gone: bool) -> None:
        async def told() -> bool:
            return gone

        await predict(pool, *request, told)

    with pytest.raises(BadRequest, match="broke off"):
        asyncio.run(asked(gone=True))
    pool.close()
    with pytest.raises(Unavailable):
        asyncio.run(asked(gone=False))
    assert pool._all == set()
