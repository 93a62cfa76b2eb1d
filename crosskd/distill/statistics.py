"""Per-channel statistics of feature maps, over the batch and all cells of one level."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd import ranks
from crosskd.losses import at_least_float32, rank_mean
from crosskd.structures import Moments

EPSILON = 1e-6  # added to standard deviations


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation, [N, C, H, W] -> [1, C, 1, 1] each.

    A single value per channel (one image, one cell) has deviation 0 here, not the 0 / 0 of the unbiased formula.
    The gradient of a channel without spread is 0, not the infinite one of a square root at 0: `torch.std` sees
    to that, and a root of the variance written by hand would not.

    With synchronised statistics (see `ranks`) both are taken over the maps of all ranks, and the gradient flows
    back to all of them.
    """
    if ranks.synchronised():
        return _mean_and_deviation(*ranks.pooled_moments(x))
    values = x.numel() // x.shape[1]
    deviation, mean = torch.std_mean(x, dim=(0, 2, 3), correction=min(1, values - 1), keepdim=True)
    return mean, deviation


def moments_of(like: Tensor | Moments) -> tuple[Tensor, Tensor]:
    """`moments` of a map, or of what is known of one; of that without a gradient."""
    if isinstance(like, Tensor):
        return moments(at_least_float32(like))
    mean, squares, count = ranks.joined_moments(like.mean, like.squares, like.count)
    if ranks.synchronised():
        return _mean_and_deviation(*ranks.pooled(mean, squares, count.reshape(1)))
    return _mean_and_deviation(mean.reshape(1, -1, 1, 1), squares.reshape(1, -1, 1, 1), count)


def _mean_and_deviation(mean: Tensor, squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """[1, C, 1, 1], the sum of squared deviations [1, C, 1, 1], and of how many values, [] -> as `moments`."""
    there = squares > 0
    spread = torch.where(there, squares, torch.ones_like(squares))
    return mean, torch.where(there, (spread / (count - 1).clamp(min=1)).sqrt(), torch.zeros_like(squares))


def overall_mean(x: Tensor) -> Tensor:
    """The mean of all elements, []: with synchronised statistics this rank's share of the mean over all ranks."""
    if not ranks.synchronised():
        return x.mean()
    return x.sum() / rank_mean(x.new_full((), x.numel()))


def normalise(x: Tensor) -> Tensor:
    """[N, C, H, W] with mean 0 and deviation 1 in every channel."""
    x = at_least_float32(x)
    mean, deviation = moments(x)
    return (x - mean) / (deviation + EPSILON)


def match_statistics(x: Tensor, like: Tensor | Moments) -> Tensor:
    """`x` with the mean and deviation that `like` has in each channel, [N, C, H, W]; in full precision.

    The gradient flows through the statistics of `x`. A map of one single cell has none, and is left as it is:
    the reference makes NaN of it. A channel without spread becomes constant and gets no gradient, where
    division by the bare epsilon would multiply it by a million.
    """
    x = at_least_float32(x)
    if x.numel() == x.shape[1] and not ranks.synchronised():
        return x
    mean, deviation = moments(x)
    mean_like, deviation_like = moments_of(like)
    factor = torch.where(deviation > 0, deviation_like / (deviation + EPSILON), torch.zeros_like(deviation))
    # Not factor * (x - mean): the difference would be one more map to keep for the gradient; x is kept anyway.
    return torch.addcmul(mean_like - mean * factor, x, factor)
