"""Element-wise losses of detection and distillation, and how sums become losses.

Nothing here knows a head or a teacher. All of them expect full precision: see `at_least_float32`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd import ranks

# Added to the number a loss is divided by, as the published results were made: the float32 one in every precision.
EPSILON = torch.finfo(torch.float32).eps


def at_least_float32(x: Tensor) -> Tensor:
    """At least float32: half precision is raised, float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def quality_focal(logits: Tensor, quality: Tensor, beta: float) -> Tensor:
    """|p - q|^beta * BCE(z, q), p = sigmoid(z), element by element; `quality` q in 0..1 is a constant.

    With q = 0 off the labels and the IoU at the label it is GFL's quality focal loss (arXiv 2006.04388, eq. 5);
    with q = the teacher's probabilities it is CrossKD's class loss. Both in `[..., K]`, out `[..., K]`.
    """
    quality = quality.detach()
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    if beta == 0:
        return entropy
    distance = (logits.sigmoid() - quality).abs()
    return entropy * (distance if beta == 1 else _power(distance, beta))


def focal_negative(logits: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of a class that is not there (arXiv 1708.02002): (1 - alpha) p^gamma * -log(1 - p), elementwise."""
    return (1 - alpha) * _power(logits.sigmoid(), gamma) * F.softplus(logits)


def focal_positive(logits: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of a class that is there: alpha (1 - p)^gamma * -log(p), elementwise."""
    return alpha * _power((-logits).sigmoid(), gamma) * F.softplus(-logits)


def _power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent of x >= 0. Below 1 its slope at 0 is infinite, and the gradient there is 0 instead of NaN."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).pow(exponent) if 0 < exponent < 1 else x.pow(exponent)


def distribution_focal(logits: Tensor, distance: Tensor) -> Tensor:
    """Cross entropy with the two bins around `distance` (arXiv 2006.04388, eq. 6).

    logits [..., R + 1]; distance [...] in bins, 0 <= distance < R; out [...].
    """
    left = distance.long()
    right_share = distance - left
    log_p = F.log_softmax(logits, dim=-1)
    at_left = log_p.gather(-1, left[..., None])[..., 0]
    at_right = log_p.gather(-1, left[..., None] + 1)[..., 0]
    return -(at_left * (1 - right_share) + at_right * right_share)


def bins_divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of two distributions over bins, [..., R + 1] -> [...], gradient to `logits` alone.

    Both are softened by `temperature` T, and the result is multiplied by T^2, so that the gradient keeps its size
    when T changes (arXiv 1503.02531).
    """
    log_q = F.log_softmax(teacher.detach() / temperature, dim=-1)
    log_p = F.log_softmax(logits / temperature, dim=-1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1) * temperature**2


def level_sums(values: Tensor, level_sizes: list[int]) -> Tensor:
    """[N, A] -> [L]: the sum over the anchors of each level."""
    return torch.stack([part.sum() for part in torch.split(values, level_sizes, dim=1)])


def rank_mean(value: Tensor, least: float = 0.0) -> Tensor:
    """A divisor as the mean over ranks, at least `least`: what a rank's own sum of losses is divided by.

    With synchronised statistics `least` holds for the divisor of all ranks together: see `ranks`.
    """
    if ranks.world_size() == 1:
        return value.clamp(min=least)
    return (ranks.all_reduce_sum(value.detach()) / ranks.world_size()).clamp(min=rank_share(least))


def rank_share(divisor: float) -> float:
    """A fixed divisor as each rank applies it: with synchronised statistics, its part of the total batch's."""
    return divisor / ranks.world_size() if ranks.synchronised() else divisor


def rank_own(value: Tensor, least: float = 0.0) -> Tensor:
    """A divisor that each rank has for itself, at least `least`, but for synchronised statistics: then `rank_mean`.

    Where `value` has a gradient, as a mimicking DETR's has by the student's own queries, it keeps it either way.
    """
    if not ranks.synchronised():
        return value.clamp(min=least)
    return (ranks.all_reduce_sum(value) / ranks.world_size()).clamp(min=rank_share(least))
