"""Losses made a window of anchors at a time: the very numbers of the whole, in a fraction of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.detectors.dense import anchor_windows
from crosskd.detectors.dense.head import DenseHead, flatten
from crosskd.distill.mimic import mimic
from crosskd.losses import focal_negative, quality_focal
from crosskd.spec import registry
from crosskd.spec.config import DirectConfig
from crosskd.structures import Losses, Predictions, Size, Targets
from tests.support import small
from tests.support.memory import peak_bytes

DETECTORS = sorted(registry.DENSE)
SIZES: list[Size] = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]  # of 96 x 160 pixels
LARGER: list[Size] = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
CLASSES = 37


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Threads cut what they share at places of their own; the last bits of elements there depend on that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def predictions(
    head: DenseHead, seed: int, *, learnt: bool, dtype: torch.dtype = torch.float32, sizes: Sequence[Size] = SIZES
) -> Predictions:
    generator = torch.Generator().manual_seed(seed)

    def maps(channels: int) -> list[Tensor]:
        made = [torch.randn(2, channels, *size, generator=generator).to(dtype) * 2 - 1 for size in sizes]
        return [x.requires_grad_(learnt) for x in made]

    centres = maps(head.per_cell) if head.centerness is not None else None
    objects = maps(head.per_cell) if head.objectness is not None else None
    return Predictions(maps(head.per_cell * head.num_classes), maps(head.per_cell * head.code_size), centres, objects)


TARGETS = Targets(
    [torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 150.0, 90.0]]), torch.tensor([[16.0, 16.0, 80.0, 60.0]])],
    [torch.tensor([0, 36]), torch.tensor([5])],
    [(96, 160)] * 2,
    [(96, 160), (96, 128)],
)


def losses(name: str, dtype: torch.dtype = torch.float32) -> tuple[Losses, tuple[Tensor, ...]]:
    """A head's own and its mimicry's, and their gradients to the class maps."""
    model = small.detector(0, classes=CLASSES, detector=name, depth=1)
    ours, theirs = (predictions(model.head, seed, learnt=seed == 1, dtype=dtype) for seed in (1, 2))
    assignment = model.head.assign(ours, TARGETS)
    knobs = DirectConfig().resolved(model.config, model.config)
    found = model.head.loss(ours, assignment) | mimic("direct", model.head, ours, theirs, assignment, knobs)
    return found, torch.autograd.grad(small.total(found), ours.cls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", DETECTORS)
def test_no_loss_or_gradient_depends_on_the_windows(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, gradients = losses(name, dtype)
    assert all(gradient.any() for gradient in gradients)
    monkeypatch.setattr(anchor_windows, "ENTRIES", 5000)
    for kept in (anchor_windows.KEPT, 0):  # slopes made with the values, or again for the gradient
        monkeypatch.setattr(anchor_windows, "KEPT", kept)
        cut, others = losses(name, dtype)
        assert {key: value.tolist() for key, value in cut.items()} == {k: value.tolist() for k, value in whole.items()}
        assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize(("entries", "count"), [(1, 11), (100_000, 3), (10**9, 1)])
def test_what_is_made_of_windows_is_what_is_made_of_all(
    entries: int, count: int, kept: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against `flatten` bit by bit, and plain autograd but for the order of its products; nine anchors a cell."""
    monkeypatch.setattr(anchor_windows, "ENTRIES", entries)
    monkeypatch.setattr(anchor_windows, "KEPT", kept)
    head = small.detector(0, classes=CLASSES, detector="retinanet", depth=1).head
    maps = [x.detach().contiguous(memory_format=layout) for x in predictions(head, 3, learnt=False).cls]
    teacher = predictions(head, 4, learnt=False).cls
    aim = flatten(teacher, CLASSES).sigmoid()
    assert len(anchor_windows.windows(maps, CLASSES)) == count

    def each(logits: Tensor, window: slice) -> tuple[Tensor]:
        assert torch.equal(anchor_windows.cut_out(teacher, CLASSES, window).sigmoid(), aim[:, window])
        return (quality_focal(logits, aim[:, window], 1.5).sum(-1) + focal_negative(logits, 2.0, 0.25).sum(-1),)

    ours = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in maps]
    (found,) = anchor_windows.by_anchor(ours, CLASSES, each)
    with torch.no_grad():
        assert torch.equal(anchor_windows.by_anchor(ours, CLASSES, each)[0], found)
    plain = [x.clone().requires_grad_() for x in maps]
    logits = flatten(plain, CLASSES)
    wanted = quality_focal(logits, aim, 1.5).sum(-1) + focal_negative(logits, 2.0, 0.25).sum(-1)
    assert torch.equal(found, wanted)
    weight = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad((made * weight).sum(), leaves) for made, leaves in ((found, ours), (wanted, plain))
    ]
    for mine, plainly in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, plainly, rtol=1e-3, atol=1e-7, check_stride=False)


def test_single_rows_are_those_of_all() -> None:
    head = small.detector(0, classes=CLASSES, detector="retinanet", depth=1).head
    maps = predictions(head, 3, learnt=False).cls
    logits = flatten(maps, CLASSES)
    image, anchor = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 2159, 2160, 2873, logits.shape[1] - 1])
    assert torch.equal(anchor_windows.gather(maps, CLASSES, image, anchor), logits[image, anchor])
    none = torch.zeros(0, dtype=torch.long)
    assert anchor_windows.gather(maps, CLASSES, none, none).shape == (0, CLASSES)


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("name", DETECTORS)
def test_many_classes_take_little_more_than_their_gradient(
    name: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tensors would take 7 to 10 times the logits; the gradient alone is one."""
    monkeypatch.setattr(anchor_windows, "ENTRIES", 1)  # the least: the maps are small too
    monkeypatch.setattr(anchor_windows, "KEPT", kept)
    model = small.detector(0, classes=500 if name == "retinanet" else 1203, detector=name, depth=1)
    ours, theirs = (predictions(model.head, seed, learnt=seed == 1, sizes=LARGER) for seed in (1, 2))
    assignment = model.head.assign(ours, TARGETS)
    knobs = DirectConfig().resolved(model.config, model.config)
    logits = sum(x.numel() * x.element_size() for x in ours.cls)

    def backward(found: Losses) -> None:
        torch.autograd.grad(small.total(found), ours.cls)

    assert peak_bytes(lambda: model.head.assign(ours, TARGETS)) < logits
    assert peak_bytes(lambda: backward(model.head.loss(ours, assignment))) < 2 * logits
    mimicry = (model.head, ours, theirs, assignment, knobs)
    assert peak_bytes(lambda: backward(mimic("direct", *mimicry))) < 2 * logits
