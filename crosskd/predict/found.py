"""What was found in one image, whoever has found it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """What was found in one image, best score first."""

    boxes: NDArray[np.float64]  # [n, 4] x1 y1 x2 y2 in pixels of the upright original image
    scores: NDArray[np.float64]  # [n] 0..1
    labels: NDArray[np.int64]  # [n] positions in the model's categories
    left_out: int = 0  # detections that `best` has left out
    model_milliseconds: float = 0.0  # of the network alone

    def best(self, score: float, most: int) -> Found:
        """Those with at least `score`, and of them the first `most`."""
        count = min(int((self.scores >= score).sum()), most)
        parts = (self.boxes[:count], self.scores[:count], self.labels[:count])
        return Found(*parts, len(self.scores) - count, self.model_milliseconds)
