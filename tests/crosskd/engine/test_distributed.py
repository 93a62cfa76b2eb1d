"""Joining the processes of a training: who may, and what is said to who may not."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from crosskd.engine import distributed
from crosskd.errors import ConfigError, RankLost
from tests.crosskd.engine.toys import toy_config


def test_one_process_joins_nothing() -> None:
    with distributed.joined(toy_config()):
        assert not distributed.active()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.any_of(False, True) == [False, True]
    assert distributed.gather(3) == [3]
    assert distributed.share("x") == "x"
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
    with pytest.raises(ConfigError, match=message) as caught, distributed.joined(toy_config(gpus=gpus)):
        pass
    assert caught.value.where == "/gpus"
    assert not distributed.active()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer"),
        dist.DistBackendError("NCCL error: remote process exited"),
    ],
)
def test_a_peer_that_is_gone_is_told_from_other_errors(error: RuntimeError) -> None:
    with pytest.raises(RankLost, match="another process of this training has ended"), distributed.noticing_loss():
        raise error
    with pytest.raises(RuntimeError, match="shapes"), distributed.noticing_loss():
        raise RuntimeError("shapes do not fit")
