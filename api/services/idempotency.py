"""Idempotency keys: a POST that is repeated under its key creates once, and is answered as it was the first time.

A key is reserved in a transaction of its own, so that whoever repeats the request meanwhile is told so. The answer is
stored in the transaction that creates: neither is ever there without the other, whenever a process dies. One that died
before left a reservation, whose lease lapses; one that is only slow and commits after all finds that its successor has
answered, and is undone. All of it is rows, so the processes of an API share it.

An answer may hold a secret that is shown once (a token): it is stored encrypted, and only who sends the same
credentials and key again can have it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography.fernet import Fernet
from sqlalchemy import delete, select, update

from api.database import Session
from api.errors import InFlight, KeyReused
from api.models import IdempotencyKey, new_id

KEEP = timedelta(hours=24)
LEASE = timedelta(seconds=30)
_SWEPT_AT_ONCE = 100
_TRIES = 3


class Answer(NamedTuple):
    """A response as it went out."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Reservation(NamedTuple):
    """The right to answer under a key; `token` tells it from one that took its place."""

    id: str
    token: str
    cipher: Fernet


def reserve(session: Session, caller: str, key: str, fingerprint: str) -> Reservation | Answer:
    """The right to answer, or the answer that was given before. `caller` keeps one's keys apart from another's.

    Raises:
        KeyReused: the key came with another request.
        InFlight: the same request is being answered right now.
    """
    now = session.now()
    _sweep(session, now)
    mine = _begin(caller, key)
    lease = {"token": mine.token, "lease_expires_at": now + LEASE}
    for _ in range(_TRIES):
        if session.insert_if_absent(IdempotencyKey, lease | {"id": mine.id, "fingerprint": fingerprint, "at": now}):
            return mine
        row = session.scalar(select(IdempotencyKey).where(IdempotencyKey.id == mine.id).with_for_update())
        if row is None:
            continue  # given up between the two statements
        if row.at <= now - KEEP:
            session.delete(row)
            session.flush()
            continue
        return _taken(session, row, mine, fingerprint)
    raise _in_flight()


def _begin(caller: str, key: str) -> Reservation:
    """The row's name and what decrypts it both follow from what the caller sends, and neither from the other."""
    name, secret = (hashlib.sha256(f"{use}\0{caller}\0{key}".encode()).digest() for use in ("name", "secret"))
    return Reservation(name.hex(), new_id(), Fernet(base64.urlsafe_b64encode(secret)))


def _taken(session: Session, row: IdempotencyKey, mine: Reservation, fingerprint: str) -> Reservation | Answer:
    """What a key that is there already means for a request."""
    if row.fingerprint != fingerprint:
        raise KeyReused(
            "this Idempotency-Key came with another request before",
            remedy="Use a new key for each thing to create, and the old one only to repeat the same request.",
        )
    if row.answer is not None:
        return _decrypt(mine.cipher, row.answer)
    now = session.now()
    if row.lease_expires_at > now:
        raise _in_flight()
    row.token, row.lease_expires_at = mine.token, now + LEASE
    return mine


def complete(session: Session, mine: Reservation, answer: Answer) -> None:
    """Store the answer, in the transaction that has created what it tells of.

    Raises:
        InFlight: the lease had lapsed and another request under the key was faster; this one is to be undone.
    """
    unanswered = update(IdempotencyKey).where(IdempotencyKey.id == mine.id, IdempotencyKey.answer.is_(None))
    stored = unanswered.values(answer=_encrypt(mine.cipher, answer)).returning(IdempotencyKey.id)
    if not session.execute(stored).all():
        raise _in_flight()


def release(session: Session, mine: Reservation) -> None:
    """Forget a request that created nothing: what it is repeated with is answered anew."""
    unanswered = delete(IdempotencyKey).where(IdempotencyKey.id == mine.id, IdempotencyKey.answer.is_(None))
    session.execute(unanswered.where(IdempotencyKey.token == mine.token))


def _encrypt(cipher: Fernet, answer: Answer) -> bytes:
    return cipher.encrypt(json.dumps([answer.status, answer.headers, answer.body.decode()]).encode())


def _decrypt(cipher: Fernet, stored: bytes) -> Answer:
    status, headers, body = json.loads(cipher.decrypt(stored))
    return Answer(status, [(name, value) for name, value in headers], body.encode())


def _sweep(session: Session, now: datetime) -> None:
    """Drop some of what has grown too old; each reservation does, so that nobody else has to."""
    old = select(IdempotencyKey.id).where(IdempotencyKey.at <= now - KEEP).limit(_SWEPT_AT_ONCE)
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.id.in_(old.with_for_update(skip_locked=True))))


def _in_flight() -> InFlight:
    return InFlight(
        "a request with this Idempotency-Key is being answered",
        remedy="Repeat it in a moment, with the same key and body.",
    )
