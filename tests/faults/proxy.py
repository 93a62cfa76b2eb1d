"""A TCP proxy whose links can be cut, slowed, or made to lose what they carry. It knows nothing of what passes.

    with Proxy() as proxy:
        port = proxy.link("worker-1:api", [("127.0.0.1", 8470), ("127.0.0.1", 8471)])
        with proxy.troubled(Cut(), "worker-1:api"):
            ...

A link is a listening port on loopback and one or more servers, TCP addresses or unix sockets. A new connection goes
to the next server in turn, or to another one where that refuses: to the callers it is a load balancer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
CHUNK = 1 << 16
CONNECT_SECONDS = 5.0

Server = tuple[str, int] | Path


@dataclass(frozen=True)
class Cut:
    """Every connection is reset, every new one too."""


@dataclass(frozen=True)
class Delay:
    """Every piece waits so many seconds before it goes on, in either direction."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """Bytes vanish and nobody is told; with `answers` only those on their way back, so that requests are carried out.

    TCP would never go on behind a gap: a connection that has lost something is reset when the link heals.
    """

    answers: bool = False


Trouble = Cut | Delay | Drop


@dataclass(eq=False)
class _Connection:
    """The two sockets of one connection, and whether something of it was lost."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    lossy: bool = False

    def reset(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                _reset(writer)


@dataclass
class Link:
    """One listening port. Its fields but `port` and the counters belong to the proxy's own thread."""

    name: str
    servers: Sequence[Server]
    port: int = 0
    troubles: list[Trouble] = field(default_factory=list)  # all that it is in
    accepted: int = 0  # connections
    lost: int = 0  # bytes that were dropped
    _turn: int = 0
    _connections: set[_Connection] = field(default_factory=set)
    _calm: asyncio.Event = field(default_factory=asyncio.Event)  # not while bytes are dropped

    @property
    def trouble(self) -> Trouble | None:
        """The worst of its troubles: several may come together, and each ends by itself."""
        return min(self.troubles, key=_severity, default=None)

    def begin(self, trouble: Trouble) -> None:
        self.troubles.append(trouble)
        self._changed()

    def end(self, trouble: Trouble) -> None:
        self.troubles.remove(trouble)
        self._changed()

    def _changed(self) -> None:
        dropping, cut = isinstance(self.trouble, Drop), isinstance(self.trouble, Cut)
        (self._calm.clear if dropping else self._calm.set)()
        for connection in list(self._connections):
            if cut or (connection.lossy and not dropping):
                connection.reset()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if isinstance(self.trouble, Cut) or (opened := await self._dial()) is None:
                return
            far_reader, connection.far = opened
            await asyncio.gather(
                self._pump(connection, reader, connection.far, answers=False),
                self._pump(connection, far_reader, writer, answers=True),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side is gone: so is the connection
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the server whose turn it is, or to the first after it that answers."""
        self._turn += 1
        for ahead in range(len(self.servers)):
            server = self.servers[(self._turn + ahead) % len(self.servers)]
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    if isinstance(server, Path):
                        return await asyncio.open_unix_connection(server)
                    return await asyncio.open_connection(*server)
        return None

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        """Carry one direction to its end."""
        while True:
            piece = await reader.read(CHUNK)
            if isinstance(self.trouble, Delay):
                await asyncio.sleep(self.trouble.seconds)
            # As in `Drop`: also the end of a connection is something that gets lost.
            if connection.lossy or (isinstance(self.trouble, Drop) and (answers or not self.trouble.answers)):
                connection.lossy = True
                self.lost += len(piece)
                if not piece:
                    await self._calm.wait()
                    connection.reset()
                    return
                continue
            if not piece:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()


def _severity(trouble: Trouble) -> tuple[int, float]:
    """A sort key; the worst trouble comes first."""
    match trouble:
        case Cut():
            return 0, 0.0
        case Drop(answers=answers):
            return 1 + answers, 0.0
        case Delay(seconds=seconds):
            return 3, -seconds


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once and without a word of farewell, as a machine does that knows of no such connection."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_INET:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """All links, in one thread with an event loop of its own; every method may be called from any thread."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def link(self, name: str, servers: Sequence[Server]) -> int:
        """Open a link and return its port."""

        async def listen() -> int:
            link = self.links[name] = Link(name, servers)
            server = await asyncio.start_server(link.serve, HOST, 0)
            self._servers.append(server)
            link.port = server.sockets[0].getsockname()[1]
            return link.port

        return asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)

    @contextmanager
    def troubled(self, trouble: Trouble, *names: str) -> Iterator[None]:
        """Put links into trouble; it holds when the block begins, and is over when it has ended."""
        self._change(Link.begin, trouble, names)
        try:
            yield
        finally:
            self._change(Link.end, trouble, names)

    def close(self) -> None:
        """Reset every connection and end the thread."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            for link in self.links.values():
                link.begin(Cut())
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _change(self, how: Callable[[Link, Trouble], None], trouble: Trouble, names: Sequence[str]) -> None:
        async def change() -> None:
            for name in names:
                how(self.links[name], trouble)

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)
