"""JSON, CSV, text, a page or Markdown, as `Accept` asks (RFC 9110, 12.5.1)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from pydantic import BaseModel

from api.errors import NotAcceptable

JSON = "application/json"
CSV = "text/csv"
PLAIN = "text/plain"
HTML = "text/html"
MARKDOWN = "text/markdown"


def negotiate(accept: str, offers: Sequence[str] = (JSON, CSV)) -> str:
    """The media type that the client likes best; of equals the first. Raises `NotAcceptable`."""
    if not accept.strip():
        return offers[0]
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
    liked = {offer: _quality(offer, ranges) for offer in offers}
    best = max(liked, key=lambda offer: liked[offer])
    if liked[best] <= 0:
        raise NotAcceptable(f"there is no {accept[:200]} here", remedy=f"Accept {' or '.join(offers)}.")
    return best


def _parse(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_range, float(value)
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """By the most specific range that fits."""
    for wanted in (offer, offer.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == wanted]
        if found:
            return max(found)
    return 0.0


def to_csv(model: type[BaseModel], items: Sequence[BaseModel]) -> str:
    """One line for each of the model's items under a header line; what is a list there, with spaces between."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(model.model_fields)
    for item in items:
        row = item.model_dump(mode="json")
        values = (row[column] for column in model.model_fields)
        writer.writerow(" ".join(value) if isinstance(value, list) else value for value in values)
    return text.getvalue()
