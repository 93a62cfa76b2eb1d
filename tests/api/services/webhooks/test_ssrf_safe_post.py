"""Which addresses may be called, whatever name leads to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from api.services.webhooks.ssrf_safe_post import Forbidden, Undeliverable, permitted, post
from tests.support.receiving import Receiver

LOOPBACK = "127.0.0.0/8"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "::", "::1", "fc00::1", "fe80::1", "fe80::1%eth0", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2001:0:7f00:1::", "192.0.2.1", "2001:db8::1", "3fff::1", "fec0::1", "feff::1", "168.63.129.16",
        "::ffff:168.63.129.16", "192.0.0.0", "192.0.0.9", "192.0.0.255", "192.88.99.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "::ffff:192.0.0.9", "2002:c000:9::", "64:ff9b::c000:9", "::ffff:192.88.99.1", "2002:c058:6301::",
        "64:ff9b::c058:6301", "::1.1.1.1", "64:ff9b:1::101:101", "100::1", "2001:2::1", "2001:20::1", "5f00::1",
    ],
)  # fmt: skip
def test_private_addresses_are_not_permitted(address: str) -> None:
    assert not permitted(address, [])


def test_no_verdict_is_left_to_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `is_global` says of 192.0.0.0/24 and others depends on Python's patch release."""
    for kind in (IPv4Address, IPv6Address):
        monkeypatch.setattr(kind, "is_global", property(lambda _: True))
        monkeypatch.setattr(kind, "is_private", property(lambda _: False))
    assert not any(permitted(address, []) for address in ("192.0.0.9", "192.88.99.1", "10.0.0.1", "fc00::1"))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "192.0.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses_are_permitted(address: str) -> None:
    assert permitted(address, [])


def test_a_network_can_be_permitted() -> None:
    networks = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    assert permitted("10.1.2.3", networks)
    assert permitted("::ffff:10.1.2.3", networks)
    assert permitted("fd12::1", networks)
    assert not permitted("127.0.0.1", networks)


def test_loopback_is_not_called_unless_it_is_allowed(receiver: Receiver) -> None:
    for host in ("127.0.0.1", "localhost", "2130706433", "127.1"):  # the last two are 127.0.0.1 to a resolver
        with pytest.raises(Forbidden):
            post(receiver.url(host), {}, b"{}", [])
    assert receiver.seen == []
    assert post(receiver.url("localhost"), {}, b"{}", [ip_network(LOOPBACK), ip_network("::1/128")]) == 200


def test_a_name_that_changes_its_mind_gains_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is a harmless address, every later one is loopback."""
    asked: list[str] = []
    harmless, port = "192.0.2.1", receiver.port

    def resolve(host: str, *args: Any, **more: Any) -> list[Any]:
        asked.append(host)
        address = harmless if asked.count("rebinding.example") == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    connected: list[str] = []

    def connect(address: tuple[str, int], *args: Any, **more: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Undeliverable):
        post(f"http://rebinding.example:{port}/", {}, b"{}", [ip_network("192.0.2.0/24")])
    assert connected == [harmless]  # the very address that was judged, and not the name once more
    assert asked == ["rebinding.example"]


def test_a_name_that_is_looked_up_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def resolve(*_: Any, **__: Any) -> list[Any]:
        stop.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        with pytest.raises(Undeliverable, match=r"no answer within 0\.2 s"):
            post("http://slow.example/", {}, b"{}", [], seconds=0.2)
    finally:
        stop.set()


def test_an_ipv6_address_keeps_its_brackets(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    post(receiver.url("[2001:db8::1]"), {}, b"{}", [ip_network(LOOPBACK)])
    assert receiver.seen[0][1]["host"] == f"[2001:db8::1]:{receiver.port}"


def test_one_bad_address_among_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Forbidden):
        post("http://mixed.example/", {}, b"{}", [])


def test_a_receiver_that_drips_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"X-A: b\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(Undeliverable, match=r"no answer within 0\.5 s"):
            post(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}", [ip_network(LOOPBACK)], seconds=0.5)
        stop.set()
        thread.join()
