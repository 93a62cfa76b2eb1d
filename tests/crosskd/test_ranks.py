"""Losses on two ranks: each rank's share averaged, or with synchronised statistics the loss of the total batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd import ranks
from crosskd.detectors.dense.recall import moments as known
from crosskd.detectors.detector import build_detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.distill.statistics import match_statistics, moments, overall_mean
from crosskd.engine import distributed
from crosskd.engine.parallel import data_parallel
from crosskd.engine.recompute import recompute_within
from crosskd.losses import rank_mean, rank_own, rank_share
from crosskd.spec import registry
from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.structures import Targets
from tests.support import small
from tests.support.ranks import on_ranks

DETECTORS = tuple(sorted(registry.DENSE))
RECOMPUTED = "rtmdet"  # whose towers have batch norm
Batch = tuple[Tensor, Targets]
Values = dict[str, Tensor]


def distiller(name: str) -> Distiller:
    """A pair far enough from its timid start for every divisor to differ between the shares."""
    torch.manual_seed(3)
    values = {
        "detector": name,
        "backbone": {"name": "resnet_tiny", "width": 8},
        "neck": {"channels": 16},
        "head": {"channels": 16, "depth": 2, "norm_groups": 4},
    }
    student, teacher = (build_detector(ModelConfig.model_validate(values), small.CLASSES) for _ in range(2))
    for model in (student, teacher):
        for parameter in model.head.parameters():
            if parameter.dim() == 4:
                torch.nn.init.normal_(parameter, std=(1 / parameter[0].numel()) ** 0.5)
    terms: dict[str, Any] = {"crosskd": {"cut": 1}, "pkd": {}, "direct": {}, "fitnet": {}, "fgd": {}, "cwd": {}}
    terms |= {"bckd": {}, "skd": {}, "imitation": {}, "defeat": {}}
    terms |= {"fgfi": {}} if name in {"gfl", "retinanet", "atss"} else {}
    # Where two of RetinaNet's anchors overlap an instance alike, rounding decides which of them is positive.
    terms |= {"gid": {}} if name != "retinanet" else {}
    terms["mgd"] = {"masked": 0.0}  # a random mask would differ between one process and two
    terms |= {"ld": {}} if name == "gfl" else {}
    return build_distiller(student, teacher, DistillConfig.model_validate(terms)).double()


def share(rank: int) -> Batch:
    """Two images for each rank, of one size; the second rank's first has no boxes, its second three."""
    images, targets = small.batch(seed=rank)
    boxes, labels = list(targets.boxes), list(targets.labels)
    if rank:
        boxes = [boxes[0][:0], torch.tensor([[2.0, 2.0, 30.0, 44.0], [8.0, 20.0, 40.0, 52.0], [1.0, 1.0, 13.0, 14.0]])]
        labels = [labels[0][:0], torch.tensor([2, 1, 0])]
    targets = Targets(boxes, labels, targets.sizes, targets.padded)
    return images.double(), targets.to("cpu", torch.float64)


def together(first: Batch, second: Batch) -> Batch:
    (a, x), (b, y) = first, second
    targets = Targets(x.boxes + y.boxes, x.labels + y.labels, x.sizes + y.sizes, x.padded + y.padded)
    return torch.cat([a, b]), targets


def gradients(model: Distiller) -> Values:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def buffers(model: Distiller) -> Values:
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name}


def of_rank(rank: int) -> dict[str, Any]:
    """What a rank finds: gradients and statistics of each detector in both ways, and divisors and moments."""
    found: dict[str, Any] = {}
    for name in DETECTORS:
        for synchronised in (False, True):
            model = distiller(name).train()
            if synchronised and name == RECOMPUTED:
                recompute_within(model.recomputed())  # so the ranks meet in sums of the backward pass, too
            with ranks.synchronised_statistics(synchronised):
                shared = data_parallel(model, idle=model.sometimes_idle())
                assert shared is not None
                losses = shared(*share(rank))
                small.total(losses).backward()
            values = {key: distributed.mean(value) for key, value in losses.items()}
            found[f"{name} {synchronised}"] = (values, gradients(model), buffers(model))
    number = torch.tensor(float(1 + 4 * rank))
    for synchronised in (False, True):
        with ranks.synchronised_statistics(synchronised):
            divisors = [rank_mean(number), rank_mean(number, least=4), rank_own(number), rank_own(number, least=8)]
            found[f"divisors {synchronised}"] = [*map(float, divisors), rank_share(1.0)]
    x = maps(rank).requires_grad_()
    with ranks.synchronised_statistics(True):
        adapted = match_statistics(x, like=maps(rank + 2))
        (torch.stack([*moments(x)]).sum() + overall_mean((adapted * weights(rank)).square())).backward()
        recalled = match_statistics(maps(rank), like=known(maps(rank + 2)))
        cell = match_statistics(torch.full((1, 2, 1, 1), float(rank)), like=torch.full((1, 2, 1, 1), 3.0 * rank))
    return found | {"adapted": adapted.detach(), "recalled": recalled, "x": x.grad, "cell": cell}


