"""Health, presets and the API's description of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.auth import PUBLIC_PATHS
from wire.jobs import JobCreate


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """Nothing here depends on the database."""
    return str(request.param)


def operations(description: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_health(client: TestClient) -> None:
    answer = client.get("/health")
    assert answer.json()["status"] == "ok"


def test_every_preset_makes_a_job(client: TestClient, spec: dict[str, Any]) -> None:
    presets = client.get("/presets").json()["items"]
    assert {"demo_teacher", "demo_student", "demo_crosskd"} <= {preset["name"] for preset in presets}
    for preset in presets:
        full = {**preset["spec"], "data": spec["data"]}
        if preset["kind"] == "distill":
            full["teacher"] = {"model": full["student"], **full.get("teacher", {}), "weights": {"file": "x"}}
        assert preset["title"]
        JobCreate.model_validate({"kind": preset["kind"], "name": preset["name"], "spec": full})


def test_the_description_is_whole(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    ids = [operation["operationId"] for _, _, operation in operations(description)]
    assert len(set(ids)) == len(ids)
    assert all(name.isidentifier() and name.islower() for name in ids)
    for reference in references(description):
        kind, _, name = reference.removeprefix("#/components/").partition("/")
        assert name in description["components"][kind], reference


def test_every_failure_is_described_as_a_problem(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for method, path, operation in operations(description):
        for status in ("4XX", "5XX"):
            assert list(operation["responses"][status]["content"]) == ["application/problem+json"], (method, path)


def test_the_examples_are_valid(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    examples = description["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"train", "distill", "evaluate", "export", "import"}
    for example in examples.values():
        JobCreate.model_validate(example["value"])


def test_each_path_says_which_token_it_asks_for(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert description["components"]["securitySchemes"].keys() == {"token", "worker"}
    for _, path, operation in operations(description):
        expected = [{"worker": []}] if path.startswith("/worker/") else [{"token": []}, {}]
        if path.startswith("/jobs/{job}/artifacts/"):
            expected.insert(1, {"worker": []})
        assert operation.get("security") == (None if path in PUBLIC_PATHS else expected), path


def test_docs_are_served(client: TestClient) -> None:
    assert "/openapi.json" in client.get("/docs").text


def test_the_docs_page_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert any(link.endswith(".js") for link in links)
    assert all(link.startswith("/") and client.get(link).status_code == 200 for link in links), links
