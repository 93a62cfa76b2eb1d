"""What every DETR of `transformers` has, by one name: memory, decoder layers, heads.

A port keeps the model and computes nothing that the model computes: each of its methods calls the model's own modules.
So a model's own memory, replayed layer by layer from the model's own states, gives what the model gives, bit for bit.

B images, Q queries, C channels of the decoder, K cells of all L levels, N classes. Boxes are (centre x, centre y,
width, height) in shares of the padded image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.structures import Size


@dataclass(frozen=True)
class Memory:
    """What the encoder gives the decoder: the cells of all levels, level by level, each row by row."""

    cells: Tensor  # [B, K, C]
    shapes: tuple[Size, ...]  # of each level, (height, width); their products sum to K
    valid: Tensor | None = None  # [B, K] bool, False where a cell is padding; None: the model knows no padding
    ratios: Tensor | None = (
        None  # [B, L, 2], the share of each level's (width, height) that is no padding; None likewise
    )

    def scaled(self, references: Tensor) -> Tensor:
        """[B, Q, 2 or 4] in shares of each image -> [B, Q, L, 2 or 4] in shares of each padded map."""
        if self.ratios is None:
            return references.unsqueeze(2)
        ratios = self.ratios if references.shape[-1] == 2 else torch.cat([self.ratios, self.ratios], -1)
        return references[:, :, None] * ratios[:, None]

    def layout(self) -> dict[str, Any]:
        """Where which level lies, as a decoder layer asks for it."""
        shapes = torch.as_tensor(self.shapes, dtype=torch.long, device=self.cells.device)
        starts = torch.cat((shapes.new_zeros((1,)), shapes.prod(1).cumsum(0)[:-1]))
        return {"spatial_shapes": shapes, "spatial_shapes_list": list(self.shapes), "level_start_index": starts}


@dataclass(frozen=True)
class DecoderState:
    """All that goes into a decoder layer beside the memory."""

    layer: int  # from 0
    queries: Tensor  # [B, Q, C]: what the layer before made
    positions: Tensor  # [B, Q, C], added to the queries where they attend
    references: Tensor  # [B, Q, 2 or 4]: where the queries look, points or boxes
    mask: Tensor | None = None  # of the self-attention, where there are denoising queries
    origin: Tensor | None = None  # D-FINE: [B, Q, 4], boxes that distances are measured from; None: the layer's own
    corners: Tensor | None = None  # D-FINE, behind the first layer: [B, Q, 4 (bins + 1)], of the layer before

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def detached(self) -> DecoderState:
        """The same, without gradient."""
        still: dict[str, Any] = {name: tensor.detach() for name, tensor in self.tensors().items()}
        return replace(self, **still)


@dataclass(frozen=True)
class LayerPredictions:
    """What the heads of one layer say of its queries."""

    logits: Tensor  # [B, Q, N]
    boxes: Tensor  # [B, Q, 4]
    corners: Tensor | None = None  # D-FINE: [B, Q, 4 (bins + 1)], logits of the distances of left, top, right, bottom
    origin: Tensor | None = None  # D-FINE: [B, Q, 4], boxes that the distances are measured from


@dataclass(frozen=True)
class Decoded:
    """One layer's way: what went in, what the layer made of it, and what its heads say."""

    state: DecoderState
    hidden: Tensor  # [B, Q, C]
    predictions: LayerPredictions


@dataclass
class Recording:
    """What passed through the decoder while a model ran: `Port.record`."""

    memory: Memory = field(init=False)
    start: DecoderState = field(init=False)
    hidden: list[Tensor] = field(default_factory=list)  # of each layer


