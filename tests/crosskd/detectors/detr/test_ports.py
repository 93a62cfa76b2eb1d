"""A model of each type, replayed layer by layer by its port, against what the model itself makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosskd.detectors.detr.ports.by_type import PORTS, port_of
from crosskd.errors import ConfigError
from tests.support import detr_library

# Deformable DETR as it was at first: references are points, which nothing refines; and points that become boxes.
PLAIN = {"two_stage": False, "with_box_refine": False}
KINDS: dict[str, dict[str, Any]] = {
    **{name: {} for name in PORTS},
    "deformable_detr, plain": PLAIN,
    "deformable_detr, refined": PLAIN | {"with_box_refine": True},
}


def build(kind: str, **changes: Any) -> Any:
    return detr_library.build(kind.partition(",")[0], **KINDS[kind], **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_replayed_from_its_own_states_on_its_own_memory_gives_what_it_gives_bit_for_bit(kind: str) -> None:
    model = build(kind)
    port, (images, mask) = port_of(model), detr_library.batch()
    with torch.no_grad(), port.record() as recording:
        outputs = model(images, pixel_mask=mask)
        for seen in port.trajectory(recording):
            assert torch.equal(port.layer(seen.state, recording.memory), seen.hidden)
        chain = port.decode(recording.start, recording.memory)
        other = port.layer(recording.start, detr_library.changed(recording.memory))
    assert len(recording.hidden) == len(chain) == model.config.decoder_layers
    assert all(torch.equal(step.hidden, hidden) for step, hidden in zip(chain, recording.hidden, strict=True))
    assert torch.equal(chain[-1].predictions.logits, outputs.logits)
    assert torch.equal(chain[-1].predictions.boxes, outputs.pred_boxes)
    assert not torch.equal(other, recording.hidden[0])  # the memory counts


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_each_layer_says_of_the_predicting_queries_what_the_loss_is_told(kind: str) -> None:
    model = build(kind, auxiliary_loss=True).train()
    port, (images, mask) = port_of(model), detr_library.batch()
    with port.record() as recording:
        outputs = model(images, pixel_mask=mask, labels=detr_library.labels())
        way = port.trajectory(recording)
    told = detr_library.of_each_layer(outputs, len(way))
    for step, (logits, boxes) in zip(way, told, strict=True):
        torch.testing.assert_close(step.predictions.logits, port.predicting(logits), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(step.predictions.boxes, port.predicting(boxes), rtol=1e-5, atol=1e-6)
    assert (recording.start.queries.shape[1] > port.queries) == (port.config.model_type != "deformable_detr")
    assert way[-1].predictions.logits.requires_grad
    assert recording.memory.cells.requires_grad


def test_what_has_no_port_is_refused_with_those_that_have() -> None:
    class Foreign:
        config = type("Config", (), {"model_type": "yolos"})

    with pytest.raises(ConfigError, match="unknown DETR 'yolos'") as refused:
        port_of(Foreign())
    assert "deformable_detr" in (refused.value.remedy or "")
