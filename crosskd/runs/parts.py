"""What one training is made of: loaders, student, teacher, optimizer; built before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crosskd.data.coco import require_same_classes
from crosskd.data.loader import Loader, build_loader
from crosskd.data.unlabelled import UnlabelledImages
from crosskd.detectors.detector import Detector, build_detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.engine import distributed
from crosskd.engine.compiled import compile_within, require_compiler
from crosskd.engine.device import MixedPrecision, choose_device, memory_errors, set_threads
from crosskd.engine.ema import EMA
from crosskd.engine.memory_format import to_channels_last
from crosskd.engine.optim import Schedule, build_optimizer
from crosskd.engine.parallel import data_parallel
from crosskd.engine.random_state import seed_all
from crosskd.engine.recompute import recompute_within
from crosskd.engine.training import Training
from crosskd.runs import loader_input
from crosskd.runs.inherit import inherit
from crosskd.runs.layout import Layout, choose
from crosskd.runs.shared_files import NOTHING_SHARED, CacheDisk, SharedFiles
from crosskd.runs.start import begin
from crosskd.runs.teacher import load_teacher
from crosskd.runs.teacher_cache import open_cache
from crosskd.runs.trained_weights import weights_file
from crosskd.spec.config import TrainConfig, UnlabelledConfig
from crosskd.weights.files import file_digest


@dataclass(frozen=True)
class Parts:
    """Everything that is built before the first step."""

    device: torch.device
    student: Detector
    teacher: Detector | None
    train_loader: Loader
    val_loader: Loader
    ema: EMA[Detector] | None
    training: Training
    digests: dict[str, str]  # sha256 of the annotation files
    teacher_digest: str | None  # sha256 of the teacher's weights
    inherited: list[str] | None  # names of the tensors that the student began with; None: of none
    layout: Layout
    begun: dict[str, Any] | None  # what the manifest says of the detector that the student began with


def build_parts(
    config: TrainConfig,
    *,
    pretrained: bool = True,
    teacher_weights: Path | None = None,
    init_weights: Path | None = None,
    roots: Sequence[Path] = (),
    stopping: Callable[[], bool] = lambda: False,
    saved_layout: bool | None = None,
    shared: SharedFiles = NOTHING_SHARED,
) -> Parts:
    """The parts of one training, seeded: the same student whether or not there is a teacher.

    The loaders ask `stopping` while they wait for a batch. `saved_layout` is
    `layout.choose`'s.
    """
    set_threads(config.threads)
    device = choose_device(config.device)
    amp = MixedPrecision.on(device, config.precision)
    if config.compile:
        require_compiler(device)
    train_loader, val_loader = _loaders(config, device, roots, stopping)
    if config.data.unlabelled is not None:
        train_loader.mix_in(_unlabelled(config, config.data.unlabelled, train_loader, val_loader, roots))
    classes = train_loader.classes

    seed_all(config.seed)
    student = build_detector(config.student.model, len(classes), pretrained=pretrained)
    init = config.student.init
    begun = (
        None if init is None else begin(student, init, classes, init_weights, copy=pretrained, augment=config.augment)
    )
    taught = _with_teacher(config, student, train_loader, teacher_weights, copy=pretrained, disk=shared.teacher_cache)
    trainee, teacher = taught.trainee, taught.teacher
    schedule = Schedule(config.schedule, -(-len(train_loader) // config.accumulate))
    with memory_errors(device):
        layout = choose(
            config,
            trainee,
            amp,
            steps=schedule.total_steps,
            classes=len(classes),
            saved=saved_layout,
            file=shared.layouts,
        )
        if layout.channels_last:
            to_channels_last(trainee, device)
        else:
            trainee.to(device)
        parallel = data_parallel(trainee, idle=trainee.sometimes_idle())
        ema = EMA(student, config.ema) if config.ema else None
    if config.activation_checkpointing:
        recompute_within(trainee.recomputed())
    if config.compile:
        _compile(trainee, [student] if teacher is None else [student, teacher])
    seed_all(config.seed + distributed.rank())  # anew: building a teacher drew random numbers

    training = Training(
        trainee=trainee,
        student=student,
        optimizer=build_optimizer(trainee, config.optimizer, total_batch=total_batch(config)),
        schedule=schedule,
        batches=train_loader,
        amp=amp,
        ema=ema,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        parallel=parallel,
        begin_epoch=partial(student.begin_epoch, epochs=config.schedule.epochs),
        figures=trainee.figures if isinstance(trainee, Distiller) else None,
    )
    return Parts(
        device, student, teacher, train_loader, val_loader, ema, training, _digests(config),
        taught.digest, taught.inherited, layout, begun,
    )  # fmt: skip


@dataclass(frozen=True)
class _Taught:
    """What is trained: the student alone, or in a distiller with its teacher."""

    trainee: Detector | Distiller
    teacher: Detector | None = None
    digest: str | None = None  # sha256 of the teacher's weights
    inherited: list[str] | None = None  # as `Parts` has them


def _with_teacher(
    config: TrainConfig,
    student: Detector,
    loader: Loader,
    weights: Path | None,
    *,
    copy: bool,
    disk: CacheDisk | None,
) -> _Taught:
    """`weights`: the file behind the teacher's `JobRef`; `copy`: whether the student takes over what it inherits."""
    if config.teacher is None or config.distill is None:
        return _Taught(student)
    teacher = load_teacher(config, loader.classes, weights)
    digest = file_digest(weights_file(config.teacher.weights, weights, section="/teacher"))
    inherited = inherit(student, teacher, copy=copy) if config.init_student else None
    others = config.data.unlabelled
    sure = {} if others is None else {"confidence": others.confidence}
    distiller = build_distiller(student, teacher, config.distill, **sure)
    distiller.cache = open_cache(config, distiller, loader, disk)
    return _Taught(distiller, teacher, digest, inherited)


def _digests(config: TrainConfig) -> dict[str, str]:
    splits = {"train": config.data.train, "val": config.data.val}
    return {name: file_digest(Path(split.annotations)) for name, split in splits.items()}


def _loaders(
    config: TrainConfig, device: torch.device, roots: Sequence[Path], stopping: Callable[[], bool]
) -> tuple[Loader, Loader]:
    """Of training and validation. Raises DataError also where the two are of other classes."""
    build = partial(
        build_loader,
        device=device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        stopping=stopping,
    )
    training = loader_input.of_training(config, "train", roots=roots)
    train_loader = build(training)
    if config.data.classes is None:
        require_same_classes(train_loader.classes, config.data.val.annotations)
    validation = loader_input.of_training(config, "val", train_loader.classes, roots=roots)
    return train_loader, build(validation)


def _unlabelled(
    config: TrainConfig, section: UnlabelledConfig, training: Loader, validation: Loader, roots: Sequence[Path]
) -> UnlabelledImages:
    return UnlabelledImages(
        section,
        training=training.dataset,
        validation=validation.dataset,
        max_image_pixels=config.data.max_image_pixels,
        sixteen_bit=config.augment.sixteen_bit or "high_byte",
        roots=roots,
    )


def _compile(trainee: nn.Module, detectors: Sequence[Detector]) -> None:
    """The convolutions of each detector."""
    calls = [call for model in detectors for call in model.convolutions()]
    compile_within(trainee, calls)


def total_batch(config: TrainConfig) -> int:
    """Images of one optimizer step, over all processes."""
    return config.batch_size * config.accumulate * config.gpus
