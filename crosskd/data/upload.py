"""A loader's batches on their way to the device that trains on them."""

from __future__ import annotations

import torch

from crosskd.data.normalise import Normalise
from crosskd.data.packed_batch import PackedBatch
from crosskd.spec.config import PixelConfig
from crosskd.structures import Batch


class Upload:
    """From packed bytes to a batch on the device, normalised there.

    To a GPU they are copied from pinned memory in a stream of their own, while the GPU still computes what it was told
    before. The training's stream waits for them, and the host does not.
    """

    def __init__(self, pixels: PixelConfig, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.normalise = Normalise(pixels, self.device)
        self._copies: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def __call__(self, packed: PackedBatch) -> Batch:
        return self.normalise.batch(self._moved(packed))

    def _moved(self, packed: PackedBatch) -> Batch:
        if self._copies is None:
            return packed.open().to(self.device)
        with torch.cuda.stream(self._copies):
            batch = packed.open().to(self.device)
        training = torch.cuda.current_stream(self.device)
        training.wait_stream(self._copies)
        table = batch.targets.table
        for tensor in (batch.images, table.boxes, table.numbers, table.place):
            tensor.record_stream(training)  # so that its memory is not given away before the training has read it
        return batch
