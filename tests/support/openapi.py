"""The API's description as a client reads it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI


def described(app: FastAPI) -> dict[str, Any]:
    """`/openapi.json` of a configured application."""
    found: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    return found
