"""The worker's side of the wire: one typed method per worker endpoint.

Every call here may be repeated without harm (the API answers a repetition as it answered the first), so what the
network or a restarting API breaks is tried again, with backoff and jitter, for as long as the caller has patience.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Event
from typing import NoReturn
from uuid import uuid4

import httpx
from pydantic import ValidationError

from api.schemas import tracing
from api.schemas.artifacts import LENGTH_HEADER, OFFSET_HEADER, ArtifactKind, ArtifactRef
from api.schemas.errors import IDEMPOTENCY_HEADER, IN_FLIGHT, WRONG_OFFSET, Problem
from api.schemas.logs import LogBatch
from api.schemas.process_log import REQUEST_ID_HEADER
from api.schemas.reports import (
    FENCING_HEADER,
    INTERVAL_HEADER,
    Claim,
    ClaimRequest,
    Command,
    EvaluationReport,
    Finish,
    FinishReport,
    Heartbeat,
    MetricBatch,
    WorkerCommand,
)
from api.schemas.uploads import UploadPart, UploadPlan
from api.schemas.workers import HeartbeatReport
from worker import direct
from worker.digest import CHUNK, content_digest, sha256_of

logger = logging.getLogger(__name__)

FOREVER = float("inf")
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
IDLE_SECONDS = 20.0  # that a connection is kept for the next call: fewer than the API keeps it, which would break it
HEARTBEAT_SECONDS = 5.0
SLOWEST_DISK = 20_000_000  # bytes a second that an API is given time for
BUSY = 429
PASSING = frozenset({IN_FLIGHT, WRONG_OFFSET})  # conflicts that pass
GONE = frozenset({404, 409, 410})  # of an attempt: it is not the job's live one, or is not there at all


class ApiError(Exception):
    """A call to the API came to nothing."""


class Unreachable(ApiError):
    """No usable answer (none at all, 5xx or 429) until the caller's patience ran out.

    Also 507, a full disk: what is sent is kept here until somebody has made room there.
    """


class Refused(ApiError):
    """The API understood and said no (4xx); repeating the call would repeat the answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StaleAttempt(ApiError):
    """The attempt is no longer the job's live one: whatever works for it must stop at once."""


class Abandoned(ApiError):
    """The caller set its stop event while the call was waiting or streaming."""


class BadDownload(ApiError):
    """What arrived is not what the API announced."""


