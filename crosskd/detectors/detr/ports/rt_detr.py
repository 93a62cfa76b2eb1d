"""RT-DETR (arXiv 2304.08069) and its version 2 (arXiv 2407.17140), whose decoders differ inside the attention alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.models.rt_detr.modeling_rt_detr import inverse_sigmoid

from crosskd.detectors.detr.ports.port import Decoded, DecoderState, LayerPredictions, Memory, Port


class RTDetrPort(Port):
    """Positions are made of the references, anew in each layer. The memory has no padding. In training there are
    denoising queries, which lie before the others and which these do not attend to."""

    def predicting(self, tensor: Tensor) -> Tensor:
        return tensor[:, -self.queries :]

    def heads(self, hidden: Tensor, state: DecoderState) -> LayerPredictions:
        decoder = self.model.model.decoder
        delta = decoder.bbox_embed[state.layer](hidden)
        boxes = (delta + inverse_sigmoid(state.references)).sigmoid()
        return LayerPredictions(decoder.class_embed[state.layer](hidden), boxes)

    def following(self, decoded: Decoded, memory: Memory) -> DecoderState:  # noqa: ARG002
        state, references = decoded.state, decoded.predictions.boxes.detach()
        return DecoderState(state.layer + 1, decoded.hidden, self._positions(references), references, state.mask)

    def adopted(self, state: DecoderState, memory: Memory) -> DecoderState:  # noqa: ARG002
        return replace(state, positions=self._positions(state.references))

    def _positions(self, references: Tensor) -> Tensor:
        positions: Tensor = self.model.model.decoder.query_pos_head(references)
        return positions

    def _start(self, inputs: Mapping[str, Any], memory: Memory) -> DecoderState:  # noqa: ARG002
        references = inputs["reference_points"].sigmoid()
        mask = inputs["encoder_attention_mask"]  # so called; it is the queries'
        return DecoderState(0, inputs["inputs_embeds"], self._positions(references), references, mask)

    def _layer_inputs(self, state: DecoderState, memory: Memory) -> dict[str, Any]:
        return {
            "object_queries_position_embeddings": state.positions,
            "reference_points": memory.scaled(state.references),
            "encoder_hidden_states": memory.cells,
            "encoder_attention_mask": state.mask,
        }
