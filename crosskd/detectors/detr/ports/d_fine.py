"""D-FINE (arXiv 2410.13842): RT-DETR whose boxes are distributions over the distances of four sides."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.d_fine.modeling_d_fine import distance2bbox, inverse_sigmoid, weighting_function

from crosskd.detectors.detr.ports.port import Decoded, DecoderState, LayerPredictions, Memory
from crosskd.detectors.detr.ports.rt_detr import RTDetrPort


class DFinePort(RTDetrPort):
    """The first layer makes boxes of its own, and all layers refine the distances from these."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.bins = int(self.config.max_num_bins)

    def heads(self, hidden: Tensor, state: DecoderState) -> LayerPredictions:
        decoder, index, origin = self.model.model.decoder, state.layer, state.origin
        if origin is None:
            origin = (decoder.pre_bbox_head(hidden) + inverse_sigmoid(state.references)).sigmoid().detach()
        corners = decoder.bbox_embed[index](hidden + state.queries.detach() if index else hidden)
        if state.corners is not None:
            corners = corners + state.corners
        project = weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale)
        boxes = distance2bbox(origin, decoder.integral(corners, project), decoder.reg_scale)
        logits = decoder.lqe_layers[index](decoder.class_embed[index](hidden), corners)
        return LayerPredictions(logits, boxes, corners, origin)

    def following(self, decoded: Decoded, memory: Memory) -> DecoderState:  # noqa: ARG002
        state, said, references = decoded.state, decoded.predictions, decoded.predictions.boxes.detach()
        positions = self._positions(references)
        return DecoderState(
            state.layer + 1, decoded.hidden, positions, references, state.mask, said.origin, said.corners
        )

    def _positions(self, references: Tensor) -> Tensor:
        return super()._positions(references).clamp(min=-10, max=10)

    def _layer_inputs(self, state: DecoderState, memory: Memory) -> dict[str, Any]:
        inputs = super()._layer_inputs(state, memory)
        inputs["position_embeddings"] = inputs.pop("object_queries_position_embeddings")
        return inputs
