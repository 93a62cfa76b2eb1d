"""Deformable DETR (arXiv 2010.04159): one or two stages, with or without box refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import inverse_sigmoid

from crosskd.detectors.detr.ports.port import Decoded, DecoderState, LayerPredictions, Memory, Port


class DeformableDetrPort(Port):
    """The positions are the same in every layer. References are points at first, and boxes where they are refined."""

    @property
    def queries(self) -> int:
        return int(self.config.two_stage_num_proposals if self.config.two_stage else self.config.num_queries)

    def heads(self, hidden: Tensor, state: DecoderState) -> LayerPredictions:
        delta = self.model.bbox_embed[state.layer](hidden)
        reference = inverse_sigmoid(state.references)
        if reference.shape[-1] == 2:
            delta[..., :2] += reference
        else:
            delta = delta + reference
        return LayerPredictions(self.model.class_embed[state.layer](hidden), delta.sigmoid())

    def following(self, decoded: Decoded, memory: Memory) -> DecoderState:  # noqa: ARG002
        state, refined = decoded.state, self.config.with_box_refine
        references = decoded.predictions.boxes.detach() if refined else state.references
        return DecoderState(state.layer + 1, decoded.hidden, state.positions, references)

    def _start(self, inputs: Mapping[str, Any], memory: Memory) -> DecoderState:  # noqa: ARG002
        positions = inputs["object_queries_position_embeddings"]
        return DecoderState(0, inputs["inputs_embeds"], positions, inputs["reference_points"])

    def _layer_inputs(self, state: DecoderState, memory: Memory) -> dict[str, Any]:
        return {
            "object_queries_position_embeddings": state.positions,
            "reference_points": memory.scaled(state.references),
            "encoder_hidden_states": memory.cells,
            "encoder_attention_mask": memory.valid,
        }
