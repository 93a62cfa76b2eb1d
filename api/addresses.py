"""Addresses of the database and of the storage, as settings name them: what each has to look like."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from wire.secret_files import secret_of

DRIVERS = ("sqlite", "postgresql+psycopg")
_HOST = re.compile(r"[\w.,-]+|[0-9a-fA-F:.]+(%\w+)?")  # names and addresses; several, as libpq takes them
_APART = "percent-encode the password, or give it apart, as it is, in CROSSKD_DATABASE_PASSWORD or PGPASSWORD"


def check_database(url: str) -> str:
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            f"is no database address; use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME, and {_APART}"
        ) from None
    if parts.drivername not in DRIVERS:
        raise ValueError(f"driver {parts.drivername!r} is not supported; use {' or '.join(DRIVERS)}")
    if parts.host and not _HOST.fullmatch(parts.host):  # not named: it may be a part of the password
        raise ValueError(f"names no host: {_APART}")
    return url


def database_address(url: str, password: str | None = None) -> str:
    """The address `url` with `password`; by default with what the environment holds apart.

    Raises `ValueError` where it has one already, or is that of a file; or as `secret_of`.
    """
    password = password or secret_of("CROSSKD_DATABASE_PASSWORD")
    if password is None:
        return url
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        raise ValueError("is for Postgres; a SQLite file has no password")
    if parts.password is not None:
        raise ValueError("and CROSSKD_DATABASE_URL both hold a password; leave one of them out")
    return parts.set(password=password).render_as_string(hide_password=False)


def sqlite_address(path: Path) -> str:
    return URL.create("sqlite", database=str(path)).render_as_string()  # encoded: a `?` would begin the query


def check_storage(url: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*/?", url):
        raise ValueError("is no address of a bucket; use s3://BUCKET or s3://BUCKET/PREFIX, without a key in it")
    return url


def check_endpoint(url: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?/?", url):
        raise ValueError("(or AWS_ENDPOINT_URL) is no address of a server; use https://HOST:PORT, without a key in it")
    return url.rstrip("/")
