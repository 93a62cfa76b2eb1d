"""Requests to a service: repeated while it is away, its refusals as errors, its answers as the wire's models."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from client.download import fetch
from client.errors import ApiProblem, ClientError, Unreachable, not_utf8
from client.events import UNAVAILABLE
from wire.download import OnBytes
from wire.errors import IDEMPOTENCY_HEADER, IN_FLIGHT, MEDIA_TYPE, QUOTA_EXCEEDED, Problem
from wire.retry_after import retry_after

DEFAULT_URL = "http://127.0.0.1:8470"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
COMPARE_TIMEOUT = httpx.Timeout(300.0, connect=10.0)  # of what is computed once: others may be computed first
PAGE = 100  # jobs, or sweeps, asked for at once
LOOPBACK = ("127.0.0.1", "localhost", "::1")
RETRY_PAUSE = 0.5
READS = ("GET", "HEAD")

ModelT = TypeVar("ModelT", bound=BaseModel)


class Transport:
    """The connection of a `Client`, whose docstring tells how it behaves."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        http: httpx.Client | None = None,
        *,
        token: str | None = None,
        patience: float = 60.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.patience = patience
        self._owns_http = http is None
        # A proxy meant for the outside world must not stand between two processes of one machine.
        try:
            outside = urlsplit(self.base_url).hostname not in LOOPBACK
            headers = {"authorization": f"Bearer {token}"} if token else None
            self._http = http or httpx.Client(
                base_url=self.base_url, headers=headers, timeout=TIMEOUT, trust_env=outside
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise ClientError(
                f"{base_url!r} is no address ({error}).", remedy="Use one like http://HOST:PORT."
            ) from error
        self._reached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def _fetch(self, path: str, name: str, target: Path, on_bytes: OnBytes | None) -> Path:
        target = target / name if target.is_dir() else target
        try:
            head = self._send("HEAD", path)
        except ApiProblem:
            self._send("GET", path, headers={"range": "bytes=0-0"})  # an answer to HEAD has no body: ask for the reason
            raise
        return fetch(self._http, path, head, target, patience=self.patience, on_bytes=on_bytes)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + self.patience
        while True:
            wanted = 0.0
            try:
                response = self._http.request(method, path, **options)
            except httpx.UnsupportedProtocol as error:
                remedy = "Use one like http://HOST:PORT."
                raise ClientError(f"{self.base_url!r} is no address of a service ({error}).", remedy=remedy) from error
            except UnicodeEncodeError as error:
                raise not_utf8(error) from error
            except httpx.TransportError as error:
                if not self._reached or time.monotonic() > deadline:
                    raise unreachable(self.base_url, error) from error
            else:
                self._reached = True
                if not _is_transient(response) or time.monotonic() > deadline:
                    return checked(response)
                wanted = retry_after(response.headers)
            time.sleep(max(RETRY_PAUSE, min(wanted, deadline - time.monotonic())))

    def _text(self, path: str, media_type: str, **params: Any) -> str:
        headers = {"accept": media_type}
        return self._send("GET", path, params=params, headers=headers, timeout=COMPARE_TIMEOUT).text


def _is_transient(response: httpx.Response) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    if response.status_code == httpx.codes.CONFLICT:
        return IN_FLIGHT in response.text  # a former try of this request is still being answered
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return QUOTA_EXCEEDED not in response.text  # of a quota only the end of a job helps
    if response.request.method in READS:
        return response.status_code in UNAVAILABLE
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE  # 502 and 504: it may have been done, who knows


def parse(model: type[ModelT], response: httpx.Response) -> ModelT:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise ClientError(
            f"{response.request.url} answered with something that is no {model.__name__}.",
            remedy="Check the address, and that service and client are of one version.",
        ) from error


def checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        try:
            raise ApiProblem(Problem.model_validate_json(response.content))
        except ValidationError:
            pass  # not a problem after all: told in its own words below
    text = "" if response.request.method == "HEAD" else response.text[:500]
    title = response.reason_phrase or "no success"
    raise ApiProblem(Problem(title=title, status=response.status_code, detail=text))


def unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    return Unreachable(
        f"No answer from {url} ({error or type(error).__name__}).",
        remedy="Start the service with `crosskd up`, or name its address with --url or CROSSKD_URL.",
    )


def body(job: BaseModel | Mapping[str, Any]) -> Any:
    # Only what was set travels: the service fills in the defaults of its own version.
    return job.model_dump(mode="json", exclude_unset=True) if isinstance(job, BaseModel) else dict(job)


def given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def idempotency_header(key: str | None) -> dict[str, str]:
    """The header of a request that creates."""
    return {IDEMPOTENCY_HEADER: key or str(uuid4())}


def segment(text: str) -> str:
    return quote(text, safe="")
