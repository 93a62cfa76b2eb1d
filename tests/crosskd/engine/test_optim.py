"""Parameter groups, the linear scaling rule, and the schedule against torch's own schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from crosskd.engine.optim import Schedule, build_optimizer, match_layout, parameter_groups, set_learning_rate
from crosskd.spec.config import OptimizerConfig, ScheduleConfig


def model() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.GroupNorm(2, 4))
    net[2].weight.requires_grad_(False)
    return net


def decays(net: nn.Module, config: OptimizerConfig) -> dict[str, float]:
    by_parameter = {p: g["weight_decay"] for g in parameter_groups(net, config) for p in g["params"]}
    return {name: by_parameter[p] for name, p in net.named_parameters() if p in by_parameter}


def test_every_trainable_parameter_stands_in_one_group_and_frozen_ones_in_none() -> None:
    net = model()
    listed = [p for g in parameter_groups(net, OptimizerConfig()) for p in g["params"]]
    trainable = [p for p in net.parameters() if p.requires_grad]
    assert sorted(map(id, listed)) == sorted(map(id, trainable))


@pytest.mark.parametrize(
    ("knobs", "undecayed"),
    [
        ({}, set()),
        ({"norm_decay": False}, {"0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}),
        ({"bias_decay": False}, {"0.bias"}),
    ],
)
def test_weight_decay_spares_what_the_knobs_say(knobs: dict[str, bool], undecayed: set[str]) -> None:
    found = decays(model(), OptimizerConfig(weight_decay=0.5, **knobs))
    assert {name for name, decay in found.items() if decay == 0} == undecayed
    assert set(found.values()) <= {0.0, 0.5}


def test_biases_of_convolutions_learn_faster_and_those_of_norms_do_not() -> None:
    net = model()
    optimizer = build_optimizer(net, OptimizerConfig(lr=0.1, base_batch=None, bias_lr_factor=2.0), total_batch=3)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    fast = [name for name, p in net.named_parameters() if rates.get(p) == pytest.approx(0.2)]
    assert fast == ["0.bias"]


class Student(nn.Module):
    """As a detector names its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.ModuleDict({"backbone": nn.Linear(2, 2), "sampling_offsets": nn.Linear(2, 2)})


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student = Student()
        self.terms = nn.ModuleDict({"align": nn.Linear(2, 2)})


@pytest.mark.parametrize(("net", "prefix"), [(Student(), ""), (Pair(), "student.")])
def test_the_backbone_and_the_sampling_of_a_detr_have_rates_of_their_own(net: nn.Module, prefix: str) -> None:
    """Alone or in a distillation; and the rate that is told is the full one, though the backbone comes first."""
    config = OptimizerConfig(
        name="adamw", lr=0.5, base_batch=None, backbone_lr_factor=0.1, sampling_lr_factor=0.2, bias_lr_factor=2.0
    )
    optimizer = build_optimizer(net, config, total_batch=1)
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(0.25)
    rates = {p: g["lr"] / 0.25 for g in optimizer.param_groups for p in g["params"]}
    named = {name.removeprefix(prefix): rates[p] for name, p in net.named_parameters()}
    assert {name: rate for name, rate in named.items() if not name.startswith("terms.")} == pytest.approx(
        {
            "backbone.0.weight": 0.1,
            "backbone.0.bias": 0.2,
            "backbone.1.weight": 0.1,
            "backbone.1.bias": 0.1,
            "head.backbone.weight": 1.0,
            "head.backbone.bias": 2.0,
            "head.sampling_offsets.weight": 0.2,
            "head.sampling_offsets.bias": 0.4,
        }
    )
    assert named.get("terms.align.weight", 1.0) == 1.0


@pytest.mark.parametrize(("base", "expected"), [(16, 0.01 * 8 / 16), (None, 0.01)])
def test_the_learning_rate_scales_with_the_total_batch(base: int | None, expected: float) -> None:
    optimizer = build_optimizer(model(), OptimizerConfig(lr=0.01, base_batch=base), total_batch=8)
    assert [g["lr"] for g in optimizer.param_groups] == [pytest.approx(expected)]
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(expected / 2)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_is_torch_s_own(name: str) -> None:
    torch.manual_seed(0)
    config = OptimizerConfig(name=name, lr=0.1, base_batch=None, weight_decay=0.01)
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    reference: torch.optim.Optimizer = (
        torch.optim.SGD(trainable, 0.1, momentum=0.9, weight_decay=0.01)
        if name == "sgd"
        else torch.optim.AdamW(trainable, 0.1, weight_decay=0.01)
    )
    optimizer = build_optimizer(ours, config, total_batch=1)
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for net, stepper in ((ours, optimizer), (theirs, reference)):
        for _ in range(3):
            stepper.zero_grad()
            net(images).square().mean().backward()
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_learns_later_than_others_of_its_group_steps_as_torch_s_plain_sgd_does(nesterov: bool) -> None:
    """As what makes a DETR's noisy queries, where the first images have no object."""
    config = OptimizerConfig(name="sgd", lr=0.1, base_batch=None, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    ours, theirs = ([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))] for _ in range(2))
    optimizer = build_optimizer(nn.ParameterList(ours), config, total_batch=1)
    plain = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=nesterov, foreach=False)
    for step in range(3):
        for early, late in (ours, theirs):
            early.grad, late.grad = torch.full((3,), 1.0 + step), None if step == 0 else torch.full((3,), 2.0)
        optimizer.step()
        plain.step()
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_linear_warm_up_then_steps_down_at_the_milestones() -> None:
    config = ScheduleConfig(epochs=12, warmup_steps=10, warmup_factor=0.1, milestones=[8, 11], gamma=0.1)
    schedule = Schedule(config, steps_per_epoch=100)
    assert schedule(0) == pytest.approx(0.1)
    assert schedule(5) == pytest.approx(0.55)
    assert schedule(10) == schedule(799) == 1.0
    assert schedule(800) == pytest.approx(0.1)
    assert schedule(1099) == pytest.approx(0.1)
    assert schedule(1100) == pytest.approx(0.01)
    assert schedule.total_steps == 1200


