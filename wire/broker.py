"""The broker's address, as API, relay and worker are given it.

redis://[:PASSWORD@]HOST:PORT/NUMBER          rediss:// over TLS; unix:// and redis+socket:// a socket
sentinel://[:PASSWORD@]HOST:PORT;sentinel://HOST:PORT/NUMBER?master_name=NAME
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

_SOCKETS = ("redis+socket://", "unix://")
_DIRECT = ("redis://", "rediss://", *_SOCKETS)
_SENTINELS = re.compile(r"(?P<url>sentinel://[^;?]+(;sentinel://[^;?]+)*)\?master_name=(?P<name>[\w.-]+)")

APART = "percent-encode the password, or give it apart, as it is, in CROSSKD_BROKER_PASSWORD"

# No second try of the same one: while it is waited for, the next is not asked.
_TIMEOUTS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": None}


class Broker(NamedTuple):
    """What kombu wants to know."""

    url: str
    options: dict[str, Any]  # of the transport


def check(url: str) -> str:
    """The address itself. Raises `ValueError` for one that names no broker."""
    if url.startswith("sentinel://") and not _SENTINELS.fullmatch(url):
        raise ValueError("names no primary; use sentinel://HOST:PORT;sentinel://HOST:PORT/NUMBER?master_name=NAME")
    if not url.startswith((*_DIRECT, "sentinel://")):
        raise ValueError("is no broker address; use redis://HOST:PORT/NUMBER")
    if not all(map(_whole, url.split(";"))):
        raise ValueError(f"is no broker address; {APART}")
    return url


def with_password(url: str, password: SecretStr | None) -> str:
    """An address that `check` let pass with a password in it, encoded: it may hold any character.

    Raises `ValueError` where the address has one already, or leads to a socket, whose form has another place for it.
    """
    if password is None:
        return url
    if url.startswith(_SOCKETS):
        raise ValueError("is for brokers over TCP; write a socket's password into CROSSKD_BROKER_URL")
    return ";".join(_with_password(part, password.get_secret_value()) for part in url.split(";"))


def _with_password(part: str, password: str) -> str:
    scheme, _, rest = part.partition("://")
    user, at, place = rest.rpartition("@")
    if ":" in user:
        raise ValueError("and CROSSKD_BROKER_URL both hold a password; leave one of them out")
    return f"{scheme}://{user}:{quote(password, safe='')}@{place if at else rest}"


def _whole(part: str) -> bool:
    """Whether host and port are what they seem: a `/`, `?` or `#` in a password ends them before they begin."""
    try:
        parts = urlsplit(part)
        _ = parts.port
    except ValueError:  # not in its own words: they quote what may be a part of the password
        return False
    return part.startswith(_SOCKETS) or "@" not in parts.path + parts.query + parts.fragment


def broker(url: str) -> Broker:
    """For an address that `check` let pass."""
    found = _SENTINELS.fullmatch(url)
    if found is None:
        return Broker(url, {})
    return Broker(found["url"], {"master_name": found["name"], "sentinel_kwargs": _TIMEOUTS})
