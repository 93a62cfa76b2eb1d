"""What was found in an image, in the form of COCO's files, and the picture of it. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from crosskd.predict.draw import drawn, png
from crosskd.predict.found import Found
from crosskd.predict.picture import decode
from crosskd.spec.evaluate_export import ScaleConfig
from crosskd.spec.results.predictions import Category, CocoResult, Milliseconds, PredictedImage


@dataclass(frozen=True)
class Wanted:
    """What is asked for of an image."""

    score: float  # of the least sure detection that is told, 0..1
    most: int  # detections
    max_pixels: int
    picture: bool = False


@dataclass(frozen=True)
class Answer:
    """One image's part of `Predictions`, and its picture as PNG where one was asked for, else nothing."""

    image: PredictedImage
    results: list[CocoResult]
    picture: bytes = b""


def answer(
    detect: Callable[[Image.Image], Found],
    scale: ScaleConfig,
    categories: Sequence[Category],
    content: bytes,
    wanted: Wanted,
    *,
    number: int = 0,
    name: str = "",
) -> Answer:
    """What `detect` finds in the image that `content` holds. Raises `BadImage`, and whatever `detect` does."""
    begin = time.perf_counter()
    image, remark = decode(content, scale, max_pixels=wanted.max_pixels)
    found = detect(image).best(wanted.score, wanted.most)
    picture = b""
    if wanted.picture:
        names = [category.name for category in categories]
        picture = png(drawn(image, found.boxes, found.scores, found.labels, names))
    total = 1000 * (time.perf_counter() - begin)
    told = PredictedImage(
        id=number,
        file_name=name,
        width=image.width,
        height=image.height,
        left_out=found.left_out,
        remark=remark,
        milliseconds=Milliseconds(model=round(found.model_milliseconds, 2), total=round(total, 2)),
    )
    return Answer(told, results(found, categories, number), picture)


def results(found: Found, categories: Sequence[Category], image: int) -> list[CocoResult]:
    """The detections of an image, in its order, to a thousandth of a pixel."""
    return [
        CocoResult(
            image_id=image,
            category_id=categories[label].id,
            bbox=(round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)),
            score=round(score, 6),
        )
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]
