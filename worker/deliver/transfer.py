"""One file on its way to the API, or to the storage that the API names."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from threading import Event

import httpx

from wire.artifacts import LENGTH_HEADER, OFFSET_HEADER, ArtifactKind
from wire.errors import DIGEST_MISMATCH
from wire.storage import StorageRefused
from wire.uploads import UploadPart, UploadPlan
from worker.deliver import direct
from worker.deliver.digest import CHUNK, content_digest, sha256_of
from worker.deliver.retry import FOREVER, Abandoned, Refused, kind_of

logger = logging.getLogger(__name__)

SLOWEST_DISK = 20_000_000  # bytes a second that an API is given time for


class Transfer:
    """Holds what is known from one try to the next: `send` is called until its answer will not pass.

    `attempt` is the attempt's address and `headers` its own; `sha256` is what the bytes must have, read from the file
    as it is now if it is not given. `refusals`: seconds that a storage may refuse, at ever new addresses.
    """

    def __init__(
        self,
        http: httpx.Client,
        attempt: str,
        headers: dict[str, str],
        path: Path,
        name: str,
        kind: ArtifactKind,
        step: int | None,
        sha256: bytes | None,
        stop: Event,
        refusals: float,
    ) -> None:
        self._http = http
        self._headers = headers
        self._path = path
        self._name = name
        self._sha256 = sha256 or sha256_of(path)
        self._size = path.stat().st_size
        self._stop = stop
        self._refusals = refusals
        self._params: dict[str, str | int] = {"kind": kind} if step is None else {"kind": kind, "step": step}
        self._artifact = f"{attempt}/artifacts/{name}"
        self._upload = f"{attempt}/uploads/{name}"
        # The API answers once it has read the file back and made it durable.
        self._timeout = httpx.Timeout(30.0, connect=5.0, read=30.0 + self._size / SLOWEST_DISK)
        self._through_api = False
        self._begun = False  # something of it may lie at the API
        self._begun_again = False
        self._refused_at = FOREVER  # since then the storage has taken nothing

    def send(self) -> httpx.Response:
        """One try; a second where what lay there had gone bad on the way: nothing of it is kept.

        Raises `Refused` for a file that has changed, and where the storage refuses for too long.
        """
        answer = self._try()
        if self._begun_again or kind_of(answer) != DIGEST_MISMATCH:
            return answer
        self._begun_again = True  # were it bad once more, it would be for ever
        if sha256_of(self._path) != self._sha256:
            raise self._changed()
        logger.warning("%s arrived damaged, all of it is sent again", self._name)
        self._begun = False
        return self._try()

    def _changed(self) -> Refused:
        return Refused(f"{self._name} has changed since it was written", httpx.codes.BAD_REQUEST)

    def _try(self) -> httpx.Response:
        if self._through_api:
            return self._to_the_api()
        request: dict[str, object] = {"size": self._size, "sha256": self._sha256.hex(), **self._params}
        answer = self._http.post(self._upload, json=request, headers=self._headers)
        if not answer.is_success:
            return answer
        plan = UploadPlan.model_validate_json(answer.content)
        if plan.through == "api":
            self._through_api = True
            return self._to_the_api()
        found, md5 = direct.checksums(self._path, plan.parts)
        if found != self._sha256:
            raise self._changed()
        for part, checksum in zip(plan.parts, md5, strict=True):
            if not part.arrived:
                self._to_the_storage(part, checksum)
        return self._http.put(self._upload, json=request | {"md5": md5}, headers=self._headers, timeout=self._timeout)

    def _to_the_api(self) -> httpx.Response:
        digest = content_digest(self._sha256)
        if self._begun:
            named = {"Repr-Digest": digest, LENGTH_HEADER: str(self._size)}
            answer = self._http.head(self._artifact, headers=self._headers | named)
            if not answer.is_success:
                return answer
            if offset := int(answer.headers[OFFSET_HEADER]):
                logger.info("the upload of %s goes on at byte %d of %d", self._name, offset, self._size)
                return self._send_bytes("PATCH", offset, named | {OFFSET_HEADER: str(offset)})
        self._begun = True
        return self._send_bytes("PUT", 0, {"Content-Digest": digest})

    def _send_bytes(self, method: str, offset: int, more: dict[str, str]) -> httpx.Response:
        body = {"Content-Type": "application/octet-stream", "Content-Length": str(self._size - offset)}
        headers = self._headers | body | more
        with closing(self._chunks(offset)) as content:
            return self._http.request(
                method, self._artifact, params=self._params, headers=headers, content=content, timeout=self._timeout
            )

    def _to_the_storage(self, part: UploadPart, checksum: str) -> None:
        try:
            direct.send(self._http, part, self._name, checksum, self._chunks)
        except StorageRefused as refusal:
            if time.monotonic() - self._refused_at >= self._refusals:
                remedy = "look at the rights of the API's credentials, its clock, and the settings of the bucket"
                raise Refused(f"{self._name} is not taken: {refusal}; {remedy}", httpx.codes.FORBIDDEN) from None
            self._refused_at = min(self._refused_at, time.monotonic())
            raise
        self._refused_at = FOREVER

    def _chunks(self, offset: int, count: int | None = None) -> Generator[bytes]:
        """From `offset` to the end, or `count` bytes of it."""
        with self._path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK if count is None else min(CHUNK, count)):
                count = None if count is None else count - len(chunk)
                if self._stop.is_set():
                    raise Abandoned(f"upload of {self._path.name}")
                yield chunk
