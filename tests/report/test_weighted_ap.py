from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosskd.evaluation import average_precision as coco
from crosskd.evaluation.average_precision import average_precision
from report import resampled_ap
from report.bootstrap import NUMBERS, draw, resample
from report.matches import read_matches
from report.weighted_ap import METRICS
from report.weighted_ap import average_precision as weighted
from tests.support.matches import detections, measured, truth


def test_the_numbers_are_called_as_the_evaluation_calls_them() -> None:
    assert METRICS == coco.METRICS
    assert set(NUMBERS) < set(METRICS)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), as_is=st.booleans(), limit=st.sampled_from([100, 300]))
def test_weights_of_one_give_the_numbers_of_pycocotools_bit_for_bit(seed: int, as_is: bool, limit: int) -> None:
    """Crowds, ignored boxes, all sizes, equal scores, a class without boxes (-1), more detections than AR1 counts."""
    with tempfile.TemporaryDirectory() as folder:
        known = truth(Path(folder), seed, as_is=as_is)
    result = average_precision(known, detections(known, seed), max_detections=limit)
    assert result.matches is not None
    found = weighted(read_matches(result.matches))
    assert found.metrics == result.metrics
    assert found.per_class == result.per_class
    assert found.per_class["newt"] == -1


def test_an_image_counts_as_often_as_its_weight_says(tmp_path: Path) -> None:
    """As pycocotools counts it where the image itself is there so often."""
    known = truth(tmp_path, 5, images=6)
    found = detections(known, 6, ties=False)
    result = average_precision(known, found)
    assert result.matches is not None
    times = np.array([0, 1, 3, 1, 2, 0])
    copies = np.repeat(np.arange(6), times)
    rows = np.concatenate([np.arange(known.rows(place).start, known.rows(place).stop) for place in copies])
    ids = np.arange(len(copies)) + 1000
    repeated = replace(
        known,
        image_ids=ids,
        starts=np.cumsum([0, *(known.rows(place).stop - known.rows(place).start for place in copies)]),
        **{name: getattr(known, name)[rows] for name in ("boxes", "labels", "areas", "crowd", "ignore", "trains")},
    )
    old = known.image_ids[copies].tolist()
    expected = average_precision(repeated, {new: found[image] for new, image in zip(ids.tolist(), old, strict=True)})
    ours = weighted(read_matches(result.matches), times.astype(float))
    assert ours.metrics == expected.metrics
    assert ours.per_class == expected.per_class


@pytest.mark.parametrize("seed", range(6))
def test_resamples_have_the_ap_that_their_weights_say(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few boxes, so that recalls often are whole hundredths, which count only if they are reached in full."""
    if seed % 2:  # many blocks and chunks, as large splits have them
        for name in ("_BLOCK", "_NARROWEST", "_CHUNK"):
            monkeypatch.setattr(resampled_ap, name, 16)
    result = measured(tmp_path, seed, images=9)
    assert result.matches is not None
    matches = read_matches(result.matches)
    weights = draw(9, 40, seed)
    (found,) = resample([matches], weights)
    for place in range(40):
        expected = weighted(matches, weights[:, place].astype(float))
        for name in NUMBERS:
            assert _known(found.numbers[name][place]) == pytest.approx(expected.metrics[name], abs=1e-6)
        ours = [_known(value) for value in found.per_class[:, place]]
        assert ours == pytest.approx([*expected.per_class.values()], abs=1e-6)


def _known(value: float) -> float:
    return -1.0 if np.isnan(value) else float(value)
