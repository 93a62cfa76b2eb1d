"""The most work that a body can make for the service, for the benchmark and for the test of it.

Each body is about as large as the limit allows. They are made from the description of the API: a list in each place
that takes one, and unknown fields in each object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LIMIT = 990_000  # bytes of a body


def filled(item: str) -> str:
    """A list that has no bound."""
    return "[" + ",".join([item] * (LIMIT // (len(item) + 1))) + "]"


def fields(count: int, value: str = "0") -> str:
    return "{" + ",".join(f'"{number}":{value}' for number in range(count)) + "}"


def wrong_entries(schema: dict[str, Any]) -> str | None:
    """As many entries as a list or a mapping may have, each as wrong as the rest of the bytes allows."""
    count = schema.get("maxItems", schema.get("maxProperties", 0))
    if count < 100:
        return None
    room = LIMIT // count - 12
    entry = fields(min(16, room // 7))
    return fields(count, entry) if schema["type"] == "object" else "[" + ",".join([entry] * count) + "]"


def places(
    schema: dict[str, Any], known: dict[str, Any], depth: int = 5
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Paths to every list and object that a schema takes, its own among them; what they are filled with besides."""
    if depth == 0:
        return
    reference = schema.get("$ref")
    if reference is not None:
        schema = known[reference.rpartition("/")[2]]
    for branch in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("oneOf", ())):
        yield from places(branch, known, depth)
    if schema.get("type") in ("array", "object"):
        yield (), wrong_entries(schema)
    for name, inner in schema.get("properties", {}).items():
        yield from (((name, *path), entries) for path, entries in places(inner, known, depth - 1))


def bodies(schema: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    for path, entries in dict.fromkeys(places(schema, known)):
        head = "".join(f'{{"{name}":' for name in path)
        for filling in (filled("{}"), fields(LIMIT // 9), entries):
            if filling is not None:
                yield head + filling + "}" * len(path)


def of_every_endpoint(description: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Method, path and body of the requests that take JSON, as the OpenAPI `description` has them."""
    known = description["components"]["schemas"]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                yield from ((method, path, body) for body in bodies(content["application/json"]["schema"], known))
