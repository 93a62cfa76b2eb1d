"""Ground truth as it stands in a COCO file, for an evaluation that is to be plain pycocotools'."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray


class BoxesAsTheyStand:
    """Every box of the classes in question, neither clipped nor left out; in the file's order, M of them.

    Two flat arrays, for the reason that `annotations` gives.
    """

    def __init__(self) -> None:
        self._whole = array("q")  # id, image id, label, crowd
        self._flat = array("d")  # x y width height area

    def add(
        self, key: int, image_id: int, label: int, crowd: bool, box: tuple[float, float, float, float], area: float
    ) -> None:
        """`box` is x, y, width, height."""
        self._whole.extend((key, image_id, label, crowd))
        self._flat.extend((*box, area))

    def __len__(self) -> int:
        return len(self._whole) // 4

    @property
    def whole(self) -> NDArray[np.int64]:
        """[M, 4] the box's own id, the id of its image, label, crowd (0 or 1)."""
        return np.array(self._whole, dtype=np.int64).reshape(-1, 4)

    @property
    def flat(self) -> NDArray[np.float64]:
        """[M, 5] x, y, width, height, area; the area as the file says it, else of the box."""
        return np.array(self._flat, dtype=np.float64).reshape(-1, 5)
