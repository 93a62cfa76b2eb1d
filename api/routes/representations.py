"""JSON, CSV or text, as `Accept` asks (RFC 9110, 12.5.1)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from api.errors import NotAcceptable
from api.schemas.reports import MetricPage, MetricRow

JSON = "application/json"
CSV = "text/csv"
PLAIN = "text/plain"


def choose(accept: str, offers: Sequence[str] = (JSON, CSV)) -> str:
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


def to_csv(page: MetricPage) -> str:
    """One line per point under a header line."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = list(MetricRow.model_fields)
    writer.writerow(columns)
    for row in page.items:
        writer.writerow(row.model_dump(mode="json")[column] for column in columns)
    return text.getvalue()
