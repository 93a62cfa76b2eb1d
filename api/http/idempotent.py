"""`Idempotency-Key` on a POST that creates: `dependencies=[IdempotencyDep]`, on a router of `IdempotentRoute`s."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from api.database import Database, DatabaseDep, Session, SessionDep
from api.http.transactional import Transactional, outside_pool
from api.services import idempotency
from api.services.idempotency import Answer, Reservation
from wire.errors import IDEMPOTENCY_HEADER

log = logging.getLogger(__name__)


class Replayed(Exception):
    """Ends a request that was answered before."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered before")
        self.answer = answer


class _Pending(NamedTuple):
    """A reservation and the request's own session, which has not been committed yet when the answer is known."""

    reservation: Reservation
    session: Session
    database: Database

    def keep(self, response: Response) -> None:
        headers = [(name, value) for name, value in response.headers.items() if name != "content-length"]
        answer = Answer(response.status_code, headers, bytes(response.body))
        with self.session:
            idempotency.complete(self.session, self.reservation, answer)
            self.session.commit()

    def release(self) -> None:
        try:
            self.session.close()  # first: SQLite has one writer at a time
            with self.database.transaction() as session:
                idempotency.release(session, self.reservation)
        except SQLAlchemyError as error:
            log.warning("an idempotency key stays taken until its lease lapses: %s", error)


class IdempotentRoute(Transactional):
    """Keeps the answer of a request that came with a key, and gives it again; not a refusal: it made nothing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
                if (pending := _pending(request)) is not None:
                    await outside_pool(pending.keep, response)
                return response
            except Replayed as found:
                status, headers, body = found.answer
                return Response(body, status, dict(headers))
            except BaseException:  # cancelled, too: a session that stays open holds its locks
                if (pending := _pending(request)) is not None:
                    await outside_pool(pending.release)
                raise

        return answer


def _pending(request: Request) -> _Pending | None:
    pending: _Pending | None = getattr(request.state, "idempotency", None)
    return pending


async def _fingerprint(request: Request) -> str:
    """Two requests with the same one are the same request."""
    head = f"{request.method} {request.url.path}?{request.url.query}\n"
    return hashlib.sha256(head.encode() + await request.body()).hexdigest()


def _reserve(
    request: Request,
    database: DatabaseDep,
    session: SessionDep,
    fingerprint: Annotated[str, Depends(_fingerprint)],
    key: Annotated[
        str | None,
        Header(
            alias=IDEMPOTENCY_HEADER,
            max_length=255,
            pattern=r"^[\x20-\x7e]+$",
            description="Chosen by the client, new for each thing to create. For 24 hours the same request under it "
            "creates nothing more and gets the same answer.",
        ),
    ] = None,
) -> None:
    if key is None:
        return
    with database.transaction() as own:
        caller = request.headers.get("authorization", "")
        found = idempotency.reserve(own, caller, key, fingerprint)
    if isinstance(found, Answer):
        raise Replayed(found)
    session.kept_open = True
    request.state.idempotency = _Pending(found, session, database)


IdempotencyDep = Depends(_reserve)
