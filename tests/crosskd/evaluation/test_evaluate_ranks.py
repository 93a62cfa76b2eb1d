"""An evaluation that two processes share is the evaluation of one, to the last digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crosskd.data.loader import Loader
from crosskd.detectors.detector import build_detector
from crosskd.engine import distributed
from crosskd.errors import Interrupted
from crosskd.evaluation.evaluate import evaluate
from crosskd.spec.config import TrainConfig
from crosskd.structures import Detections, Evaluation
from tests.support.coco_files import config, loader_of, many, write
from tests.support.ranks import on_ranks

SIZES = [(64, 48), (48, 64), (96, 64), (33, 57), (64, 48), (64, 48), (48, 64), (64, 48), (70, 40)]


class Rough(nn.Module):
    """Answers with the ground truth of its batches, moved by what the box itself says; many scores are equal."""

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.num_classes = 2
        self.max_detections = 100
        self.truth = [each for batch in loader for each in zip(batch.targets.boxes, batch.targets.labels, strict=True)]

    def detect(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        answers = [self.truth.pop(0) for _ in sizes]
        return [Detections(boxes + boxes.sin(), (boxes[:, 0] % 3).round() / 3, labels) for boxes, labels in answers]


@dataclass(frozen=True)
class Results:
    """What a rank saw."""

    rough: Evaluation
    detector: Evaluation
    interrupted: str
    images: int  # of the rank's own share


def files(evaluation: Evaluation) -> tuple[bytes | None, ...]:
    """Matches, samples and detections: bytes, which the main rank alone has."""
    detections = None if evaluation.detections is None else evaluation.detections()
    return evaluation.matches, evaluation.samples, detections


def shared_loader(settings: TrainConfig) -> Loader:
    return loader_of(settings, "val", rank=distributed.rank(), world_size=distributed.world_size())


def evaluated(settings: TrainConfig, detector: nn.Module) -> Evaluation:
    loader = shared_loader(settings)
    return evaluate(detector, loader, annotations=loader.dataset.annotations, step=3)


def detector_of(settings: TrainConfig) -> nn.Module:
    torch.manual_seed(0)
    return build_detector(settings.student, 2, pretrained=False)


def work(rank: int, values: dict[str, Any]) -> Results:
    settings = TrainConfig.model_validate(values)
    rough = evaluated(settings, Rough(shared_loader(settings)))
    detector = evaluated(settings, detector_of(settings))
    loader = shared_loader(settings)
    asked: list[int] = []

    def stopping() -> bool:
        """Only rank 1 has been told, and only in the middle of its share."""
        asked.append(1)
        return rank == 1 and len(asked) > 1

    try:
        evaluate(Rough(loader), loader, annotations=loader.dataset.annotations, step=3, stopping=stopping)
        interrupted = ""
    except Interrupted as error:
        interrupted = f"{len(asked)}: {error.message}"
    return Results(rough, detector, interrupted, sum(len(batch.image_ids) for batch in loader))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("data")
    write(folder, many(SIZES, boxes=4))
    (folder / "images" / "3.png").write_bytes(b"broken")  # one share is a batch shorter than its plan
    return config(folder, batch_size=2, data={"max_corrupt_images": 1})


@pytest.fixture(scope="module")
def ranks(settings: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), settings.model_dump(mode="json"))


def test_two_processes_find_what_one_does_to_the_last_digit(settings: TrainConfig, ranks: list[Results]) -> None:
    torch.set_num_threads(1)
    rough = evaluated(settings, Rough(shared_loader(settings)))
    detector = evaluated(settings, detector_of(settings))
    assert 0.05 < rough.metrics["AP"] < 0.95
    for result in ranks:
        for ours, alone in ((result.rough, rough), (result.detector, detector)):
            assert ours.metrics == alone.metrics
            assert ours.per_class == alone.per_class
            assert ours.class_metrics == alone.class_metrics
            assert ours.curves is not None
            assert alone.curves is not None
            assert files(ours) == (files(alone) if result is ranks[0] else (None, None, None))
            assert np.array_equal(ours.curves.precision, alone.curves.precision)
            assert (ours.images, ours.step) == (alone.images, 3) == (len(SIZES) - 1, 3)


def test_every_image_is_evaluated_by_one_rank(ranks: list[Results]) -> None:
    shares = [result.images for result in ranks]
    assert sum(shares) == len(SIZES) - 1
    assert min(shares) >= 3


def test_a_stop_that_reaches_one_rank_ends_the_evaluation_of_all(ranks: list[Results]) -> None:
    assert [result.interrupted for result in ranks] == ["2: stopped on request in an evaluation after step 3"] * 2


def test_an_image_evaluated_twice_is_told(settings: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the ranks' loaders were not told that they are ranks."""
    monkeypatch.setattr(distributed, "gather", lambda share: [share, share])
    with pytest.raises(ValueError, match="evaluated by two ranks"):
        evaluated(settings, detector_of(settings))


def test_what_ranks_tell_each_other_is_their_own_where_there_is_one(tmp_path: Path) -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.any_of(True, False) == [True, False]
    assert distributed.gather(tmp_path) == [tmp_path]
    assert distributed.broadcast(tmp_path) is tmp_path
    distributed.barrier()
