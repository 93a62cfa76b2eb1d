"""The names and shapes of tensors that MMDetection's checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path

from crosskd.spec.config import ModelConfig
from crosskd.spec.weights.shapes import expected_shapes

KEYS: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parents[1] / "data/oracle/state_dict_keys.json").read_text()
)
# Of RTMDet tiny and s, and of YOLOX nano, tiny and s, every name.
RTMDET, YOLOX = (
    json.loads((Path(__file__).parents[1] / f"data/oracle/more/{name}.json").read_text())["state_dict"]
    for name in ("rtmdet", "yolox")
)


def shapes(config: ModelConfig) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in expected_shapes(config, 80).items()}
