"""One port per model type of `transformers`: a closed list. Read `port.py` first."""

from __future__ import annotations

from typing import Any

from crosskd.detectors.detr.ports.port import Port
from crosskd.spec import registry

_HERE = "crosskd.detectors.detr.ports."
# By `model_type` of a model's configuration. Types whose decoders are the same share a port.
PORTS: dict[str, str] = {
    "deformable_detr": _HERE + "deformable_detr:DeformableDetrPort",
    "rt_detr": _HERE + "rt_detr:RTDetrPort",
    "rt_detr_v2": _HERE + "rt_detr:RTDetrPort",
    "d_fine": _HERE + "d_fine:DFinePort",
    "rf_detr": _HERE + "lw_detr:LwDetrPort",
    "lw_detr": _HERE + "lw_detr:LwDetrPort",
}


def port_of(model: Any) -> Port:
    """The port of a `...ForObjectDetection` of transformers. Raises `ConfigError` for a type that has none."""
    target = registry.lookup(PORTS, model.config.model_type, "DETR")
    port: Port = registry.load(target)(model)
    return port
