"""The worker's side of the wire: one typed method per worker endpoint.

Every call here may be repeated without harm (the API answers a repetition as it answered the first), so what the
network or a restarting API breaks is tried again, with backoff and jitter, for as long as the caller has patience.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx

from wire import tracing
from wire.artifacts import ArtifactKind, ArtifactRef
from wire.download import Damaged, Replaced, download
from wire.errors import IDEMPOTENCY_HEADER
from wire.process_log import REQUEST_ID_HEADER
from wire.reports import (
    FENCING_HEADER,
    INTERVAL_HEADER,
    Claim,
    ClaimRequest,
    Command,
    Finish,
    FinishReport,
    Heartbeat,
    WorkerCommand,
)
from wire.workers import HeartbeatReport, Registration
from worker.deliver.retry import (
    ONCE,
    Abandoned,
    BadDownload,
    Retry,
    StaleAttempt,
    fail,
    problem_text,
    send_with_retries,
)
from worker.deliver.spool import Record
from worker.deliver.transfer import Transfer

logger = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
IDLE_SECONDS = 20.0  # that a connection is kept for the next call: fewer than the API keeps it, which would break it
HEARTBEAT_SECONDS = 5.0
GONE = frozenset({404, 409, 410})  # of an attempt: it is not the job's live one, or is not there at all


def _interval(response: httpx.Response) -> float:
    """Seconds that the API would like to be left alone with metrics; 0 if it does not say."""
    value = response.headers.get(INTERVAL_HEADER, "")
    return float(value) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", value) else 0.0


class WorkerClient:
    """What a worker asks before it holds an attempt. `http` has the API's address and the worker's token."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def register(self, registration: Registration, retry: Retry = ONCE) -> None:
        """Say that this worker is there. Raises `Refused`, also of an API that does not know the call yet."""
        body = registration.model_dump(mode="json")
        response = send_with_retries(lambda: self.http.post("/worker/register", json=body), retry)
        if not response.is_success:
            fail(response)

    def claim(self, job: str, request: ClaimRequest, retry: Retry = ONCE) -> Claim | None:
        """Take the job, or None where it is not to be had: unknown, taken or over.

        It goes under a key of its own: one whose answer was lost is had again by the repetition, within `retry`.
        """
        body, headers = request.model_dump(mode="json"), {IDEMPOTENCY_HEADER: str(uuid4())}
        response = send_with_retries(
            lambda: self.http.post(f"/worker/jobs/{job}/claim", json=body, headers=headers), retry
        )
        if response.status_code in GONE:
            return None
        if not response.is_success:
            fail(response)
        return Claim.model_validate_json(response.content)

    def download(self, ref: ArtifactRef, path: Path, retry: Retry) -> None:
        """Fetch an artifact to `path`, resuming where a broken transfer stopped.

        Raises:
            BadDownload: size or sha256 differ from what `ref` says, twice over.
        """

        def send_until_final(send: Callable[[], httpx.Response]) -> None:
            response = send_with_retries(send, retry)
            if not response.is_success:
                fail(response)

        def stop(_done: int, _size: int) -> None:
            if retry.stop.is_set():
                raise Abandoned(f"download of {ref.name}")

        for attempt in (1, 2):
            try:
                download(
                    self.http,
                    ref.url,
                    path,
                    sha256=ref.sha256,
                    size=ref.size,
                    send_with_retries=send_until_final,
                    on_bytes=stop,
                )
                return
            except (Damaged, Replaced):
                logger.warning("%s arrived damaged (transfer %d of 2)", ref.name, attempt)
        raise BadDownload(f"{ref.name} does not have the sha256 that the API announced, {ref.sha256}")