def test_constant_warm_up() -> None:
    schedule = Schedule(ScheduleConfig(warmup="constant", warmup_factor=1 / 3, warmup_steps=5, decay="none"), 10)
    assert [schedule(step) for step in (0, 4, 5, 119)] == [pytest.approx(1 / 3), pytest.approx(1 / 3), 1.0, 1.0]


def test_the_cosine_is_torch_s() -> None:
    config = ScheduleConfig(epochs=4, warmup_steps=0, decay="cosine", final_factor=0.05)
    schedule = Schedule(config, steps_per_epoch=5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.05)
    for step in range(20):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_a_flat_cosine_is_flat_first_and_then_the_same_cosine() -> None:
    """RTMDet's: half of the run at the full rate."""
    flat = Schedule(ScheduleConfig(epochs=8, warmup_steps=0, decay="cosine", final_factor=0.05, flat=0.5), 5)
    plain = Schedule(ScheduleConfig(epochs=4, warmup_steps=0, decay="cosine", final_factor=0.05), 5)
    assert {flat(step) for step in range(21)} == {1.0}
    assert [flat(20 + step) for step in range(21)] == pytest.approx([plain(step) for step in range(21)])
    with pytest.raises(ValidationError, match="flat is a knob of the cosine"):
        ScheduleConfig(flat=0.5)


def test_yolox_s_schedule_rises_by_squares_and_ends_flat() -> None:
    config = ScheduleConfig(
        epochs=8,
        warmup="quadratic",
        warmup_steps=4,
        warmup_factor=0.1,
        decay="cosine",
        final_factor=0.05,
        final_epochs=2,
    )
    schedule = Schedule(config, 5)
    plain = Schedule(ScheduleConfig(epochs=6, warmup_steps=0, decay="cosine", final_factor=0.05), 5)
    rise = [0.1 + 0.9 * (step / 4) ** 2 for step in range(4)]
    assert [schedule(step) for step in range(4)] == pytest.approx([r * plain(i) for i, r in enumerate(rise)])
    assert [schedule(step) for step in range(4, 30)] == [plain(step) for step in range(4, 30)]
    assert [schedule(step) for step in range(30, 41)] == pytest.approx([0.05] * 11)
    for values, what in (
        ({"final_epochs": 1}, "of the cosine"),
        ({"decay": "cosine", "final_epochs": 12}, "leaves none"),
    ):
        with pytest.raises(ValidationError, match=what):
            ScheduleConfig.model_validate(values)


def test_nesterov_is_sgd_s_alone() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerConfig(nesterov=True), total_batch=16)
    assert all(group["nesterov"] for group in optimizer.param_groups)
    for values in ({"name": "adamw"}, {"momentum": 0.0}):
        with pytest.raises(ValidationError, match="nesterov needs sgd with momentum"):
            OptimizerConfig.model_validate({"nesterov": True, **values})


def test_max_steps_cuts_the_run_and_leaves_the_curve() -> None:
    whole = Schedule(ScheduleConfig(epochs=4, decay="cosine", warmup_steps=3), 5)
    cut = Schedule(ScheduleConfig(epochs=4, decay="cosine", warmup_steps=3, max_steps=7), 5)
    assert (whole.total_steps, cut.total_steps) == (20, 7)
    assert [whole(s) for s in range(7)] == [cut(s) for s in range(7)]
    assert math.isclose(whole(20), 0.0, abs_tol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_an_optimizer_remembers_is_laid_out_as_its_parameters(name: str) -> None:
    """A fused step over a parameter and a momentum of different strides would mix up their elements."""

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for seed in range(count):
            x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

    def build(layout: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, bias=False)).to(memory_format=layout)
        return net, build_optimizer(net, OptimizerConfig(name=name, lr=0.01, base_batch=None), total_batch=1)

    before, whole = build(torch.contiguous_format), build(torch.contiguous_format)
    steps(*before, 2)
    steps(*whole, 2)
    net, optimizer = build(torch.channels_last)
    net.load_state_dict(before[0].state_dict())
    optimizer.load_state_dict(before[1].state_dict())
    match_layout(optimizer)
    steps(net, optimizer, 3)
    steps(*whole, 3)
    for ours, theirs in zip(net.parameters(), whole[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, check_stride=False)
