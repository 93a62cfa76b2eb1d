"""Numbers as JSON has them: `false` is none, nor is `"1"`, though Pydantic would take both for one.

JSON has no NaN and no infinity either. Where such a value says something, the wire spells it; elsewhere it is null.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

LARGEST = 2**53  # the largest whole number up to which every JSON reader has each one exactly

Number = Annotated[float, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
Flag = Annotated[bool, Field(strict=True)]

NonFinite = Literal["NaN", "Infinity", "-Infinity"]
NON_FINITE: tuple[NonFinite, ...] = get_args(NonFinite)
Spelt = Annotated[Number, Field(allow_inf_nan=False)] | NonFinite


def encode_non_finite(value: float) -> float | NonFinite:
    """`value` as the wire has it."""
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def without_non_finite(value: Any) -> Any:
    """A copy of parsed JSON in which every number that is not finite is spelt.

    So is a whole number beyond every float: databases read it as one, and SQLite then writes what is no JSON.
    """
    if isinstance(value, dict):
        return {key: without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_non_finite(item) for item in value]
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "Infinity" if value > 0 else "-Infinity"
    return encode_non_finite(value) if isinstance(value, float) else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Known = Annotated[Number | None, AfterValidator(_finite)]  # null: there is none, or one that is not finite


def figure(value: Any) -> float | None:
    """A number of JSON that anybody may have written, such as a worker's manifest; None: it is none.

    JSON bounds no number. One beyond `LARGEST` is none that anything here has measured, and sums of such overflow.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # not of a NaN, either
