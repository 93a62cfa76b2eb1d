"""The loop on two ranks: same weights on both, stops and faults of one are those of all, nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosskd import ranks
from crosskd.engine.callbacks import Callback, Run
from crosskd.engine.loop import fit
from crosskd.engine.parallel import SyncedBatchNorm2d, broadcast_buffers, data_parallel, no_sync, synchronise_norms
from crosskd.errors import ConfigError, CrossKDError
from crosskd.structures import Batch, Losses, Targets
from tests.support.ranks import on_ranks
from tests.support.toys import Recorder, Toy, ToyBatches, toy_config, toy_run, train_step

Weights = dict[str, Tensor]
SETTINGS: dict[str, Any] = {"accumulate": 2, "ema": {"decay": 0.9}, "clip_norm": 0.5}


class Share(ToyBatches):
    """Every second batch of an epoch of ten, as a rank of two has it."""

    def __init__(self, rank: int) -> None:
        super().__init__(count=10)
        self.rank = rank

    def __len__(self) -> int:
        return 5

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        return iter(list(super().epoch(index))[self.rank :: 2][start:])


def together(batches: ToyBatches, **changes: Any) -> tuple[Run, Any]:
    """A run without dropout, whose ranks share their trainee."""
    run, training = toy_run(Path(), toy_config(**SETTINGS, **changes), batches)
    training.trainee.drop.p = 0.0
    shared = data_parallel(training.trainee)
    return run, type(training)(**{**vars(training), "parallel": shared})


def ending(run: Run, training: Any, callback: Callback) -> str:
    saved: list[int] = []
    try:
        fit(run, training, callback, save=lambda: saved.append(run.step), evaluate=lambda: "")
    except CrossKDError as error:
        return f"{type(error).__name__} in {run.step}, saved {saved}: {error.message}"
    return f"done after {run.step}"


def copied(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Moody(nn.Module):
    """A trainee with an adapter that only some batches use, as a term may that finds no box."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Toy()
        self.adapter = nn.Conv2d(3, 1, 1)

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        losses = self.student(images, targets)
        if targets.boxes[0].sum() > 2:
            losses["term"] = self.adapter(images).square().mean()[None]
        else:
            losses["term"] = images.new_zeros(1)
        return losses


def moody(rank: int) -> tuple[int, Weights]:
    """How many of ten batches used the adapter here, and what became of it."""
    run, training = toy_run(Path(), toy_config(), Share(rank))
    model = Moody()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    changes: dict[str, Any] = {"trainee": model, "student": model.student, "optimizer": optimizer}
    changes["parallel"] = data_parallel(model, idle=["adapter.weight"])
    training = type(training)(
        **{**vars(training), **changes, "parallel": data_parallel(model, idle=["adapter.weight"])}
    )
    used = 0
    for batch in [*Share(rank).epoch(0), *Share(rank).epoch(1)]:
        used += bool(batch.targets.boxes[0].sum() > 2)
        train_step(run, training, [batch])
    return used, copied(model.adapter)


def of_rank(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    run, training = together(Share(rank))
    recorder = Recorder()
    found["whole"] = ending(run, training, recorder)
    found["weights"] = copied(training.student)
    found["ema"] = copied(training.ema.model)
    found["logs"] = recorder.logs
    broadcast_buffers(training.student)
    found["shared"] = copied(training.student)

    run, training = together(Share(rank))
    found["stop"] = ending(run, training, Recorder(lambda r: r.request_stop() if rank == 1 and r.step == 4 else None))

    run, training = together(Share(rank))
    asker = Recorder(lambda r: r.request_finish() if rank == 1 and r.step == 4 else None)
    found["finish"] = (ending(run, training, asker), run.stopped_early)

    run, training = together(Share(rank))

    def spoil(call: int) -> None:
        if rank == 1 and call == 5:
            nn.init.constant_(training.trainee.out.bias, float("nan"))

    training.trainee.before_loss = spoil
    found["nan"] = ending(run, training, Recorder())
    found["moody"] = moody(rank)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(of_rank, tmp_path_factory.mktemp("parallel"))


def equal(first: Weights, second: Weights, *, but: tuple[str, ...] = ()) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first if name not in but)


RUNNING = ("norm.running_mean", "norm.running_var")


def test_all_ranks_have_the_same_weights(two: list[dict[str, Any]]) -> None:
    first, second = two
    assert first["whole"] == second["whole"] == "done after 9"
    for part in ("weights", "ema"):
        assert equal(first[part], second[part], but=RUNNING)
        assert not equal(first[part], second[part])  # each has the statistics of its own batches ...
    assert equal(first["shared"], second["shared"])  # ... until they are to be measured
    assert equal(first["shared"], first["weights"])
    speeds = {"steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation"}
    for ours, theirs in zip(first["logs"], second["logs"], strict=True):
        assert {k: v for k, v in ours.items() if k not in speeds} == {
            k: v for k, v in theirs.items() if k not in speeds
        }


def test_ranks_and_accumulation_are_the_mean_of_their_batches(two: list[dict[str, Any]]) -> None:
    """Each step of two ranks that accumulate two batches is a step of one process that accumulates all four."""
    run, training = toy_run(Path(), toy_config(**SETTINGS | {"accumulate": 4}), ToyBatches(count=10))
    training.trainee.drop.p = 0.0
    training.trainee.train()
    shares = [list(Share(rank).epoch(0)) for rank in (0, 1)]
    expected = []
    for start in (0, 2, 4):
        group = [batch for share in shares for batch in share[start : start + 2]]
        expected.append(train_step(run, training, group)["loss"])
        run.step += 1
    assert [log["loss"] for log in two[0]["logs"][:3]] == pytest.approx(expected, rel=1e-5)


def test_a_stop_of_one_rank_stops_all_after_the_same_step(two: list[dict[str, Any]]) -> None:
    assert {found["stop"] for found in two} == {"Interrupted in 4, saved [3, 4]: stopped on request after step 4"}
    assert {found["finish"] for found in two} == {("done after 4", "on request")}


def test_a_loss_that_is_broken_on_one_rank_ends_all(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["nan"].startswith("Diverged in 2, saved []: the loss term loss_fit is nan")


def test_an_adapter_that_one_rank_does_not_use_keeps_nobody_waiting(two: list[dict[str, Any]]) -> None:
    (first, ours), (second, theirs) = (found["moody"] for found in two)
    assert first != second
    assert 0 < first + second < 20
    assert equal(ours, theirs)


# --- in one process --------------------------------------------------------------------------------------------------


def test_one_process_needs_no_wrapper() -> None:
    model = Toy()
    assert data_parallel(model) is None
    with no_sync(model, True):
        pass
    broadcast_buffers(model)


def test_a_synced_norm_alone_is_a_batch_norm() -> None:
    model, same = Toy(), Toy()
    same.load_state_dict(model.state_dict())
    synchronise_norms(model)
    assert type(model.norm) is SyncedBatchNorm2d
    x = torch.randn(2, 4, 5, 5)
    with ranks.synchronised_statistics(True):
        assert torch.equal(model.norm(x), same.norm(x))
    assert equal(copied(model), copied(same))


def test_norms_that_cannot_be_synchronised_are_refused() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="0 is a BatchNorm1d") as caught:
        synchronise_norms(model)
    assert caught.value.where == "/sync_statistics"
