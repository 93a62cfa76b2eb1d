"""LW-DETR (arXiv 2406.03459) and RF-DETR, whose decoder is the same: groups of queries, and one head for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.models.lw_detr.modeling_lw_detr import refine_bboxes

from crosskd.detectors.detr.ports.port import Decoded, DecoderState, LayerPredictions, Memory, Port


class LwDetrPort(Port):
    """References and positions are the same in every layer. In training there are several groups of queries, which do
    not attend to each other; the first of them predicts. What a layer is asked from outside is one group."""

    def layer(self, state: DecoderState, memory: Memory) -> Tensor:
        attention: Any = self.layers[state.layer].self_attn
        training, attention.training = attention.training, False  # by this it knows groups, and nothing else by it
        try:
            return super().layer(state, memory)
        finally:
            attention.training = training

    def heads(self, hidden: Tensor, state: DecoderState) -> LayerPredictions:
        hidden = self.model.model.decoder.layernorm(hidden)
        boxes = refine_bboxes(state.references, self.model.bbox_embed(hidden))
        return LayerPredictions(self.model.class_embed(hidden), boxes)

    def following(self, decoded: Decoded, memory: Memory) -> DecoderState:  # noqa: ARG002
        state = decoded.state
        return DecoderState(state.layer + 1, decoded.hidden, state.positions, state.references)

    def adopted(self, state: DecoderState, memory: Memory) -> DecoderState:
        return replace(state, positions=self._positions(state.references, memory))

    def _positions(self, references: Tensor, memory: Memory) -> Tensor:
        positions: Tensor = self.model.model.decoder.get_reference(references, memory.ratios)[1]
        return positions

    def _start(self, inputs: Mapping[str, Any], memory: Memory) -> DecoderState:
        references = inputs["reference_points"]
        return DecoderState(0, inputs["inputs_embeds"], self._positions(references, memory), references)

    def _layer_inputs(self, state: DecoderState, memory: Memory) -> dict[str, Any]:
        return {
            "position_embeddings": state.positions,
            "reference_points": memory.scaled(state.references),
            "encoder_hidden_states": memory.cells,
            "encoder_attention_mask": memory.valid,
        }
