"""Predictions asked of the service: images of any number, a few in a request, as one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from client.errors import ApiProblem, ClientError
from client.transport.flow import Flow
from crosskd.predict.output import read_image
from crosskd.spec.results.predictions import FaultKind, ImageFault, PredictedImage, Predictions

TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # it may wait behind others
TOGETHER = 8  # images of one request
BYTES = 8_000_000  # of the images of one request, where there are several
_KINDS: dict[int, FaultKind] = {413: "pixels", 415: "format", 422: "broken", 504: "time"}

Image = tuple[str, bytes]  # its name, and its bytes
Ask = Callable[[list[Image]], Flow[Predictions]]


def read(images: Sequence[Path]) -> Iterator[list[Image]]:
    """The images in the order in which they were named, as many at a time as go into a request.

    Raises `ConfigError` for one that cannot be read.
    """
    some: list[Image] = []
    size = 0
    for path in images:
        content = read_image(path)
        if some and (len(some) == TOGETHER or size + len(content) > BYTES):
            yield some
            some, size = [], 0
        some.append((path.name, content))
        size += len(content)
    if some:
        yield some


def ask_all(ask: Ask, images: Sequence[Path]) -> Flow[Predictions]:
    """The answers to all images as one. Those that the service refuses have their fault in it.

    Raises `ApiProblem` where it is not the image that is at fault.
    """
    whole: Predictions | None = None
    faults: list[PredictedImage] = []
    before = 0
    last: ApiProblem | None = None
    for some in read(images):
        try:
            found = yield from ask(some)
        except ApiProblem as error:
            kind = _KINDS.get(error.problem.status)
            if len(some) > 1 or kind is None:
                raise
            fault = ImageFault(kind=kind, detail=error.message, remedy=error.remedy)
            faults.append(PredictedImage(id=before, file_name=some[0][0], fault=fault))
            last = error
        else:
            _shift(found, before)
            whole = found if whole is None else _joined(whole, found)
        before += len(some)
    if whole is None:
        raise last if last is not None else ClientError("There are no images.", remedy="Name one.")
    whole.images = sorted([*whole.images, *faults], key=lambda image: image.id)
    return whole


def files(images: Sequence[Image]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The images as the files of a form."""
    return [
        ("image", (name.encode(errors="backslashreplace").decode(), content, "application/octet-stream"))
        for name, content in images
    ]


def query(score: float | None, most: int | None) -> dict[str, Any]:
    """What was asked for; the service has its own defaults."""
    return {name: value for name, value in (("score", score), ("max", most)) if value is not None}


def _shift(found: Predictions, by: int) -> None:
    for image in found.images:
        image.id += by
    for result in found.results:
        result.image_id += by


def _joined(first: Predictions, second: Predictions) -> Predictions:
    categories = first.categories or second.categories
    images, results = [*first.images, *second.images], [*first.results, *second.results]
    return second.model_copy(update={"categories": categories, "images": images, "results": results})
