"""Weights of any known origin into a detector."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosskd.convert.formats import require_readable, to_native
from crosskd.convert.recognise import class_count, differences
from crosskd.convert.source import read_source
from crosskd.detectors.detector import Detector
from crosskd.errors import WeightsError
from crosskd.spec.unused_classes import left_out_text
from crosskd.weights.folder import require_count
from crosskd.weights.pytorch import LISTED
from crosskd.weights.tensors import check_finite, check_shapes

log = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"  # only batch norm without momentum reads these; some files leave them out


@dataclass(frozen=True)
class LoadReport:
    """Parameter names, ours, by what became of them; `unexpected` ones are called as the file calls them."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    image_settings: dict[str, Any]  # as `Description.image_settings`: how its images were read and resized


def load_weights(detector: Detector, path: Path | str, *, strict: bool = True) -> LoadReport:
    """Load our safetensors or a training checkpoint's student, or an MMDetection checkpoint, or torchvision's
    RetinaNet, FCOS or Faster R-CNN (.pth or safetensors), or a bare state dict of any of them.

    Nothing in the file is run. What a training wrote beside its tensors (options, numbers of numpy, MMEngine's message
    hub) is passed over; the wrappings that `tensors_in` knows are taken off.

    With `strict`, every tensor of the detector must be there and no other; without it, what is not there keeps its
    value. A tensor of another shape, of whole numbers or with NaN is always an error. Raises `WeightsError`.
    """
    source = read_source(path)
    for note in source.notes:
        log.info("%s: %s", source.name, note)
    if source.model is None:
        for difference in differences(source, detector.config):
            log.warning("%s: if the detections are wrong, it is this", difference)
    require_readable(source.format, detector.config, source.name)
    found = to_native(source.tensors, source.format, detector.config)
    require_count(source.count, class_count(found.state, detector.config), source.name)
    wanted = detector.state_dict()
    unexpected = found.unexpected + [theirs for theirs, ours in found.names.items() if ours not in wanted]
    check_shapes(found.state, wanted, source.name)
    matched = [key for key in wanted if key in found.state]
    missing = [key for key in wanted if key not in found.state and not key.endswith(COUNTER)]
    if strict and (missing or unexpected):
        raise WeightsError(
            f"{source.name} does not fit the model: {listed('missing', missing)}; {listed('unknown', unexpected)}",
            remedy="Name the model that the file was trained as.",
        )
    check_finite({key: found.state[key] for key in matched}, source.name)
    detector.load_state_dict({key: found.state[key] for key in matched}, strict=False)
    return LoadReport(matched, missing, unexpected, source.image_settings())


def narrow(detector: Detector, named: Sequence[str], classes: Sequence[str], file: str) -> None:
    """Leave out of `detector` what it is `named` beside the `classes`, and say so."""
    if list(named) != list(classes):
        detector.select_classes([named.index(name) for name in classes])
        log.info("%s: %s", file, left_out_text(named, classes))


def listed(what: str, names: list[str]) -> str:
    """How many there are, and the first of them, for a message."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:LISTED])}{more})" if names else "")
