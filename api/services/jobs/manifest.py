"""What the manifest of an attempt tells of its job."""

from __future__ import annotations

from typing import Any


def missing_onnx(manifest: dict[str, Any] | None) -> str:
    """Why a training has left no graph, as its manifest says it; empty where it has, or was not asked to."""
    told = (manifest or {}).get("onnx")
    return str(told.get("missing") or "") if isinstance(told, dict) else ""
