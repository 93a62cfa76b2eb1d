"""The bytes of validation images and their thumbnails: which are given, how they are oriented, and what is refused."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from api.images.pool import ThumbnailPool
from api.services.answers import images
from api.settings import Settings
from crosskd.data.images import ImageFolder
from tests.support.evaluations import report_best
from tests.support.job_images import Jobs, change, index_here, measured, split
from tests.support.worker_calls import upload

WIDTH, HEIGHT = 60, 40  # of the image that is tried
SPOT = (45, 30)  # x, y: a white corner of a black picture, as it is annotated


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_run", index_here)


@pytest.fixture
def job(client: TestClient, spec: dict[str, Any], root: Path) -> str:
    """Of eight images; the first, of id 1, is `0.png`."""
    known = split(root)
    one = measured(known, 4)

    def narrow(content: dict[str, Any]) -> None:
        content["images"][0] |= {"width": WIDTH, "height": HEIGHT}

    change(known.path, narrow)
    return Jobs(client, spec, known, root).finished(one)


@pytest.fixture
def first(root: Path) -> Path:
    return root / "images" / "0.png"


@pytest.fixture
def get(client: TestClient, job: str) -> Callable[..., Any]:
    def ask(what: str = "", image: int = 1, **headers: str) -> Any:
        return client.get(f"/jobs/{job}/images/{image}{what}", headers=headers)

    return ask


def upright() -> Image.Image:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[SPOT[1] :, SPOT[0] :] = 255
    return Image.fromarray(pixels)


def stored(orientation: int) -> bytes:
    """A JPEG that is upright, as annotated, when it is turned as EXIF says."""
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    turn = turns[orientation]
    image = upright() if turn is None else upright().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = io.BytesIO()
    image.save(target, "JPEG", exif=exif, quality=95)
    return target.getvalue()


def shown(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(answer.content))
    assert not image.getexif()  # it is upright by itself
    return image.convert("L")


def is_spot_right(image: Image.Image) -> bool:
    """The white corner is where a box around it, scaled by the size of the picture, would be."""
    x, y = SPOT[0] * image.width / WIDTH, SPOT[1] * image.height / HEIGHT
    corner = np.asarray(image.crop((round(x) + 2, round(y) + 2, image.width, image.height)))
    rest = np.asarray(image.crop((0, 0, round(x) - 2, image.height)))
    return bool(corner.min() > 200 and rest.max() < 50)


def test_thumbnails_are_oriented_and_converted_as_a_training_reads_them(get: Callable[..., Any], first: Path) -> None:
    for orientation in (1, 2, 3, 6, 8):
        first.write_bytes(stored(orientation))
        image = shown(get("/thumbnail?size=48"))
        assert (image.size, is_spot_right(image)) == ((48, 32), True), orientation
        read = ImageFolder(first.parent, 10**6).read(first.name, (HEIGHT, WIDTH)).convert("L")
        assert is_spot_right(read)
    # Turned by EXIF it would not be of the annotated size: the training reads it as it is stored, and so do we.
    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    upright().save(target, "JPEG", exif=exif, quality=95)
    first.write_bytes(target.getvalue())
    assert is_spot_right(shown(get("/thumbnail")))
    deep = np.zeros((HEIGHT, WIDTH), np.uint16)
    deep[SPOT[1] :, SPOT[0] :] = 65535
    for kind in ("PNG", "TIFF"):
        Image.fromarray(deep).save(first, kind)
        image = shown(get("/thumbnail"))
        assert (image.size, is_spot_right(image)) == ((WIDTH, HEIGHT), True)  # it is never enlarged


def test_a_thumbnail_is_kept_under_its_tag(
    get: Callable[..., Any], first: Path, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.write_bytes(stored(1))
    made = get("/thumbnail")
    for name in ("content-security-policy", "x-content-type-options"):
        assert made.headers[name] in ("sandbox; default-src 'none'", "nosniff")
    assert made.headers["cache-control"] == "private, max-age=300"
    monkeypatch.setattr(ThumbnailPool, "ask", None)  # whoever made it again would fail
    assert get("/thumbnail").content == made.content
    same = get("/thumbnail", **{"If-None-Match": made.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert get("/thumbnail?size=33", **{"If-None-Match": made.headers["etag"]}).status_code == 500  # it is another
    first.write_bytes(stored(2))
    assert get("/thumbnail", **{"If-None-Match": made.headers["etag"]}).status_code == 500  # so is this


def test_the_image_itself(get: Callable[..., Any], first: Path) -> None:
    content = first.read_bytes()
    whole = get()
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["cache-control"] == "private, max-age=300"
    same = get(**{"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    part = get(Range="bytes=1-3")
    assert (part.status_code, part.content) == (206, b"PNG")
    first.write_bytes(stored(6))  # whatever its name says
    assert get(**{"If-None-Match": whole.headers["etag"]}).headers["content-type"] == "image/jpeg"


def test_an_image_deleted_meanwhile_is_told(get: Callable[..., Any], first: Path, client: TestClient, job: str) -> None:
    first.unlink()
    for what in ("", "/thumbnail"):
        told = problem(get(what), 410)
        assert told["detail"] == "the image 1, '0.png', is no longer there"
        assert "Put it back" in told["remedy"]
        assert get(what).headers["cache-control"] == "no-store"
    assert len(client.get(f"/jobs/{job}/images").json()["items"]) == 8  # its boxes are told all the same
    first.parent.rename(first.parent.with_name("elsewhere"))
    assert "the folder of the images cannot be opened" in problem(get(image=4), 410)["detail"]


def test_only_images_of_the_split_below_the_data_roots(
    get: Callable[..., Any], first: Path, root: Path, tmp_path: Path
) -> None:
    assert "no image with the id 2" in problem(get(image=2), 404)["detail"]
    secret = tmp_path / "secret.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(secret)
    first.unlink()
    first.symlink_to(secret)
    assert "leads out of the data" in problem(get(), 404)["detail"]
    inside = root / "another.png"  # a link within the roots is as good as a file
    inside.write_bytes(secret.read_bytes())
    first.unlink()
    first.symlink_to(inside)
    assert get().content == inside.read_bytes()
    first.unlink()
    os.mkfifo(first)
    assert "no regular file" in problem(get(), 410)["detail"]


def test_a_report_shows_sample_images_before_and_after(
    client: TestClient, spec: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = split(root)
    jobs = Jobs(client, spec, known, root)
    job = jobs.finished(measured(known, 4), measured(known, 5, model="teacher", step=0), outcome=None)
    upload(jobs.worker, "samples-student-00000003.json.gz?kind=samples&step=3", measured(known, 9, step=3).samples)

    def page() -> str:
        return str(client.get(f"/jobs/{job}/report", headers={"Accept": "text/html"}).text)

    assert "Sample images" not in page()  # it has not said that it was evaluated
    report_best(jobs.worker, 7, 0.4)
    whole = page()
    pictures = re.findall(r'<image id="sample-\d+" href="data:image/jpeg;base64,([^"]+)"', whole)
    assert [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures] == [(300, 300)] * 4
    assert whole.count("<figure") == whole.count("<use ") + 4 == 12
    for title in ("Teacher", "Step 3", "Step 7, the best"):
        assert whole.count(f"<figcaption>{title}, from score ") == 4
    found = client.get(f"/jobs/{job}/images?step=7&order=id").json()
    first = next(item for item in found["items"] if item["truth"])
    x, y, width, height = first["student"]["boxes"][0]["box"]
    assert f'x="{x}" y="{y}" width="{width}" height="{height}"' in whole
    monkeypatch.setattr("report.samples.MOST_BYTES", 2 * len(pictures[0]) + 1000)
    assert page().count("<image ") == 2
    shutil.rmtree(root / "images")
    assert "<image " not in page()
    assert "sample images with what was found in them, all of them: the folder of the images cannot" in page()
    known.path.unlink()
    assert "sample images with what was found in them: the annotation file of the job" in page()


@pytest.mark.parametrize("content", [b"<svg/>", b"<html>", b"", b"RIFF1234WAVE"])
def test_what_is_no_image_is_not_given(get: Callable[..., Any], first: Path, content: bytes) -> None:
    first.write_bytes(content)
    for what in ("", "/thumbnail"):
        assert "no image of a known format" in problem(get(what), 415)["detail"]


def test_an_image_that_has_no_thumbnail_says_why(get: Callable[..., Any], first: Path) -> None:
    first.write_bytes(stored(1)[:300])
    assert "cannot be decoded" in fault(get("/thumbnail"))
    Image.new("RGB", (WIDTH, WIDTH)).save(first)
    assert f"{WIDTH} x {WIDTH} pixels, but annotated as {WIDTH} x {HEIGHT}" in fault(get("/thumbnail"))
    for size in (31, 2049):
        problem(get(f"/thumbnail?size={size}"), 422)


class TestBounds:
    @pytest.fixture
    def settings(self, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(thumbnail_pixels=1000, thumbnail_processes=1, thumbnail_queue=0)

    def test_pixels_and_the_queue_are_bounded(self, get: Callable[..., Any], first: Path, app: FastAPI) -> None:
        first.write_bytes(stored(1))
        assert "more than the 1,000" in fault(get("/thumbnail"))
        with app.state.thumbnails.admitted():
            told = get("/thumbnail")
            assert "requests for thumbnails are being answered" in problem(told, 429)["detail"]
            assert "CROSSKD_THUMBNAIL_QUEUE" in told.json()["remedy"]
            assert told.headers["retry-after"] == "2"
            assert get().status_code == 200  # the image itself needs no process


class TestNone:
    @pytest.fixture
    def settings(self, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(thumbnail_processes=0)

    def test_a_service_may_have_none(self, get: Callable[..., Any]) -> None:
        assert "CROSSKD_THUMBNAIL_PROCESSES" in problem(get("/thumbnail"), 501)["remedy"]


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    return told


def fault(answer: Any) -> str:
    (one,) = problem(answer, 422)["errors"]
    assert one["pointer"] == "image"
    assert one["remedy"]
    return str(one["detail"])