def maps(seed: int) -> Tensor:
    """[1 or 2, 3, 4, 5]: the ranks need not have as many values. Its means are large, one channel is constant."""
    x = torch.randn(1 + seed % 2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[:, 2] = 0
    return x + torch.tensor([1e4, 0.0, 7.0], dtype=torch.float64)[:, None, None]


def weights(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 + rank)
    return torch.randn(maps(rank).shape, dtype=torch.float64, generator=generator)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(of_rank, tmp_path_factory.mktemp("ranks"))


class InTurn:
    """One process that computes the shares one after the other, twice: what the first round adds up, the second uses.

    That is the definition which ranks have to meet: every number that they sum is known before any of them goes on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: list[list[Tensor]] = [[], []]
        self.rank, self.calls = 0, 0
        self.known = False
        monkeypatch.setattr(ranks, "world_size", lambda: 2)
        monkeypatch.setattr(ranks, "all_reduce_sum", self.total)

    def total(self, x: Tensor) -> Tensor:
        if not self.known:
            self.sums[self.rank].append(x)
            return x
        self.calls += 1
        return self.sums[0][self.calls - 1] + self.sums[1][self.calls - 1]

    def losses(self, model: Distiller) -> Values:
        """Of both shares, averaged; the gradients are left in the model."""
        results: list[Values] = []
        for self.known in (False, True):
            for self.rank in (0, 1):
                self.calls = 0
                losses = model(*share(self.rank))
                if self.known:
                    (small.total(losses) / 2).backward()
                    results.append(losses)
        return {name: (results[0][name] + results[1][name]).detach() / 2 for name in results[0]}


def assert_near(found: Values, expected: Values, tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).detach().norm() <= tolerance * value.detach().norm() + 1e-13, name


@pytest.mark.parametrize("name", DETECTORS)
def test_each_share_is_computed_by_itself_and_averaged(
    name: str, two: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = distiller(name).train()
    losses = InTurn(monkeypatch).losses(model)
    for found in two:
        values, grads, _ = found[f"{name} False"]
        assert_near(values, losses, 1e-12)
        assert_near(grads, gradients(model), 1e-9)


@pytest.mark.parametrize("name", DETECTORS)
def test_synchronised_statistics_make_it_the_total_batch(name: str, two: list[dict[str, Any]]) -> None:
    model = distiller(name).train()
    losses = model(*together(share(0), share(1)))
    small.total(losses).backward()
    losses = {key: value.detach() for key, value in losses.items()}
    statistics = buffers(model)
    assert statistics
    for found in two:
        values, grads, norms = found[f"{name} True"]
        assert_near(values, losses)
        assert_near(grads, gradients(model))
        assert_near(norms, statistics, 1e-12)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_two_ways_differ(name: str, two: list[dict[str, Any]]) -> None:
    """Else neither test above would say anything about the other."""
    apart, whole = (two[0][f"{name} {way}"][0] for way in (False, True))
    differ = [key for key in whole if abs(float(apart[key].sum() / whole[key].sum()) - 1) > 1e-3]
    assert {"loss_bbox", "crosskd_cls", "pkd"} <= set(differ)


def test_divisors(two: list[dict[str, Any]]) -> None:
    """Of 1 and 5: their mean; at least 4 on each, or 4 for both together; each its own, or the mean."""
    assert [found["divisors False"] for found in two] == [[3.0, 4.0, 1.0, 8.0, 1.0], [3.0, 4.0, 5.0, 8.0, 1.0]]
    assert [found["divisors True"] for found in two] == [[3.0, 3.0, 3.0, 4.0, 0.5]] * 2


def test_a_divisor_is_itself_without_ranks() -> None:
    value = torch.tensor(3.0)
    with ranks.synchronised_statistics(True):
        for divisor in (rank_mean, rank_own):
            assert (float(divisor(value)), float(divisor(value, least=4))) == (3.0, 4.0)
        assert rank_share(1.0) == 1.0


def test_statistics_are_those_of_all_maps(two: list[dict[str, Any]]) -> None:
    xs = [maps(rank).requires_grad_() for rank in (0, 1)]
    whole = torch.cat(xs)
    adapted = match_statistics(whole, like=torch.cat([maps(2), maps(3)]))
    found = torch.cat([rank["adapted"] for rank in two])
    torch.testing.assert_close(found, adapted.detach(), rtol=1e-10, atol=1e-10)
    recalled = torch.cat([rank["recalled"] for rank in two])  # the other's by what was kept of each image
    torch.testing.assert_close(recalled, adapted.detach(), rtol=1e-10, atol=1e-10)
    weighed = adapted * torch.cat([weights(0), weights(1)])
    (torch.stack([*moments(whole)]).sum() + weighed.square().mean()).backward()
    for rank, x in enumerate(xs):
        assert x.grad is not None
        # The moments were added on both ranks, each with half the say; so was the mean, as two shares of it.
        torch.testing.assert_close(two[rank]["x"] / 2, x.grad, rtol=1e-8, atol=1e-12)


def test_a_single_cell_on_each_rank_has_statistics(two: list[dict[str, Any]]) -> None:
    """Alone it is left as it is; here the two cells are 0 and 1, and are to be 0 and 3."""
    for rank, found in enumerate(two):
        torch.testing.assert_close(found["cell"], torch.full((1, 2, 1, 1), 3.0 * rank), rtol=0, atol=1e-4)


def test_the_ranks_agree(two: list[dict[str, Any]]) -> None:
    """To the last bit: weights that are moved by these must never drift apart."""
    for name in DETECTORS:
        for way in (False, True):
            first, second = (found[f"{name} {way}"][1] for found in two)
            assert all(torch.equal(first[key], second[key]) for key in first), (name, way)


def test_the_oracle_of_turns_needs_its_second_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first, each share is divided by its own number: that must not be what the ranks are compared with."""
    turns = InTurn(monkeypatch)
    turns.losses(distiller("gfl").train())
    # Quality for boxes; positives for classes, CrossKD, direct, BCKD.
    assert [len(sums) for sums in turns.sums] == [5, 5]
    assert not torch.equal(turns.sums[0][0], turns.sums[1][0])


def test_a_process_by_itself_is_rank_0_of_1() -> None:
    assert (ranks.rank(), ranks.world_size(), ranks.synchronised()) == (0, 1, False)
