"""The API's description: every failure is a problem, every operation has the name of its function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from wire.errors import MEDIA_TYPE, Problem

_REFERENCE = "#/components/schemas/{model}"
_PROBLEM = {
    "description": "A problem (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}},
}
# What is the same wherever it stands in a path or a header; a query's parameters say it themselves.
_PARAMETERS = {
    ("path", "job"): "Id of the job: 32 hex digits.",
    ("path", "attempt"): "Id of the attempt: 32 hex digits, as the answer to its claim has it.",
    ("path", "name"): "Name of the artifact: letters, digits, `.`, `_` and `-`, 200 at most.",
    ("path", "step"): "Optimizer step of the evaluation.",
    ("path", "sweep"): "Id of the sweep: 32 hex digits.",
    ("path", "dataset"): "Name of the data set: up to 63 letters, digits, `.`, `_` and `-`.",
    ("path", "digest"): "Digest of the version, or at least six digits of its beginning.",
    ("path", "token"): "Id of the token: 32 hex digits.",
    ("path", "webhook"): "Id of the webhook: 32 hex digits.",
    ("header", "Fencing-Token"): "Number of the attempt, as the answer to its claim has it.",
    ("header", "accept"): "Which of the forms is wanted; default: JSON.",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": _PROBLEM, "5XX": _PROBLEM}


def operation_id(route: APIRoute) -> str:
    return route.name


def _complete(operation: dict[str, Any], security: list[dict[str, list[str]]]) -> None:
    """Put in what FastAPI does not say of an operation: who may call it, what its failures and its parameters are."""
    operation.pop("security", None)
    if security:
        operation["security"] = security
    for status, answer in operation["responses"].items():
        if status[0] in "45":  # also one that is described for what else it holds
            answer.setdefault("content", _PROBLEM["content"])
    for parameter in operation.get("parameters", ()):
        if said := _PARAMETERS.get((parameter["in"], parameter["name"])):
            parameter.setdefault("description", said)


def install(app: FastAPI, security: Callable[[str], list[dict[str, list[str]]]]) -> None:
    """Describe `app` with the schema that its problems have, and with what `security` says of each path."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            problem = Problem.model_json_schema(ref_template=_REFERENCE)
            known = schema.setdefault("components", {}).setdefault("schemas", {})
            known |= problem.pop("$defs")
            known[Problem.__name__] = problem
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    _complete(operation, security(path))
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # the way FastAPI documents
