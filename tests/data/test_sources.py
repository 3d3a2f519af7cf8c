"""Several prepared folders as one, and images made smaller."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from facecrafter.data.shards import Prepared
from facecrafter.data.sources import Stacked, joined, resized, thinned
from facecrafter.errors import DataError


def test_stacked_images_are_read_where_they_lie() -> None:
    parts = [
        np.arange(3 * 12, dtype=np.uint8).reshape(3, 2, 2, 3),
        np.arange(100, 124, dtype=np.uint8).reshape(2, 2, 2, 3),
    ]
    stacked, whole = Stacked(parts), np.concatenate(parts)
    assert (len(stacked), stacked.shape, stacked.dtype) == (5, whole.shape, whole.dtype)
    for rows in (4, np.int64(0), slice(1, 4), np.array([4, 0, 3, 3]), np.array([True, False, False, True, True])):
        assert np.array_equal(stacked[rows], whole[rows]), rows


def test_folders_joined_keep_their_rows_and_say_whose_they_are(prepared: Prepared) -> None:
    other = dataclasses.replace(prepared, persons=[f"made-{n}" for n in range(8)], images=255 - prepared.images)
    both = joined([prepared, other], [0.6, 0.4])
    assert len(both) == 16
    assert both.persons[8:] == other.persons
    assert np.array_equal(both.images[9], other.images[1])
    assert np.array_equal(both.identity[8:], other.identity)
    assert both.sources is not None and both.sources.tolist() == [0] * 8 + [1] * 8
    assert both.shares == (0.6, 0.4)
    assert joined([prepared], [1.0]) is prepared


def test_emotions_by_different_estimators_are_not_mixed(prepared: Prepared) -> None:
    with pytest.raises(DataError, match=r"by different estimators .*emonet_8, none"):
        joined([prepared, dataclasses.replace(prepared, estimator="emonet_8")], [0.5, 0.5])


def test_smaller_images_are_means_and_landmarks_move_along(prepared: Prepared) -> None:
    half = resized(prepared, 64)
    expected = prepared.images[0].reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(half.images[0] - expected).max() <= 0.51
    assert np.allclose(half.points, prepared.points / 2)
    assert resized(prepared, 128) is prepared


def test_thinned_samples_are_spread_evenly(prepared: Prepared) -> None:
    keep = np.array([True] * 7 + [False])
    assert np.flatnonzero(thinned(prepared, keep, 3)).tolist() == [0, 3, 6]
    assert thinned(prepared, keep, 7) is keep