class AttemptClient:
    """The calls of one attempt. Each raises `StaleAttempt` once another attempt has taken its place.

    `refusals`: seconds that a storage may refuse, at ever new addresses, what the API has a file sent to it. An outage
    passes by itself and is waited for as long as `Retry` says; this is a fault of somebody's settings.
    """

    def __init__(self, http: httpx.Client, attempt: str, fencing_token: int, *, refusals: float = 3600.0) -> None:
        self._http = http
        self._refusals = refusals
        self._url = f"/worker/attempts/{attempt}"
        self._headers = {FENCING_HEADER: str(fencing_token)}

    def heartbeat(self, timeout: float = HEARTBEAT_SECONDS, report: HeartbeatReport | None = None) -> Heartbeat:
        """Renew the lease. Tried once, for `timeout` seconds: the next heartbeat is the repetition."""
        body = report.model_dump_json() if report else None
        return Heartbeat.model_validate_json(self._post("heartbeat", body, ONCE, httpx.Timeout(timeout)))

    def command(self, wait: int, known: WorkerCommand | None = None) -> Command:
        """The present command; the API holds the request for up to `wait` seconds while it is the `known` one."""
        params: dict[str, str | int] = {"wait": wait} if known is None else {"wait": wait, "known": known}
        timeout = httpx.Timeout(30.0, connect=5.0, read=wait + 10.0)
        response = send_with_retries(
            lambda: self._http.get(f"{self._url}/commands", params=params, headers=self._headers, timeout=timeout),
            ONCE,
        )
        return Command.model_validate_json(self._checked(response))

    def report(self, record: Record, retry: Retry) -> float:
        """Send a report; how many seconds the next of its kind may wait, 0 if the API does not say."""
        return _interval(self._answer(record.endpoint, record.body, retry))

    def finish(self, report: FinishReport, retry: Retry) -> Finish:
        return Finish.model_validate_json(self._post("finish", report.model_dump_json(), retry))

    def upload(
        self, path: Path, name: str, kind: ArtifactKind, step: int | None, retry: Retry, sha256: bytes | None = None
    ) -> None:
        """Stream the file, to the API or where it says; it must not change meanwhile. The same bytes again are
        answered like the first.

        `sha256` is what they must have; unset, it is read from the file as it is now.

        What a broken connection has brought over stays there: a repetition sends only the rest.

        Raises:
            Refused: by the API; or by the storage, again and again for as long as it may.
        """
        transfer = Transfer(
            self._http, self._url, self._headers, path, name, kind, step, sha256, retry.stop, self._refusals
        )
        self._checked(send_with_retries(transfer.send, retry))

    def _post(self, what: str, body: str | None, retry: Retry, timeout: httpx.Timeout = TIMEOUT) -> bytes:
        return self._answer(what, body, retry, timeout).content

    def _answer(
        self, what: str, body: str | bytes | None, retry: Retry, timeout: httpx.Timeout = TIMEOUT
    ) -> httpx.Response:
        url, headers = f"{self._url}/{what}", {**self._headers, "Content-Type": "application/json"}
        response = send_with_retries(
            lambda: self._http.post(url, content=body, headers=headers, timeout=timeout), retry
        )
        self._checked(response)
        return response

    def _checked(self, response: httpx.Response) -> bytes:
        if response.status_code in GONE:
            raise StaleAttempt(problem_text(response))
        if not response.is_success:
            fail(response)
        return response.content


def set_correlation_headers(http: httpx.Client, request_id: str) -> None:
    """Let every further call name the request that the work is done for, and the span that it is done in."""
    named = {REQUEST_ID_HEADER: request_id, tracing.TRACEPARENT: tracing.traceparent()}
    http.headers.update({name: value for name, value in named.items() if value})


def connect(api_url: str, token: str) -> httpx.Client:
    """The HTTP client that the classes here are given; threads may share it."""
    return httpx.Client(
        base_url=api_url,
        headers={"Authorization": f"Bearer {token}", "User-Agent": "crosskd-worker"},
        timeout=TIMEOUT,
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=IDLE_SECONDS),
        follow_redirects=True,  # of a proxy, to https perhaps; to the storage itself goes `wire.storage`
    )
