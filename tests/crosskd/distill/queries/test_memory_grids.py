"""A memory on another grid, against bilinear interpolation written out cell by cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosskd.distill.queries.memory_grids import on_grid
from crosskd.spec.distill.levels import nearest_levels, too_far
from crosskd.structures import Size


def interpolated(grid: Tensor, size: Size) -> Tensor:
    """[h, w, C] -> [H, W, C]: each cell out of the four around its centre."""
    (rows, columns), (height, width) = grid.shape[:2], size
    made = torch.zeros(height, width, grid.shape[2])
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = math.floor(y), math.floor(x)
            for row, down in ((top, 1 - (y - top)), (min(top + 1, rows - 1), y - top)):
                for column, across in ((left, 1 - (x - left)), (min(left + 1, columns - 1), x - left)):
                    made[i, j] += down * across * grid[row, column]
    return made


def test_a_level_of_the_same_cells_is_taken_and_another_is_interpolated() -> None:
    shapes, wanted, levels = [(6, 4), (3, 2)], [(6, 4), (3, 2), (2, 1), (5, 7)], [0, 1, 1, 0]
    cells = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    made = on_grid(cells, shapes, wanted, levels)
    assert made.shape == (2, 24 + 6 + 2 + 35, 3)
    assert torch.equal(made[:, :30], cells)
    fine, coarse = cells[:, :24].unflatten(1, (6, 4)), cells[:, 24:].unflatten(1, (3, 2))
    for image in range(2):
        expected = [interpolated(coarse[image], (2, 1)), interpolated(fine[image], (5, 7))]
        torch.testing.assert_close(made[image, 30:], torch.cat([x.flatten(0, 1) for x in expected]))
    made[:, 30:32].sum().backward()  # what was made of the coarse level learns there alone
    assert cells.grad is not None
    assert not cells.grad[:, :24].any()
    torch.testing.assert_close(cells.grad[:, 24:].sum(), torch.tensor(2.0 * 2 * 3))


def test_where_nothing_differs_it_is_the_same_tensor() -> None:
    cells = torch.randn(1, 5, 2)
    assert on_grid(cells, [(2, 2), (1, 1)], [(2, 2), (1, 1)], [0, 1]) is cells


def test_a_level_stands_for_the_nearest_stride_and_for_none_that_is_too_far() -> None:
    assert nearest_levels([8, 16, 32], [8, 16, 32, 64]) == [0, 1, 2, 2]
    assert nearest_levels([8, 16, 32, 64], [8, 16, 32]) == [0, 1, 2]
    assert nearest_levels([16, 64], [32, 8]) == [0, 0]
    assert too_far([8, 16, 32], [8, 16, 32, 64]) == []
    assert too_far([8, 16, 32], [8, 16, 32, 64, 128]) == [128]
    assert too_far([32], [8, 16]) == [8]
