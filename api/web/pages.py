"""The pages: HTML that tells of no job, and scripts of ours that ask the API for what they show, as anyone may."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.errors import NotFound, Unavailable
from api.web import assets
from report.charts import vega

# Vega draws with its expression interpreter (`ast`), so charts need no `unsafe-eval` either.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
PAGES = {  # templates by path
    "/": "jobs.html",
    "/web/jobs/{job}": "job.html",
    "/web/sign-in": "sign_in.html",
    "/web/new": "new.html",
    "/web/sweeps": "sweeps.html",
    "/web/sweeps/{sweep}": "sweep.html",
    "/web/compare": "compare.html",
    "/web/workers": "workers.html",
}

router = APIRouter(include_in_schema=False)

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("api.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@cache
def _rendered(template: str) -> assets.Asset:
    text = _templates.get_template(template).render(static=f"/web/static/{assets.version()}")
    return assets.asset(text.encode(), "text/html; charset=utf-8")


def _page(template: str) -> Callable[[Request], Response]:
    def page(request: Request) -> Response:
        return _send(request, _rendered(template), "no-cache")

    return page


for path, template in PAGES.items():
    router.add_api_route(path, _page(template), response_class=Response, name=template.removesuffix(".html") + "_page")


@router.get("/web/static/{version}/{name}")
def get_static(version: str, name: str, request: Request) -> Response:
    """A script, style or picture of the pages."""
    found = assets.assets().get(name)
    if found is None:
        raise NotFound("there is no such file of the pages")
    current = version == assets.version()  # else a page of a former version asks
    return _send(request, found, "public, max-age=31536000, immutable" if current else "no-cache")


@cache
def _vega() -> assets.Asset:
    return assets.asset(vega.javascript().encode(), "text/javascript")


@router.get("/web/charts/{name}")
async def get_drawing(name: str, request: Request) -> Response:
    """How a chart is drawn: Vega-Lite without data."""
    return _send(request, await run_in_threadpool(_drawing, name), "no-cache")


@cache
def _drawing(name: str) -> assets.Asset:
    from report.charts import by_name  # Altair takes a third of a second to import, which a start need not wait for

    if name not in by_name.NAMES:
        raise NotFound("there is no such chart", remedy=f"There are {', '.join(by_name.NAMES)}.")
    return assets.asset(json.dumps(by_name.drawing(name)).encode(), "application/json")


@router.get("/web/vega.js")
def get_vega(request: Request) -> Response:
    """Vega, Vega-Lite and Vega-Embed, as their package has them."""
    try:
        return _send(request, _vega(), "no-cache")
    except vega.ScriptsMissing as error:
        raise Unavailable(f"the charts' scripts cannot be made: {error}", remedy="Try again in a moment.") from None


def _send(request: Request, found: assets.Asset, cache_control: str) -> Response:
    headers = HEADERS | {"ETag": found.etag, "Cache-Control": cache_control, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.gzipped, headers=headers | {"Content-Encoding": "gzip"}, media_type=found.media_type)
    return Response(found.body, headers=headers, media_type=found.media_type)
