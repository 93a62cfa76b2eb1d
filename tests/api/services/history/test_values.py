"""What is not finite: spelt on the wire, a kind without a value in a row, and the same again on the way back."""

from __future__ import annotations

import json
import math

import pytest

from api.services.history.values import as_stored, as_wire, non_finite
from wire.reports import MetricPoint
from wire.scalars import encode_non_finite, without_non_finite


@pytest.mark.parametrize(
    ("value", "spelt", "kind"),
    [
        (0.5, 0.5, 0),
        (3, 3.0, 0),
        (-0.0, -0.0, 0),
        (math.nan, "NaN", 1),
        (math.inf, "Infinity", 2),
        (-math.inf, "-Infinity", 3),
    ],
)
def test_a_value_comes_back_as_the_wire_spells_it(value: float, spelt: float | str, kind: int) -> None:
    told = encode_non_finite(value)
    assert (told, type(told)) == (spelt, type(spelt))
    point = MetricPoint.model_validate({"key": "loss", "step": 1, "value": told, "at": "2026-01-31T12:00:00Z"})
    stored = as_stored(point.value)
    assert stored == (None if kind else value, kind)
    assert as_wire(*stored) == spelt
    assert non_finite(1 << kind >> 1) == ([spelt] if kind else [])


def test_a_manifest_is_spelt_at_any_depth() -> None:
    found = without_non_finite(json.loads('{"a": [NaN, 1, {"b": -Infinity}], "c": "NaN", "d": true}'))
    assert found == {"a": ["NaN", 1, {"b": "-Infinity"}], "c": "NaN", "d": True}
