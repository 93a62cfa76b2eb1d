"""The loop on a toy: accumulation, order of events, stops, memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crosskd.engine.callbacks import Callback, Callbacks, Run
from crosskd.engine.device import MixedPrecision, choose_device, memory_errors
from crosskd.engine.loop import fit
from crosskd.engine.stop_reason import StopReason
from crosskd.engine.training import Training
from crosskd.errors import ConfigError, Interrupted, NoAnswer, OutOfMemory
from crosskd.structures import Batch
from tests.support.toys import CPU, Recorder, ToyBatches, toy_config, toy_run, train_step, weights


def run_through(run: Run, training: Training, callback: Callback | None = None) -> list[str]:
    """Fit, and return what happened in order."""
    return ended(run, training, callback)[0]


def ended(
    run: Run,
    training: Training,
    callback: Callback | None = None,
    evaluate: Callable[[], str] = lambda: "",
) -> tuple[list[str], StopReason]:
    """Fit, and return what happened in order, and why it ended."""
    events: list[str] = []

    def evaluated() -> str:
        events.append(f"evaluate {run.step}")
        return evaluate()

    reason = fit(
        run, training, callback or Callback(), save=lambda: events.append(f"save {run.step}"), evaluate=evaluated
    )
    return events, reason


def test_each_epoch_ends_with_a_checkpoint_and_then_an_evaluation(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    events = run_through(run, training)
    assert events == ["save 5", "evaluate 5", "save 10", "evaluate 10", "save 15", "evaluate 15"]
    assert training.batches.yielded == [(epoch, number) for epoch in range(3) for number in range(5)]
    assert run.epoch == 3.0


def test_evaluations_every_other_epoch_and_at_the_end(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(evaluation={"every_epochs": 2}))
    assert [e for e in run_through(run, training) if "evaluate" in e] == ["evaluate 10", "evaluate 15"]


def test_checkpoints_between_epochs_are_written_once_each(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(checkpoint={"every_steps": 5}, schedule={"max_steps": 7}))
    assert run_through(run, training) == ["save 5", "evaluate 5", "save 7", "evaluate 7"]
    assert len(training.batches.yielded) == 7


def test_losses_fall_and_logs_carry_every_key(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(schedule={"epochs": 20, "warmup_steps": 0, "decay": "none"}))
    recorder = Recorder()
    run_through(run, training, recorder)
    assert set(recorder.logs[0]) == {
        "step", "loss", "loss_fit", "loss_size", "lr", "grad_norm",
        "steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation",
    }  # fmt: skip
    assert recorder.logs[0]["loss"] == pytest.approx(recorder.logs[0]["loss_fit"] + recorder.logs[0]["loss_size"])
    early = sum(log["loss"] for log in recorder.logs[:10])
    late = sum(log["loss"] for log in recorder.logs[-10:])
    assert late < 0.75 * early
    assert 0 <= recorder.logs[5]["data_wait"] <= 1
    assert run.eta_seconds == 0


def test_logs_come_every_so_many_steps_and_at_the_last(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(log_every=4))
    recorder = Recorder()
    run_through(run, training, recorder)
    assert [log["step"] for log in recorder.logs] == [4, 8, 12, 15]


def test_accumulation_is_the_mean_over_the_group_the_short_last_one_too(tmp_path: Path) -> None:
    config = toy_config(accumulate=3, optimizer={"name": "sgd", "lr": 0.1, "base_batch": None, "momentum": 0.0})
    run, training = toy_run(tmp_path, config)
    training.trainee.drop.p = 0.0
    seen: list[int] = []
    fit(
        run,
        training,
        Recorder(lambda run: seen.append(run.batches_done)),
        save=lambda: None,
        evaluate=lambda: "",
    )
    assert seen == [3, 5] * 3

    run, training = toy_run(tmp_path, config)
    training.trainee.drop.p = 0.0
    batches = list(training.batches.epoch(0))[3:5]
    before = weights(training)
    training.trainee.train()
    sum(
        (torch.stack([t.sum() for t in training.trainee(b.images, b.targets).values()]).sum() / 2 for b in batches),
        start=torch.zeros(()),
    ).backward()
    lr = 0.1 * training.schedule(0)
    expected = {n: before[n] - lr * (p.grad + 1e-4 * before[n]) for n, p in training.trainee.named_parameters()}
    train_step(run, training, batches)
    for name, parameter in training.trainee.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], msg=name)


def test_the_batches_of_a_group_are_fetched_one_by_one(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(accumulate=4))
    fetched: list[int] = []
    training.trainee.before_loss = lambda call: fetched.append(len(training.batches.yielded))
    run_through(run, training)
    assert fetched == list(range(1, 16))


class SlowBatches(ToyBatches):
    """Each comes a second late, and nothing else takes time; `ends` counts the epochs that were fetched to the end."""

    ends = 0
    now = 0.0

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(index, start):
            SlowBatches.now += 1.0
            yield batch
        self.ends += 1


def test_all_batches_of_a_group_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=lambda: SlowBatches.now, process_time=time.process_time)
    monkeypatch.setattr("crosskd.engine.throughput.time", clock)
    batches = SlowBatches()
    run, training = toy_run(tmp_path, toy_config(accumulate=3, schedule={"epochs": 2}), batches)
    recorder = Recorder()
    run_through(run, training, recorder)
    assert [log["step"] for log in recorder.logs] == [1, 2, 3, 4]
    assert [log["data_wait"] for log in recorder.logs] == [1.0] * 4
    rates = [log["images_per_second"] / log["steps_per_second"] for log in recorder.logs]
    assert rates == pytest.approx([6, 4] * 2)
    assert batches.ends  # where the run goes on, the loader gets to its own end


class StuckBatches(ToyBatches):
    """From batch `stuck` on none comes, and a stop was asked for."""

    stuck = 3

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        yield from islice(super().epoch(index, start), self.stuck)
        raise NoAnswer("the loader's processes do not answer")


@pytest.mark.parametrize(
    ("accumulate", "saved", "step"),
    [(1, ["save 3"], 3), (3, ["save 1"], 1), (2, [], 0)],  # half a step is nothing to go on from
)
def test_a_stop_waits_for_no_batch_that_does_not_come(
    tmp_path: Path, accumulate: int, saved: list[str], step: int
) -> None:
    run, training = toy_run(tmp_path, toy_config(accumulate=accumulate), StuckBatches())
    events: list[str] = []
    with pytest.raises(Interrupted, match="the loader gave no batch") as caught:
        fit(run, training, Callback(), save=lambda: events.append(f"save {run.step}"), evaluate=lambda: "")
    assert (events, caught.value.step, run.saved_step) == (saved, step, step)


def test_a_stop_finishes_its_step_and_writes_a_checkpoint(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    saves: list[int] = []
    stopper = Recorder(lambda run: run.request_stop() if run.step == 7 else None)
    with pytest.raises(Interrupted, match="step 7"):
        fit(run, training, stopper, save=lambda: saves.append(run.step), evaluate=lambda: "")
    assert saves == [5, 7]
    assert (run.epoch_index, run.batches_done) == (1, 2)


def test_a_run_that_comes_to_its_last_step_is_finished(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(schedule={"max_steps": 7}))
    events, reason = ended(run, training)
    assert (events[-2:], reason, run.stopped_early) == (["save 7", "evaluate 7"], StopReason.FINISHED, "")


def test_a_resume_behind_the_last_step_only_evaluates(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(schedule={"max_steps": 7}))
    run.step, run.epoch_index, run.batches_done = 7, 1, 2
    assert ended(run, training) == (["evaluate 7"], StopReason.FINISHED)
    assert training.batches.yielded == []


@pytest.mark.parametrize("log_every", [1, 7])
def test_a_requested_finish_makes_its_step_the_last(tmp_path: Path, log_every: int) -> None:
    run, training = toy_run(tmp_path, toy_config(log_every=log_every, evaluation={"every_epochs": 9}))
    events, reason = ended(run, training, Recorder(lambda run: run.request_finish() if run.step == 7 else None))
    assert events == ["save 5", "save 7", "evaluate 7"]
    assert (reason, run.stopped_early) == (StopReason.FINISH_ASKED, "on request")
    assert training.batches.yielded[-1] == (1, 1)


def test_a_finish_requested_in_an_evaluation_costs_no_further_step(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    events, reason = ended(run, training, evaluate=lambda: run.request_finish() or "")
    assert (events, run.step) == (["save 5", "evaluate 5"], 5)
    assert (reason, run.stopped_early) == (StopReason.FINISH_ASKED, "on request")


def test_an_evaluation_that_says_why_ends_the_run(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    events, reason = ended(run, training, evaluate=lambda: "it got worse" if run.step == 10 else "")
    assert events == ["save 5", "evaluate 5", "save 10", "evaluate 10"]
    assert (reason, run.stopped_early) == (StopReason.OUT_OF_PATIENCE, "it got worse")


def test_a_requested_finish_goes_before_patience(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    asker = Recorder(lambda run: run.request_finish() if run.step == 7 else None)
    _, reason = ended(run, training, asker, evaluate=lambda: "it got worse" if run.step == 7 else "")
    assert (reason, run.stopped_early) == (StopReason.FINISH_ASKED, "on request")


def test_neither_a_finish_nor_patience_makes_the_last_step_an_early_stop(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(schedule={"max_steps": 7}))
    asker = Recorder(lambda run: run.request_finish() if run.step == 7 else None)
    events, reason = ended(run, training, asker, evaluate=lambda: "it got worse" if run.step == 7 else "")
    assert (events[-2:], reason, run.stopped_early) == (["save 7", "evaluate 7"], StopReason.FINISHED, "")


def test_a_stop_goes_before_a_finish(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    run.request_finish()
    run.request_stop()
    with pytest.raises(Interrupted, match="step 1"):
        run_through(run, training)
    assert run.stopped_early == ""


def gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def more_than_there_can_be() -> None:
    torch.empty(2**50)


@pytest.mark.parametrize(
    ("fault", "augment", "knob"),
    [
        (gpu_is_full, {}, "augment.short_edges"),
        (more_than_there_can_be, {"letterbox": [64]}, "augment.letterbox"),  # which alone says how large images are
    ],
)
def test_no_memory_is_told_with_the_batch(
    tmp_path: Path, fault: Callable[[], None], augment: dict[str, Any], knob: str
) -> None:
    run, training = toy_run(tmp_path, toy_config(augment=augment))
    training.trainee.before_loss = lambda call: fault()
    with pytest.raises(OutOfMemory, match="2 images of 8 x 8 pixels") as caught:
        run_through(run, training)
    assert caught.value.failure_class == "out_of_memory"
    assert "accumulate" in caught.value.remedy
    assert f"lower {knob}," in caught.value.remedy


def test_no_memory_in_the_optimizer_or_the_average_is_told_too(tmp_path: Path, monkeypatch: Any) -> None:
    """Both take memory in the first step only, after a batch that fitted."""
    run, training = toy_run(tmp_path, toy_config(ema={"decay": 0.9}))
    batches = list(training.batches.epoch(0))[:1]

    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for part in (training.optimizer, training.ema):
        with monkeypatch.context() as patch:
            patch.setattr(part, "step" if part is training.optimizer else "update", refuse)
            with pytest.raises(OutOfMemory, match="cpu memory ran out on a batch of 2 images of 8 x 8 pixels"):
                train_step(run, training, batches)


@pytest.mark.parametrize(
    "text", ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't"]
)
def test_no_memory_before_the_first_batch_names_the_device(text: str) -> None:
    with pytest.raises(OutOfMemory, match="cuda memory ran out before the first batch"), memory_errors("cuda:0"):
        raise RuntimeError(text)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())

    def refuse(call: int) -> None:
        raise RuntimeError("a bug")

    training.trainee.before_loss = refuse
    with pytest.raises(RuntimeError, match="a bug"):
        run_through(run, training)


def test_no_gpu_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match="no CUDA device"):
        choose_device("cuda")


def test_bf16_that_a_gpu_only_emulates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ConfigError, match="no bf16"):
        MixedPrecision.on(gpu, "bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert MixedPrecision.on(gpu, "bf16").precision == "bf16"


def test_callbacks_hear_in_order_and_one_that_fails_ends_the_run(tmp_path: Path) -> None:
    heard: list[str] = []

    class Named(Callback):
        def __init__(self, name: str, fails: bool = False) -> None:
            self.name, self.fails = name, fails

        def on_log(self, run: Run, values: dict[str, Any]) -> None:
            heard.append(self.name)
            if self.fails:
                raise OSError("the disk is full")

    run, training = toy_run(tmp_path, toy_config())
    with pytest.raises(OSError, match="disk is full"):
        run_through(run, training, Callbacks([Named("first"), Named("second", fails=True), Named("third")]))
    assert heard == ["first", "second"]


def test_a_stop_may_come_from_any_thread(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(schedule={"epochs": 1000}), ToyBatches(count=50))
    started = threading.Event()
    waiter = threading.Thread(target=lambda: (started.wait(30), run.request_stop()))
    waiter.start()
    with pytest.raises(Interrupted):
        fit(run, training, Recorder(lambda run: started.set()), save=lambda: None, evaluate=lambda: "")
    waiter.join()
    assert 1 <= run.step < run.total_steps
