"""Query parameters that an endpoint does not have."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.support.databases import ONE_DATABASE


@ONE_DATABASE
@pytest.mark.parametrize(
    ("path", "pointer", "remedy"),
    [
        ("/jobs?stats=failed", "stats", "Did you mean `status`? Known here: "),
        ("/jobs?page=2", "page", "Remove it. Known here: "),
        ("/compare?jobs=a", "jobs", "Did you mean `job`? Known here: "),
        ("/health?x=1", "x", "Remove it. None is known here."),
    ],
)
def test_one_that_is_unknown_is_refused_and_a_near_name_proposed(
    client: TestClient, path: str, pointer: str, remedy: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == pointer
    assert fault["remedy"].startswith(remedy)


@ONE_DATABASE
def test_a_value_that_is_unknown_is_refused_and_a_near_one_proposed(client: TestClient) -> None:
    (fault,) = client.get("/jobs?status=runing").json()["errors"]
    assert fault["pointer"] == "status"
    assert fault["remedy"].startswith("Did you mean `running`? Use 'waiting', 'queued', 'running'")


@ONE_DATABASE
def test_all_are_counted_and_a_hundred_listed(client: TestClient) -> None:
    answer = client.get("/jobs?" + "&".join(f"p{number}=1" for number in range(150))).json()
    assert answer["detail"] == "150 query parameters are unknown"
    assert len(answer["errors"]) == 100


def test_those_that_an_endpoint_has_are_taken(client: TestClient) -> None:
    assert client.get("/jobs?status=failed&label=a%3Db&limit=1").status_code == 200
