"""Values that every JSON column stores and every JSON reader reads."""

from __future__ import annotations

import math
from typing import Any


def spell(value: float) -> float | str:
    """JSON has no NaN and no infinity; the wire spells them."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain(value: Any) -> Any:
    """A copy of parsed JSON without non-finite numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return spell(value) if isinstance(value, float) else value
