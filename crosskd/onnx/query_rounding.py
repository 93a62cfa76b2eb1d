"""Which detections of a DETR rounding may decide about, and in which cells its queries begin.

PyTorch and onnxruntime add up in other orders. Where queries begin in the likeliest cells of the memory, those that are
about as likely as the last one may change places with it, and all queries attend to each other: so PyTorch begins in
the cells in which the graph has begun, wherever rounding may have chosen them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from crosskd.detectors.detector import Detector
from crosskd.detectors.detr.detector import DetrDetector, best
from crosskd.onnx.rounding import BOX_TOLERANCE, LOGIT_TOLERANCE, SCORE_TOLERANCE
from crosskd.structures import Candidates, Detections, Size

_PROPOSING = "gen_encoder_output_proposals"  # of LW-DETR and RF-DETR: the last that it gives are cells that are barred


@torch.no_grad()
def look(detector: Detector, images: Tensor, sizes: Sequence[Size]) -> tuple[list[Detections], list[Candidates]]:
    """PyTorch's detections and candidates per image; `close` are those about which rounding decides.

    They are at the score threshold or at the last place of `max_detections`, or have hardly any area. Every pair of a
    query and a class is a candidate.
    """
    assert isinstance(detector, DetrDetector)
    config, theirs, candidates = detector.config.postprocess, [], []
    for scores, boxes in detector.predict(images, sizes):
        queries, classes = scores.shape
        of_pairs, last = scores.flatten(), min(config.max_detections, scores.numel())
        limits = torch.stack((of_pairs.topk(last).values[-1], scores.new_tensor(config.score_threshold)))
        flat = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) <= BOX_TOLERANCE
        close = flat.repeat_interleave(classes) | ((of_pairs[:, None] - limits).abs() <= SCORE_TOLERANCE).any(dim=1)
        labels = torch.arange(classes).repeat(queries)
        candidates.append(Candidates(boxes.repeat_interleave(classes, dim=0), of_pairs, labels, close))
        theirs.append(best(scores, boxes, config))
    return theirs, candidates


def scoring_of(detector: Detector) -> nn.Module | None:
    """What says how likely each cell is, where queries begin in the likeliest; None where they are learnt.

    Of groups of queries, the first: it alone detects.
    """
    model = detector.head.model
    groups: nn.ModuleList | None = getattr(model, "enc_out_class_embed", None)
    scoring: nn.Module | None = getattr(model, "enc_score_head", None) if groups is None else groups[0]
    return scoring


@contextmanager
def begun_alike(detector: Detector, cells: Tensor | None) -> Iterator[list[int]]:
    """In the block queries begin in `cells` [N, Q] of a batch, best first, in all images where rounding may choose so.

    Gives a list, which then has the images in which others are likelier to PyTorch.
    """
    scoring, moved = scoring_of(detector), list[int]()
    if scoring is None or cells is None:
        yield moved
        return
    barred: list[Tensor] = []  # [N, A, 1] of a batch: cells in which no query should begin

    def hook(_module: nn.Module, _given: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        if masking and not barred:
            return logits  # of the cells that were chosen, for a loss
        logits = logits.masked_fill(barred.pop(), -torch.inf) if masking else logits.clone()
        for image, chosen in enumerate(cells):
            likely = logits[image].amax(dim=1)  # [A]
            if may_be_chosen(likely, chosen):
                if _others(likely, chosen):
                    moved.append(image)
                logits[image] = -torch.inf
                logits[image, chosen] = -torch.arange(len(chosen)).to(logits)[:, None]
        return logits

    model = detector.head.model
    masking = hasattr(model, _PROPOSING)
    with ExitStack() as patches:
        patches.enter_context(scoring.register_forward_hook(hook))
        if masking:
            plain = getattr(model, _PROPOSING)

            def propose(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
                memory, proposals, invalid = plain(*given)
                barred.append(invalid)
                return memory, proposals, invalid

            patches.enter_context(mock.patch.object(model, _PROPOSING, propose))
        yield moved


def may_be_chosen(likely: Tensor, chosen: Tensor) -> bool:
    """Whether cells `chosen` [Q], in this order, are the likeliest of all [A], but for rounding.

    Those that are -inf are as good as each other: they are padding, or at the edge, and queries begin in them where
    there are too few others.
    """
    cells = set(chosen.tolist())
    if len(cells) < len(chosen) or not cells <= set(range(len(likely))):
        return False
    wanted, found = likely.topk(len(chosen)).values, likely[chosen]
    return bool(((found == wanted) | ((found - wanted).abs() <= LOGIT_TOLERANCE)).all())


def _others(likely: Tensor, chosen: Tensor) -> bool:
    """Whether the likeliest cells are others than these."""
    apart = set(likely.topk(len(chosen)).indices.tolist()) ^ set(chosen.tolist())
    return any(likely[cell] > -torch.inf for cell in apart)
