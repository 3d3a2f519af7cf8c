"""Several prepared folders as one, and images made smaller."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.data.shards import Prepared, held_out
from facecrafter.data.sources import Stacked, joined, likeness, near_held_out, resized, thinned
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
    with pytest.raises(DataError, match=r"by different estimators .*emonet_8, none.* 'dataset make' keeps its own"):
        joined([prepared, dataclasses.replace(prepared, estimator="emonet_8")], [0.5, 0.5])


def unit(*rows: list[float]) -> NDArray[np.float32]:
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_people_of_later_sources_who_are_like_a_held_out_person_are_found(prepared: Prepared) -> None:
    held = [name for name in (f"person {n}" for n in range(200)) if held_out([name])[0]][:2]
    others = [name for name in (f"person {n}" for n in range(200)) if not held_out([name])[0]][:2]
    photos = unit([1, 0.3, 0], [1, -0.3, 0], [0, 1, 0.3], [0, 1, -0.3], [0, 0.1, 1], [1, 0, 0])
    real = dataclasses.replace(
        subset(prepared, 6), persons=[held[0], held[0], held[1], held[1], *others], identity=photos
    )
    made = dataclasses.replace(
        subset(prepared, 4),
        persons=["twin", "twin", "stranger", held[1]],
        identity=unit([1, 0.31, 0], [-1, 0, 0], [1, 1, 1], [1, 0, 1]),
    )
    assert likeness(photos, np.array(real.persons)) == pytest.approx(0.91 / 1.09)
    # The twin's other image goes too. A person of the first folder stays whoever they are like.
    assert near_held_out(joined([real, made], [0.5, 0.5])).tolist() == [False] * 6 + [True, True, False, False]
    assert not near_held_out(real).any()
    alone = dataclasses.replace(real, persons=[*held, *(f"{name} too" for name in others), *others])
    assert likeness(photos, np.array(alone.persons)) is None
    assert not near_held_out(joined([alone, made], [0.5, 0.5])).any()


def subset(prepared: Prepared, count: int) -> Prepared:
    arrays = ("images", "points", "blendshapes", "angles", "identity", "emotion", "masks")
    return dataclasses.replace(
        prepared, **{name: getattr(prepared, name)[:count] for name in arrays}, files=prepared.files[:count]
    )


def test_smaller_images_are_means_and_landmarks_move_along(prepared: Prepared) -> None:
    half = resized(prepared, 64)
    expected = prepared.images[0].reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(half.images[0] - expected).max() <= 0.51
    assert np.allclose(half.points, prepared.points / 2)
    assert resized(prepared, 128) is prepared


def test_thinned_samples_are_all_photos_of_some_people(prepared: Prepared) -> None:
    keep = np.array([True] * 7 + [False])  # Ann and Bob three each, Ida one; Cid is not kept
    for most in (1, 3, 4, 6):
        chosen = thinned(prepared, keep, most)
        persons = [prepared.persons[row] for row in np.flatnonzero(chosen)]
        assert 0 < len(persons) <= most
        assert all(persons.count(name) == {"Ann": 3, "Bob": 3, "Ida": 1}[name] for name in persons)
        assert np.array_equal(chosen, thinned(prepared, keep, most))
    assert thinned(prepared, keep, 7) is keep
    alone = dataclasses.replace(prepared, persons=["Ann"] * 8)
    assert thinned(alone, keep, 3).sum() == 3
