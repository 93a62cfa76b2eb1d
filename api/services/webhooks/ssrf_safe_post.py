"""POST to an address that a user named, without becoming that user's hand inside our own network (SSRF).

The name is resolved once, here, every address it has is judged, and the connection goes to an address that was judged:
a name that answers otherwise a moment later (DNS rebinding) gains nothing. No proxy, no redirect, one deadline for all.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpcore

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SECONDS = 15.0  # from the name's look-up to the answer's last header
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# IANA's special-purpose registries (RFC 6890 and later), written down: `is_global` of the standard library differs from
# one patch release of Python to the next. Of IPv6 only 2000::/3 is given out for the public, so the rest needs no line.
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind a provider's address translation
            "127.0.0.0/8",
            "168.63.129.16/32",  # the services of Azure's hosts
            "169.254.0.0/16",  # link-local, the metadata of clouds among it
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation, as two below
            "192.88.99.0/24",  # the former relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and the broadcast address
            "2001::/23",  # protocol assignments; Teredo is judged by what it carries
            "2001:db8::/32",  # documentation, as below
            "3fff::/20",
        ),
    )
)


class Undeliverable(Exception):
    """The receiver was not reached, or did not answer with success. The message is fit for whoever owns the webhook."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Forbidden(Undeliverable):
    """The address belongs to a network that may not be called."""


def permitted(address: str, allowed: Iterable[Network]) -> bool:
    """Whether an IP address is a public one, or in one of the `allowed` networks. One inside another counts too."""
    outer = ipaddress.ip_address(address.partition("%")[0])
    return all(_is_public(part) or any(part in network for network in allowed) for part in _unwrapped(outer))


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_IPV6:
        return False
    return not any(address in network for network in _REFUSED)


def _unwrapped(address: Address) -> list[Address]:
    """The addresses that decide: of an IPv6 address that only carries an IPv4 one, that one."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address]


def is_ip_literal(host: str) -> bool:
    """Whether the host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def post(
    url: str, headers: Mapping[str, str], body: bytes, allowed: Sequence[Network], seconds: float = SECONDS
) -> int:
    """POST `body` to `url`; the status of the answer, whose own body is not read.

    Raises:
        Forbidden: the host has an address that is neither public nor in `allowed`.
        Undeliverable: no connection, or no answer in time.
    """
    backend = _AllowlistBackend(allowed, time.monotonic() + seconds)
    timeout = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds)}
    # The host in our own words: httpcore would leave out an IPv6 address's brackets.
    host = urlsplit(url).netloc.rpartition("@")[2]
    request = [(name.encode(), value.encode()) for name, value in {"host": host, **headers}.items()]
    try:
        with (
            httpcore.ConnectionPool(network_backend=backend) as pool,
            pool.stream("POST", url, headers=request, content=body, extensions=timeout) as response,
        ):
            return int(response.status)
    except (httpcore.TimeoutException, TimeoutError):
        raise Undeliverable(f"no answer within {seconds:g} s") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError, ValueError) as error:
        # Not in the error's own words: they may quote the address, and that may hold a secret.
        raise Undeliverable(f"the connection failed ({type(error).__name__})") from None


class _AllowlistBackend(httpcore.NetworkBackend):
    """Connects to addresses that were judged."""

    def __init__(self, allowed: Sequence[Network], deadline: float) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline counts
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        found = _resolved(host, port, self._left())
        if not found or not all(permitted(address, self._allowed) for address in found):
            raise Forbidden("the host's address is not a public one")
        address = min(found, key=lambda address: (":" in address, address))  # IPv4 first: it is reachable more often
        stream = self._plain.connect_tcp(address, port, self._left(), local_address, socket_options)
        return _DeadlineStream(stream, self._deadline)

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)


def _resolved(host: str, port: int, seconds: float) -> set[str]:
    """The addresses of a name. A look-up cannot be told to hurry: one that takes too long is left to itself."""
    answers: SimpleQueue[list[Any] | Exception] = SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            answers.put(error)

    Thread(target=look_up, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise httpcore.ConnectTimeout from None
    if isinstance(answer, Exception):
        raise answer
    return {str(info[4][0]) for info in answer}


class _DeadlineStream(httpcore.NetworkStream):
    """A stream with one deadline for all reads and writes: a receiver that drips must not hold a thread."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline counts
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline counts
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the deadline counts
    ) -> httpcore.NetworkStream:
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, self._left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
