from __future__ import annotations

import random
from itertools import pairwise

import pytest

from crosskd.spec.results.detections import SAMPLES, best_score, sample_ids, score_text


def test_samples_are_spread_over_the_ids_whatever_order_they_come_in() -> None:
    ids = [7 * number for number in range(1000)]
    chosen = sample_ids(ids)
    assert (len(chosen), chosen[0], chosen[-1]) == (SAMPLES, 0, 7 * 999)
    assert {after - before for before, after in pairwise(chosen)} == {7 * 32, 7 * 33}
    assert sample_ids(reversed(ids)) == chosen
    assert sample_ids([5, 3, 4]) == [3, 4, 5]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_score_is_that_of_the_highest_f1_of_all(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(1, 30)
    scores = sorted((draw.randint(1, 9) / 10 for _ in range(count)), reverse=True)
    right = [draw.random() < 0.5 for _ in scores]
    boxes = sum(right) + draw.randint(0, 10)

    def f1(least: float) -> float:
        kept = [is_right for score, is_right in zip(scores, right, strict=True) if score >= least]
        return 2 * sum(kept) / (len(kept) + boxes)

    highest = max(map(f1, scores))
    wanted = max(score for score in scores if f1(score) == highest) if any(right) else None
    assert best_score(scores, right, boxes) == wanted


def test_where_nothing_is_right_there_is_no_best_score() -> None:
    assert best_score([0.9, 0.8], [False, False], 3) is None
    assert best_score([], [], 0) is None


def test_a_score_of_single_precision_keeps_its_place() -> None:
    import numpy as np

    one = np.float32(0.3)
    texts = [score_text(float(score)) for score in (one, np.nextafter(one, np.float32(1)))]
    assert [np.float32(text) for text in texts] == [one, np.nextafter(one, np.float32(1))]
