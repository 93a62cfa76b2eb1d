"""Joining the processes of a training: who may, and what is said to who may not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from crosskd.engine import distributed
from crosskd.errors import ConfigError, RankLost
from tests.support.toys import toy_config


def test_one_process_joins_nothing() -> None:
    with distributed.process_group(toy_config()):
        assert not distributed.active()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.any_of(False, True) == [False, True]
    assert distributed.gather(3) == [3]
    assert distributed.broadcast("x") == "x"
    x = torch.tensor([float("nan"), 1.0])
    assert distributed.mean(x) is x


@pytest.mark.parametrize(("gpus", "started"), [(2, None), (1, 2), (3, 2)])
def test_another_number_of_processes_is_refused(
    gpus: int, started: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "7")  # a cluster may set it for purposes of its own
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if started is not None:
        monkeypatch.setenv("WORLD_SIZE", str(started))
        monkeypatch.setenv("LOCAL_RANK", "0")
    message = f"{gpus} processes are to train together, and {started or 1} started"
    with pytest.raises(ConfigError, match=message) as caught, distributed.process_group(toy_config(gpus=gpus)):
        pass
    assert caught.value.where == "/gpus"
    assert not distributed.active()


@pytest.fixture
def destroyed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Pretends that this is one of two ranks on a kind of device; what it returns lists the groups that were left."""

    def on(device: str) -> list[str]:
        left: list[str] = []
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("CROSSKD_RENDEZVOUS", raising=False)
        monkeypatch.setattr(distributed, "choose_device", lambda _: torch.device(device))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
        monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(device))
        return left

    return on


@pytest.mark.parametrize(("device", "left_on_error"), [("cpu", ["cpu"]), ("cuda", [])])
def test_an_error_does_not_wait_for_the_others(
    device: str, left_on_error: list[str], destroyed: Callable[[str], list[str]]
) -> None:
    """NCCL's group ends when all ranks end it, and those that sit in a collective would come hours later."""
    left = destroyed(device)
    with pytest.raises(OSError, match="disk is full"), distributed.process_group(toy_config(gpus=2)):
        raise OSError("the disk is full")
    assert left == left_on_error
    left.clear()
    with distributed.process_group(toy_config(gpus=2)):
        assert left == []
    assert left == [device]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer"),
            "Connection reset by peer",
        ),
        (dist.DistBackendError("NCCL error: remote process exited"), "remote process exited"),
        (
            dist.DistBackendError(
                "NCCL error in: NCCLUtils.cpp:94, invalid usage\nLast error:\nDuplicate GPU detected : rank 0\n"
                "Exception raised from create at NCCLUtils.cpp:94\nframe #0: c10::Error"
            ),
            "has ended: NCCL error in: NCCLUtils.cpp:94, invalid usage; Last error: Duplicate GPU detected : rank 0",
        ),
    ],
)
def test_a_collective_s_error_is_told_from_others_with_what_it_said(
    error: RuntimeError, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(RankLost, match="another process of this training has ended") as caught,
        distributed.detecting_lost_ranks(),
    ):
        raise error
    assert caught.value.message.endswith(said)
    assert caplog.records[-1].exc_info is not None
    with pytest.raises(RuntimeError, match="shapes"), distributed.detecting_lost_ranks():
        raise RuntimeError("shapes do not fit")
