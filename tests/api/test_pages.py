"""How the pages and their files are sent. What they do is tried in a browser: tests/browser."""

from __future__ import annotations

import gzip
import re

import pytest
from fastapi.testclient import TestClient

from api.web.pages import PAGES
from tests.support.api_client import problem
from tests.support.databases import ONE_DATABASE

pytestmark = ONE_DATABASE


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_only_what_the_service_has(client: TestClient, path: str) -> None:
    answer = client.get(re.sub(r"\{\w+\}", "0" * 32, path))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", answer.text)
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert all(re.match(r"/(?!/)", address) for address in addresses)
    files = [address for address in addresses if "." in address]
    assert len(files) >= 4
    assert {client.get(address).status_code for address in files} == {200}


def test_files_are_kept_by_browsers_until_they_change(client: TestClient) -> None:
    (style,) = re.findall(r'href="(\S+style.css)"', client.get("/").text)
    plain = client.get(style, headers={"Accept-Encoding": "identity"})
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["x-content-type-options"] == "nosniff"
    with client.stream("GET", style, headers={"Accept-Encoding": "gzip"}) as packed:
        assert gzip.decompress(b"".join(packed.iter_raw())) == plain.content
    assert client.get(style, headers={"If-None-Match": plain.headers["etag"]}).status_code == 304
    former = client.get(re.sub(r"static/\w+/", "static/0/", style))
    assert former.content == plain.content
    assert former.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/web/static/0/absent.js", "/web/static/0/..%2Fpages.py", "/web/charts/absent", "/web"]
)
def test_nothing_else_is_sent(client: TestClient, path: str) -> None:
    problem(client.get(path), 404)


def test_a_chart_is_drawn_without_rows(client: TestClient) -> None:
    drawn = client.get("/web/charts/losses").json()
    assert "vega-lite" in drawn["$schema"]
    assert not drawn.get("datasets")
