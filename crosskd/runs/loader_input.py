"""What a loader reads, out of the configuration of a training and out of that of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosskd.data.source import LoaderInput, Split
from crosskd.runs.trained_weights import TrainedDetector
from crosskd.spec.config import EvaluateConfig, LoaderConfig, TrainConfig


def of_training(
    config: TrainConfig, split: Split, classes: Sequence[str] | None = None, *, roots: Sequence[Path] = ()
) -> LoaderInput:
    """A split of a training; `classes` is the label order, by default as the configuration has it.

    `roots` are the folders, as real paths, that images may be links to.
    """
    train = split == "train"
    return LoaderInput(
        split=split,
        files=config.data.train if train else config.data.val,
        augment=config.augment,
        pixels=config.student.pixels,
        loader=config.loader,
        batch_size=config.batch_size if train else config.evaluation_batch,
        max_corrupt_images=config.data.max_corrupt_images,
        max_image_pixels=config.data.max_image_pixels,
        classes=config.data.classes if classes is None else classes,
        seed=config.seed,
        epochs=config.schedule.epochs,
        roots=roots,
        as_is=config.evaluation.as_is and not train,
        shown=train and config.distill is not None and config.distill.cache is not None,
    )


def of_evaluation(config: EvaluateConfig, finished: TrainedDetector, *, roots: Sequence[Path] = ()) -> LoaderInput:
    """The split that `finished` is evaluated on, as that detector sees images; `roots` as for a training."""
    return LoaderInput(
        split="val",
        files=config.data.val,
        augment=finished.augment,
        pixels=finished.detector.config.pixels,
        loader=LoaderConfig(workers=config.workers),
        batch_size=config.batch_size,
        max_corrupt_images=config.data.max_corrupt_images,
        max_image_pixels=config.data.max_image_pixels,
        classes=finished.classes,
        roots=roots,
        as_is=config.as_is,
    )
