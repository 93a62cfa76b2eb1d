"""Vega-Lite's own schema, checked once: `jsonschema.validate` would check it for each drawing, in half a second."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from altair.vegalite.v6 import schema


def assert_valid(drawing: Any) -> None:
    """Raise `jsonschema.ValidationError` where it is no drawing of Vega-Lite."""
    _validator().validate(drawing)


@cache
def _validator() -> Any:
    described = schema.core.load_schema()
    return jsonschema.validators.validator_for(described)(described)
