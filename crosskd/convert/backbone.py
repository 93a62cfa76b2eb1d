"""A backbone's weights out of any file, by the names that `backbone.init` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from crosskd.backbones import pretrained
from crosskd.backbones.mapping import Proposal, propose
from crosskd.backbones.staged import StagedBackbone
from crosskd.backbones.timm_features import by_net
from crosskd.convert import mmdet, swin
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig
from crosskd.weights.files import replacing
from crosskd.weights.tensors import check_finite, check_shapes, read_content, tensors_in

SAFETENSORS = ".safetensors"
_SWIN = "backbone.stages."  # begins those of MMDetection's Swin


@dataclass(frozen=True)
class BackboneReport:
    """What became of every tensor. `matched`: the file's name -> the backbone's."""

    backbone: str
    how: str
    matched: dict[str, str]
    left_out: list[str]  # the file has it, the backbone has not
    notes: list[str]

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def lines(self, *, verbose: bool = False) -> list[str]:
        """The sum, behind what no tensor tells; `verbose`: every name on a line of its own."""
        return [
            *(f"matched     {theirs} -> {ours}" for theirs, ours in (self.matched if verbose else {}).items()),
            *(f"left out    {name}" for name in (self.left_out if verbose else ())),
            *(f"note        {note}" for note in self.notes),
            f"to a {self.backbone} backbone: {len(self.matched)} tensors matched ({self.how}), "
            f"{len(self.left_out)} left out",
        ]


@dataclass(frozen=True)
class BackboneConversion:
    report: BackboneReport
    state: Mapping[str, Tensor]  # by the backbone's names

    def write(self, path: Path) -> None:
        """Write a safetensors file, wholly or not at all. Raises `ConfigError` for another ending."""
        if path.suffix != SAFETENSORS:
            raise ConfigError(
                f"{path.name} should end in {SAFETENSORS}",
                remedy=f"Call it {path.stem or 'backbone'}{SAFETENSORS}.",
            )
        # Clones: safetensors refuses tensors that share memory.
        tensors = {name: tensor.contiguous().clone() for name, tensor in self.state.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"format": "pt"})


def prepare_backbone(path: Path | str, config: BackboneConfig) -> BackboneConversion:
    """Read the file `path` as the weights of a backbone; nothing is written.

    The file may be a classifier, a whole detector, or have other names: then its tensors are taken by what all have
    before them, or by order and shape. Raises `WeightsError` where not every tensor of the backbone finds one.
    """
    path = Path(path)
    found = tensors_in(read_content(path), path.name)
    given = _as_ours(found.tensors, config)
    config = config.model_copy(update={"init": "random"})
    with torch.device("meta"):
        backbone: StagedBackbone = registry.load(registry.BACKBONES[config.name].target)(config, load=False)
    wanted = backbone.state_dict()
    proposal = _by_name(given, wanted, backbone) or propose(given, wanted, backbone.own)
    if proposal is None:
        missing = pretrained.missing_names(wanted, given, backbone.own)
        unknown = [name for name in given if name not in wanted]
        raise pretrained.misfit(config, path.name, given, unknown, wanted, missing, backbone.own)
    state = {ours: given[theirs] for ours, theirs in proposal.names.items()}
    check_shapes(state, wanted, path.name)
    check_finite(state, path.name)
    taken = {theirs: ours for ours, theirs in proposal.names.items()}
    notes = list(found.notes)
    if not proposal.sure:
        notes.append(
            "order and shape prove nothing: look through the pairs, and try the weights before relying on them"
        )
    left = [name for name in given if name not in taken]
    return BackboneConversion(BackboneReport(config.name, proposal.how, taken, left, notes), state)


def _as_ours(given: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
    """MMDetection's Swin has other names and another order of channels; all others keep what they are called."""
    if registry.BACKBONES[config.name].family != "swin" or not any(name.startswith(_SWIN) for name in given):
        return dict(given)
    state = {}
    for name, tensor in given.items():
        try:
            ours = mmdet.from_mmdet(name, "gfl")  # any detector's: their backbones are called the same
        except WeightsError:
            ours = name
        state[ours] = swin.from_mmdet(ours, tensor)
    return state


def _by_name(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], backbone: StagedBackbone) -> Proposal | None:
    """Where the file has the backbone's names, or of a timm model those of its classifier."""
    if registry.BACKBONES[backbone.name].family == "timm":
        names, _ = by_net(wanted, given)
    else:
        names = {name: name for name in wanted if name in given}
    return None if pretrained.missing_names(wanted, names, backbone.own) else Proposal(names, "by name", sure=True)
