"""The names and shapes of tensors that MMDetection's checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path

from crosskd.spec.config import ModelConfig
from crosskd.spec.shapes import expected_shapes

KEYS: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parents[1] / "data/oracle/state_dict_keys.json").read_text()
)
# Of RTMDet tiny and s, every name.
RTMDET: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parents[1] / "data/oracle/more/rtmdet.json").read_text()
)["state_dict"]


def shapes(config: ModelConfig) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in expected_shapes(config, 80).items()}