class Port(ABC):
    """A model of one type, which it keeps: `model` is a `...ForObjectDetection` of transformers."""

    bins: int | None = None  # D-FINE: of the distribution over each distance

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        self.decoder: nn.Module = model.model.decoder
        self.layers: Sequence[nn.Module] = model.model.decoder.layers

    @property
    def width(self) -> int:
        """C."""
        return int(self.config.d_model)

    @property
    def levels(self) -> int:
        """L."""
        return int(self.config.num_feature_levels)

    @property
    def queries(self) -> int:
        """Queries that predict: those of denoising, and all groups but the first, apart."""
        return int(self.config.num_queries)

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """What goes through the decoder while the model runs inside the context: with gradients, if there are any.

        Of several runs the last; what else is asked of the layers is not recorded.
        """
        recording, running = Recording(), False

        def begin(_: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
            nonlocal running
            running = True
            recording.hidden.clear()
            recording.memory = self._memory(inputs)
            recording.start = self._start(inputs, recording.memory)

        def passed(_: nn.Module, __: Any, hidden: Tensor) -> None:
            if running:
                recording.hidden.append(hidden)

        def end(*_: Any) -> None:
            nonlocal running
            running = False

        with ExitStack() as hooks:
            hooks.enter_context(self.decoder.register_forward_pre_hook(begin, with_kwargs=True))
            for layer in self.layers:
                hooks.enter_context(layer.register_forward_hook(passed))
            hooks.enter_context(self.decoder.register_forward_hook(end))
            yield recording

    def trajectory(self, recording: Recording) -> list[Decoded]:
        """The queries that predict, layer by layer, as they were recorded: the layers do not run again."""
        start = recording.start
        picked: dict[str, Any] = {name: self.predicting(x) for name, x in start.tensors().items() if name != "mask"}
        hidden = [self.predicting(x) for x in recording.hidden]
        return self.decode(replace(start, mask=None, **picked), recording.memory, hidden)

    def decode(self, start: DecoderState, memory: Memory, hidden: Sequence[Tensor] | None = None) -> list[Decoded]:
        """All layers from `start` on, each from what the layer before made; `hidden`, of each layer, spares running it.

        As the model does it, so with the gradients cut where the model cuts them.
        """
        state, way = start, []
        for index in range(len(self.layers)):
            made = self.layer(state, memory) if hidden is None else hidden[index]
            predictions = self.heads(made, state)
            way.append(Decoded(state, made, predictions))
            if index + 1 < len(self.layers):
                state = self.following(way[-1], memory)
        return way

    def layer(self, state: DecoderState, memory: Memory) -> Tensor:
        """Layer `state.layer` from this state on this memory, whoever made them -> [B, Q, C]."""
        made: Tensor = self.layers[state.layer](state.queries, **self._layer_inputs(state, memory), **memory.layout())
        return made

    def predicting(self, tensor: Tensor) -> Tensor:
        """Of [B, Q, ...] the queries that predict; a model in training has others beside them."""
        return tensor[:, : self.queries]

    @abstractmethod
    def heads(self, hidden: Tensor, state: DecoderState) -> LayerPredictions:
        """What the heads of layer `state.layer` say of what it made of `state`."""

    @abstractmethod
    def following(self, decoded: Decoded, memory: Memory) -> DecoderState:
        """The state of the layer behind: the boxes are refined, without gradient, where the model refines them."""

    def adopted(self, state: DecoderState, memory: Memory) -> DecoderState:  # noqa: ARG002
        """Another model's state of layer 0, of this one's width; its positions as this model makes them, if it does."""
        return state

    def _memory(self, inputs: Mapping[str, Any]) -> Memory:
        """Of what the decoder was called with; padding and ratios where the model knows of them."""
        cells, shapes = inputs["encoder_hidden_states"], sizes(inputs["spatial_shapes_list"])
        if "valid_ratios" not in inputs:
            return Memory(cells, shapes)
        return Memory(cells, shapes, inputs["encoder_attention_mask"], inputs["valid_ratios"])

    @abstractmethod
    def _start(self, inputs: Mapping[str, Any], memory: Memory) -> DecoderState:
        """Of what the decoder was called with, the state of layer 0."""

    @abstractmethod
    def _layer_inputs(self, state: DecoderState, memory: Memory) -> dict[str, Any]:
        """What a layer is called with, beside the queries and the layout of the memory."""


def sizes(shapes: Sequence[Sequence[int]]) -> tuple[Size, ...]:
    """(height, width) of each level, as transformers gives them."""
    return tuple((int(height), int(width)) for height, width in shapes)