@dataclass(frozen=True)
class Retry:
    """How a failed call is repeated: waits grow from `first` to `longest` seconds, with jitter.

    `patience` is how many seconds of failures are borne, `stop` ends a wait early.
    """

    patience: float = FOREVER
    stop: Event = field(default_factory=Event)
    first: float = 0.2
    longest: float = 5.0

    def delay(self, tries: int, wanted: float = 0.0) -> float:
        backoff = min(self.longest, self.first * 2.0 ** min(tries, 16))
        return max(wanted, backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret


ONCE = Retry(patience=0.0)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, at most a minute: it may be back sooner than it thinks."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), 60.0)


def _interval(response: httpx.Response) -> float:
    """Seconds that the API would like to be left alone with metrics; 0 if it does not say."""
    value = response.headers.get(INTERVAL_HEADER, "")
    return float(value) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", value) else 0.0


def _passing(response: httpx.Response) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    if response.status_code == httpx.codes.CONFLICT:
        return _type_of(response) in PASSING
    return response.status_code == BUSY or response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR


def _type_of(response: httpx.Response) -> str:
    """Which kind of problem it is."""
    try:
        return Problem.model_validate_json(response.content).type
    except ValidationError:
        return ""


def _complaint(response: httpx.Response) -> str:
    """The problem document as a sentence."""
    what = f"{response.request.method} {response.request.url.path} answered {response.status_code}"
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return what
    faults = [f"{fault.pointer}: {fault.detail}" for fault in problem.errors]
    return f"{what}: " + "; ".join([problem.detail or problem.title, *faults])


def _fail(response: httpx.Response) -> NoReturn:
    raise Refused(_complaint(response), response.status_code)


def _persist(send: Callable[[], httpx.Response], retry: Retry) -> httpx.Response:
    """The first answer that will not pass (5xx, 429 and some conflicts do), whatever it takes within `retry`."""
    tries, troubled_since = 0, FOREVER
    while True:
        wanted = 0.0
        try:
            response = send()
            if not _passing(response):
                return response
            trouble, wanted = _complaint(response), _retry_after(response)
        except httpx.TransportError as exc:
            trouble = f"{type(exc).__name__}: {exc}"
        # Counted from the first failure: a long transfer that broke late has not used up any patience.
        troubled_since = min(troubled_since, time.monotonic())
        left = troubled_since + retry.patience - time.monotonic()
        if left <= 0:
            raise Unreachable(trouble)
        # A server that asks for more time than there is gets what there is: a caller who tries again at once would
        # give it none.
        delay = min(retry.delay(tries, wanted), left)
        if tries == 0:
            logger.warning("the API does not answer, trying again: %s", trouble)
        if retry.stop.wait(delay):
            raise Abandoned(trouble)
        tries += 1


class WorkerClient:
    """What a worker asks before it holds an attempt. `http` has the API's address and the worker's token."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def claim(self, job: str, request: ClaimRequest, retry: Retry = ONCE) -> Claim | None:
        """Take the job, or None where it is not to be had: unknown, taken or over.

        It goes under a key of its own: one whose answer was lost is had again by the repetition, within `retry`.
        """
        body, headers = request.model_dump(mode="json"), {IDEMPOTENCY_HEADER: str(uuid4())}
        response = _persist(lambda: self.http.post(f"/worker/jobs/{job}/claim", json=body, headers=headers), retry)
        if response.status_code in GONE:
            return None
        if not response.is_success:
            _fail(response)
        return Claim.model_validate_json(response.content)

    def download(self, ref: ArtifactRef, path: Path, retry: Retry) -> None:
        """Fetch an artifact to `path`, resuming where a broken transfer stopped.

        Raises:
            BadDownload: size or sha256 differ from what `ref` says, twice over.
        """
        part = path.with_name(path.name + ".part")
        for attempt in (1, 2):
            _persist(lambda: self._fetch(ref, part, retry.stop), retry)
            if part.stat().st_size == ref.size and sha256_of(part).hex() == ref.sha256:
                part.replace(path)
                return
            part.unlink()
            logger.warning("%s arrived damaged (transfer %d of 2)", ref.name, attempt)
        raise BadDownload(f"{ref.name} does not have the sha256 that the API announced, {ref.sha256}")

    def _fetch(self, ref: ArtifactRef, part: Path, stop: Event) -> httpx.Response:
        """One transfer, from where the last one stopped if those bytes are still current."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{ref.sha256}"'} if 0 < have < ref.size else {}
        with ExitStack() as stack:
            told = direct.asked(self.http, ref.url, {"Accept-Encoding": "identity", **headers})
            response = stack.enter_context(told)
            if direct.elsewhere(response):
                wanted = have if have < ref.size else 0
                response = stack.enter_context(direct.read(self.http, response, wanted, f'"{ref.sha256}"'))
            if not response.is_success:
                response.read()
                if response.is_client_error and response.status_code != BUSY:
                    _fail(response)
                return response
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            with part.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_bytes(CHUNK):
                    if stop.is_set():
                        raise Abandoned(f"download of {ref.name}")
                    file.write(chunk)
            return response


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
        response = _persist(
            lambda: self._http.get(f"{self._url}/commands", params=params, headers=self._headers, timeout=timeout),
            ONCE,
        )
        return Command.model_validate_json(self._checked(response))

    def metrics(self, batch: MetricBatch, retry: Retry) -> float:
        """Send a batch; how many seconds the next may wait, 0 if the API does not say."""
        return _interval(self._answer("metrics", batch.model_dump_json(), retry))

    def evaluation(self, report: EvaluationReport, retry: Retry) -> None:
        self._post("evaluations", report.model_dump_json(), retry)

    def log(self, batch: LogBatch, retry: Retry) -> None:
        self._post("logs", batch.model_dump_json(), retry)

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
        sha256 = sha256 or sha256_of(path)
        size, digest = path.stat().st_size, content_digest(sha256)
        url, named = f"{self._url}/artifacts/{name}", {"Repr-Digest": digest, LENGTH_HEADER: str(size)}
        params: dict[str, str | int] = {"kind": kind} if step is None else {"kind": kind, "step": step}
        # The API answers once it has read the file back and made it durable.
        timeout = httpx.Timeout(30.0, connect=5.0, read=30.0 + size / SLOWEST_DISK)
        begun = False

        def send(method: str, offset: int, more: dict[str, str]) -> httpx.Response:
            body = {"Content-Type": "application/octet-stream", "Content-Length": str(size - offset)}
            headers = self._headers | body | more
            with closing(_chunks(path, offset, retry.stop)) as chunks:
                return self._http.request(method, url, params=params, headers=headers, content=chunks, timeout=timeout)

        def put() -> httpx.Response:
            nonlocal begun
            if begun:
                asked = self._http.head(url, headers=self._headers | named)
                if not asked.is_success:
                    return asked
                if offset := int(asked.headers[OFFSET_HEADER]):
                    logger.info("the upload of %s goes on at byte %d of %d", name, offset, size)
                    return send("PATCH", offset, named | {OFFSET_HEADER: str(offset)})
            begun = True
            return send("PUT", 0, {"Content-Digest": digest})

        through_api = False
        refused_at = FOREVER  # since then the storage has taken nothing
        upload = f"{self._url}/uploads/{name}"
        request: dict[str, object] = {"size": size, "sha256": sha256.hex(), **params}

        def deliver(part: UploadPart, checksum: str) -> None:
            nonlocal refused_at
            try:
                direct.send(self._http, part, checksum, lambda at, count: _chunks(path, at, retry.stop, count))
            except direct.StorageRefused as refusal:
                if time.monotonic() - refused_at >= self._refusals:
                    remedy = "look at the rights of the API's credentials, its clock, and the settings of the bucket"
                    raise Refused(f"{name} is not taken: {refusal}; {remedy}", httpx.codes.FORBIDDEN) from None
                refused_at = min(refused_at, time.monotonic())
                raise
            refused_at = FOREVER

        def bring() -> httpx.Response:
            nonlocal through_api
            if through_api:
                return put()
            asked = self._http.post(upload, json=request, headers=self._headers)
            if not asked.is_success:
                return asked
            plan = UploadPlan.model_validate_json(asked.content)
            if plan.through == "api":
                through_api = True
                return put()
            found, md5 = direct.checksums(path, plan.parts)
            if found != sha256:
                raise Refused(f"{name} has changed since it was written", httpx.codes.BAD_REQUEST)
            for part, checksum in zip(plan.parts, md5, strict=True):
                if not part.arrived:
                    deliver(part, checksum)
            return self._http.put(upload, json=request | {"md5": md5}, headers=self._headers, timeout=timeout)

        self._checked(_persist(bring, retry))

    def _post(self, what: str, body: str | None, retry: Retry, timeout: httpx.Timeout = TIMEOUT) -> bytes:
        return self._answer(what, body, retry, timeout).content

    def _answer(self, what: str, body: str | None, retry: Retry, timeout: httpx.Timeout = TIMEOUT) -> httpx.Response:
        url, headers = f"{self._url}/{what}", {**self._headers, "Content-Type": "application/json"}
        response = _persist(lambda: self._http.post(url, content=body, headers=headers, timeout=timeout), retry)
        self._checked(response)
        return response

    def _checked(self, response: httpx.Response) -> bytes:
        if response.status_code in GONE:
            raise StaleAttempt(_complaint(response))
        if not response.is_success:
            _fail(response)
        return response.content


def _chunks(path: Path, offset: int, stop: Event, count: int | None = None) -> Generator[bytes]:
    """From `offset` to the end, or `count` bytes of it."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK if count is None else min(CHUNK, count)):
            count = None if count is None else count - len(chunk)
            if stop.is_set():
                raise Abandoned(f"upload of {path.name}")
            yield chunk


def speak_for(http: httpx.Client, request_id: str) -> None:
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
        follow_redirects=True,  # of a proxy, to https perhaps; to the storage itself goes `worker.direct`
    )
