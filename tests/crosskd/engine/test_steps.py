"""Optimizer steps: clipping, divergence, what nobody has read yet, half precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crosskd.engine import run_state, steps
from crosskd.engine.callbacks import Callback
from crosskd.engine.device import MixedPrecision
from crosskd.engine.loop import fit
from crosskd.engine.results import Results
from crosskd.engine.training import Training
from crosskd.errors import Diverged
from tests.support import small
from tests.support.toys import CPU, Recorder, ToyBatches, run_through, toy_config, toy_run, train_step, weights


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    sgd = {"name": "sgd", "lr": 1.0, "base_batch": None, "momentum": 0.0, "weight_decay": 0.0}
    run, training = toy_run(
        tmp_path, toy_config(clip_norm=0.01, optimizer=sgd, schedule={"warmup_steps": 0, "decay": "none"})
    )
    before = [p.detach().clone() for p in training.trainee.parameters()]
    values = train_step(run, training, list(training.batches.epoch(0))[:1])
    moved = torch.stack(
        [(a - b.detach()).norm() for a, b in zip(before, training.trainee.parameters(), strict=True)]
    ).norm()
    assert values["grad_norm"] > 0.01
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_change(tmp_path: Path, broken: float) -> None:
    run, training = toy_run(tmp_path, toy_config(accumulate=2))
    snapshots: dict[int, dict[str, torch.Tensor]] = {}

    def poison(call: int) -> None:
        snapshots[call] = {n: p.detach().clone() for n, p in training.trainee.named_parameters()}
        if call == 4:  # the second batch of the second step
            training.trainee.out.register_forward_hook(lambda module, args, out: out * broken)

    training.trainee.before_loss = poison
    with pytest.raises(Diverged, match=r"loss_fit is (nan|inf) on level 0 of the pyramid in step 2") as caught:
        run_through(run, training)
    assert caught.value.failure_class == "diverged"
    assert "checkpoint" not in caught.value.remedy  # there is none
    assert run.step == 1
    for name, parameter in training.trainee.named_parameters():
        assert torch.equal(parameter, snapshots[4][name])


def test_a_divergence_names_the_checkpoint_from_before(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(checkpoint={"every_steps": 1}))

    def poison(call: int) -> None:
        if call == 3:
            training.trainee.out.register_forward_hook(lambda module, args, out: out * float("nan"))

    training.trainee.before_loss = poison
    with pytest.raises(Diverged) as caught:
        run_through(run, training)
    assert caught.value.remedy.endswith("clip_norm; the checkpoint of step 2 is from before.")


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config())
    training.trainee.conv.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(Diverged, match=r"gradient's norm is (inf|nan) in step 1"):
        run_through(run, training)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as a GPU takes them: nobody reads their numbers before a log line or a checkpoint."""
    monkeypatch.setattr(steps, "reads_at_once", lambda amp: False)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_steps_that_nobody_reads_are_those_that_are_read(
    tmp_path: Path, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs, weights and the average, to the bit; 15 steps, of which at most 2 are unread."""
    found = []
    for at_once in (True, False):
        monkeypatch.setattr(steps, "reads_at_once", lambda amp, at_once=at_once: at_once)
        monkeypatch.setattr(steps, "UNREAD", 2)
        run, training = toy_run(tmp_path, toy_config(log_every=4, ema={"decay": 0.9}, clip_norm=clip))
        recorder = Recorder()
        run_through(run, training, recorder)
        assert training.ema is not None
        logs = [{k: v for k, v in log.items() if k.startswith(("step", "loss", "lr", "grad"))} for log in recorder.logs]
        found.append(([{**log, "steps_per_second": 0} for log in logs], weights(training), training.ema.model))
    (logs, ours, average), (logs_too, theirs, average_too) = found
    assert logs == logs_too
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    pairs = zip(average.state_dict().values(), average_too.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_breaks_unread_is_named_at_the_next_reading_and_reaches_no_weights(tmp_path: Path, what: str) -> None:
    config = toy_config(log_every=100, checkpoint={"every_steps": 4})
    run, training = toy_run(tmp_path, config, ToyBatches(count=9))
    snapshots: list[dict[str, torch.Tensor]] = []
    saved: list[int] = []

    def poison(call: int) -> None:
        if call in (6, 8):
            snapshots.append({n: p.detach().clone() for n, p in training.trainee.named_parameters()})
        if call == 6 and what == "loss":
            training.trainee.out.register_forward_hook(lambda module, args, out: out * float("nan"))
        if call == 6 and what == "gradient":
            training.trainee.conv.weight.register_hook(lambda grad: grad * float("inf"))

    training.trainee.before_loss = poison
    named = "loss_fit is nan on level 0 of the pyramid" if what == "loss" else "gradient's norm is (inf|nan)"
    with pytest.raises(Diverged, match=f"{named} in step 6") as caught:
        fit(run, training, Callback(), save=lambda: saved.append(run.step), evaluate=lambda: "")
    assert "the checkpoint of step 4 is from before" in caught.value.remedy
    assert (saved, run.step) == ([4], 5)
    assert all(torch.equal(value, snapshots[1][name]) for name, value in snapshots[0].items())


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.003)])
def test_half_precision_computes_what_full_precision_does(tmp_path: Path, precision: str, tolerance: float) -> None:
    """Losses and gradients of one step, relative to the largest; the weights stay fp32."""
    found = []
    formats: set[torch.dtype] = set()
    for number_format in (precision, "fp32"):
        run, training = toy_run(tmp_path, toy_config(precision=number_format))
        training.trainee.conv.register_forward_hook(lambda module, args, out: formats.add(out.dtype))
        training = replace(training, amp=replace(training.amp, scaler=gentle(training.amp.scaler)))
        values = train_step(run, training, list(training.batches.epoch(0))[:2])
        assert {p.dtype for p in training.trainee.parameters()} == {torch.float32}
        gradients = torch.cat([p.grad.flatten() for p in training.trainee.parameters() if p.grad is not None])
        found.append((values["loss"], gradients))
    (loss, gradients), (true_loss, true_gradients) = found
    assert formats == {torch.float32, torch.bfloat16 if precision == "bf16" else torch.float16}
    assert loss == pytest.approx(true_loss, rel=tolerance)
    assert not torch.equal(gradients, true_gradients)
    atol = tolerance * float(true_gradients.abs().max())
    torch.testing.assert_close(gradients, true_gradients, rtol=0, atol=atol)


def gentle(scaler: torch.amp.GradScaler) -> torch.amp.GradScaler:
    """Such a scaler as it would be some steps later: its first scale is a try that mostly overflows."""
    return torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaler.is_enabled())


def test_fp16_trains_although_its_first_scale_overflows(tmp_path: Path) -> None:
    twenty = {"epochs": 20, "warmup_steps": 0, "decay": "none"}
    run, training = toy_run(tmp_path, toy_config(precision="fp16", schedule=twenty))
    recorder = Recorder()
    run_through(run, training, recorder)
    assert recorder.logs[0]["grad_norm"] == float("inf")
    losses = [log["loss"] for log in recorder.logs]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


def test_fp16_scales_its_loss_and_the_gradient_comes_back_unscaled(tmp_path: Path) -> None:
    run, training = toy_run(tmp_path, toy_config(precision="fp16"))
    training = replace(training, amp=replace(training.amp, scaler=gentle(training.amp.scaler)))
    seen: list[float] = []
    training.trainee.out.weight.register_hook(lambda grad: seen.append(float(grad.abs().max())))
    train_step(run, training, list(training.batches.epoch(0))[:1])
    assert training.amp.scaler.get_scale() == 2.0**8
    assert training.trainee.out.weight.grad is not None
    unscaled = float(training.trainee.out.weight.grad.abs().max())
    assert seen[0] == pytest.approx(2.0**8 * unscaled)


def test_the_scale_of_fp16_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    """An overflow halves it, and a resumed run must not try the old one again."""
    run, training = toy_run(tmp_path, toy_config(precision="fp16"))
    training.trainee.conv.weight.register_hook(lambda grad: grad * float("inf"))
    train_step(run, training, list(training.batches.epoch(0))[:1])
    model = small.config()
    state = run_state.capture(run, training, Results(tmp_path, model, []), {}, seconds=0.0)
    again, other = toy_run(tmp_path, toy_config(precision="fp16"))
    assert other.amp.scaler.get_scale() == 2.0**16
    run_state.restore(state, again, other, Results(tmp_path, model, []))
    assert other.amp.scaler.get_scale() == 2.0**15


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_scaler_of_fp16_survives_overflow_and_gives_up_in_the_end(tmp_path: Path, optimizer: str) -> None:
    """The scaler alone, from a small scale on, so that it gives up soon."""
    run, training = toy_run(tmp_path, toy_config(ema={"decay": 0.9}, optimizer={"name": optimizer, "lr": 0.01}))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-4)
    amp = MixedPrecision(CPU, "fp32", scaler)
    training = Training(**{**training.__dict__, "amp": amp})
    training.trainee.conv.weight.register_hook(lambda grad: grad * float("inf"))
    batches = list(training.batches.epoch(0))[:1]
    before = [p.detach().clone() for p in training.trainee.parameters()]
    values = train_step(run, training, batches)
    assert values["grad_norm"] == float("inf") or values["grad_norm"] != values["grad_norm"]
    assert all(torch.equal(a, b) for a, b in zip(before, training.trainee.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**-5
    # A step that was not taken leaves no momentum behind, and is no step of the average.
    assert training.optimizer.state_dict()["state"] == {}
    assert training.ema is not None
    assert training.ema.updates == 0
    for _ in range(5):
        train_step(run, training, batches)
    with pytest.raises(Diverged, match="gradient's norm"):
        train_step(run, training, batches)
