"""What the terms that compare pyramid maps have in common."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from crosskd import ranks
from crosskd.detectors.detector import Detector
from crosskd.distill.term import Step
from crosskd.losses import at_least_float32, rank_mean


def adapters(student: Detector, teacher: Detector, *, always: bool = False, kernel: int = 1) -> nn.ModuleList:
    """One way per level from the student's channels to the teacher's, a 1 x 1 convolution; none where they agree.

    `always` makes it a convolution there too. `kernel` is the side of another one, odd.
    """
    ours, theirs = student.config.neck.channels, teacher.config.neck.channels
    needed = always or ours != theirs
    return nn.ModuleList(
        nn.Conv2d(ours, theirs, kernel_size=kernel, padding=kernel // 2) if needed else nn.Identity()
        for _ in student.config.strides
    )


def pairs(step: Step, ways: nn.ModuleList) -> Iterator[tuple[Tensor, Tensor]]:
    """Both models' maps of each level [N, C, H_l, W_l] in full precision, the student's through `ways`.

    To be used with autocast off. Fewer ways than levels leave the last levels out.
    """
    for way, ours, theirs in zip(ways, step.student.features, step.teacher.features, strict=False):
        yield way(at_least_float32(ours)), at_least_float32(theirs)


def image_mean(total: Tensor, images: int) -> Tensor:
    """What has been summed over a batch, per image: with synchronised statistics, per image of the total batch."""
    if not ranks.synchronised():
        return total / images
    return total / rank_mean(total.new_full((), images))
