"""A batch on its way from a loader process to the training: pixels as bytes, a quarter of what they are normalised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from crosskd.structures import Batch


@dataclass(frozen=True)
class PackedBatch:
    """A batch of bytes (`transforms.stacked`) whose boxes and labels lie in one tensor each, whatever the images.

    Every tensor that a process sends is a piece of shared memory with a file descriptor of its own, and the
    training pays for each: two for every image cost it several times what the few boxes in them are worth.
    """

    batch: Batch  # its targets list a single tensor each
    counts: list[int]  # boxes per image

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        targets = batch.targets
        joined = replace(targets, boxes=[torch.cat(targets.boxes)], labels=[torch.cat(targets.labels)])
        return cls(replace(batch, targets=joined), [len(boxes) for boxes in targets.boxes])

    def open(self) -> Batch:
        """The batch as it was; boxes and labels are views."""
        targets = self.batch.targets
        boxes, labels = (list(torch.split(joined, self.counts)) for [joined] in (targets.boxes, targets.labels))
        return replace(self.batch, targets=replace(targets, boxes=boxes, labels=labels))

    def share_memory(self) -> None:
        """Move the tensors to shared memory, where they stay. Raises `RuntimeError` where there is no room."""
        for tensor in (self.batch.images, *self.batch.targets.boxes, *self.batch.targets.labels):
            tensor.share_memory_()  # type: ignore[no-untyped-call]

    def pin_memory(self) -> PackedBatch:
        """For the loader's pinning thread: the images. A table of the targets is made and pinned when it is moved."""
        return PackedBatch(replace(self.batch, images=self.batch.images.pin_memory()), self.counts)
