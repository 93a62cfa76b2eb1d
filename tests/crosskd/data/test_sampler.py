from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosskd.data.sampler import shard, training_batches, validation_batches


def flat(batches):
    return list(chain.from_iterable(batches))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_has_every_image_in_whole_batches(wide, batch_size, epoch):
    batches = training_batches(np.array(wide), batch_size, seed=3, epoch=epoch)
    size = min(batch_size, len(wide))
    assert set(flat(batches)) == set(range(len(wide)))
    assert all(len(batch) == len(set(batch)) == size for batch in batches)
    assert len(flat(batches)) - len(wide) < size  # filled up, not repeated
    assert len(batches) == len(training_batches(np.array(wide), batch_size, seed=3, epoch=epoch + 1))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 10))
def test_wide_images_and_tall_ones_meet_only_in_what_is_left(wide, batch_size):
    batches = training_batches(np.array(wide), batch_size, seed=0, epoch=0)
    mixed = [batch for batch in batches if len({wide[index] for index in batch}) == 2]
    assert len(mixed) <= 2
    assert all(batch in batches[-2:] for batch in mixed)


def test_order_depends_on_seed_and_epoch_alone():
    wide = np.ones(50, dtype=bool)
    first = training_batches(wide, 8, seed=1, epoch=4)
    assert first == training_batches(wide, 8, seed=1, epoch=4)
    assert first != training_batches(wide, 8, seed=1, epoch=5)
    assert first != training_batches(wide, 8, seed=2, epoch=4)


def test_validation_has_every_image_once_and_one_padded_size_a_batch():
    sizes = [(32, 64), (64, 32), (32, 64), (32, 64), (64, 32), (96, 96)]
    batches = validation_batches(sizes, 2)
    assert batches == [[0, 2], [3], [1, 4], [5]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_ranks_share_the_batches(world_size):
    batches = [[i] for i in range(5)]
    ranks = [shard(batches, rank, world_size, even=False) for rank in range(world_size)]
    assert sorted(flat(ranks)) == batches
    even = [shard(batches, rank, world_size, even=True) for rank in range(world_size)]
    assert {len(part) for part in even} == {-(-5 // world_size)}
    assert {tuple(batch) for part in even for batch in part} == {(i,) for i in range(5)}
