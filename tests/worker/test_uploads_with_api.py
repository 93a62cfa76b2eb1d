"""An upload to the real API through connections that are cut, and over the end of the process that took it in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from crosskd.data.demo import write_demo
from tests.support.api_double import TOKEN
from tests.support.worker_stack import Api, spec
from wire.reports import ClaimRequest
from worker.deliver.client import AttemptClient, WorkerClient, connect
from worker.deliver.retry import Retry

SIZE = 60_000_000
PIECE = 25_000_000  # bytes after which a connection is cut


class Cutter:
    """A TCP proxy in front of `port`. The first connections end, without a word, once `PIECE` bytes have passed."""

    def __init__(self, port: int, cuts: list[Callable[[], None]]) -> None:
        self.cuts = cuts  # what happens together with each cut
        self.passed = 0  # bytes towards the API
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with ExitStack() as both, suppress(OSError):
            both.enter_context(near)
            far = both.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            threading.Thread(target=self._back, args=(far, near), daemon=True).start()
            here = 0
            while data := near.recv(65_536):
                far.sendall(data)
                here += len(data)
                self.passed += len(data)
                if here > PIECE and self.cuts:
                    self.cuts.pop(0)()
                    break
            for end in (near, far):
                end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _back(far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65_536):
                near.sendall(data)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    write_demo(tmp_path / "data", train=1, val=1, size=64, classes=2)
    (tmp_path / "api").mkdir()
    started = Api(tmp_path / "api", tmp_path / "data", "redis://127.0.0.1:1/0")
    yield started
    started.close()


def test_an_upload_goes_on_over_cuts_and_a_killed_api(api: Api, tmp_path: Path) -> None:
    def restart() -> None:
        api.kill()
        api.start()

    cutter = Cutter(api.port, [lambda: None, restart])
    job = api.post("train", spec(tmp_path / "data", epochs=1))
    file, content = tmp_path / "checkpoint.pt", os.urandom(SIZE)
    file.write_bytes(content)
    with connect(cutter.url, TOKEN) as http:
        claim = WorkerClient(http).claim(job, ClaimRequest(worker="tester"))
        assert claim is not None
        attempt = AttemptClient(http, claim.attempt, claim.fencing_token)
        attempt.upload(file, "checkpoint-00000001.pt", "checkpoint", 1, Retry(patience=120))
    cutter.close()
    assert cutter.cuts == []
    assert cutter.passed < SIZE * 1.4  # again came what was in flight, never all that had arrived
    assert api.client.get(f"/jobs/{job}/artifacts/checkpoint-00000001.pt").content == content
