"""Who is asked for, and in whose pose: the rule, and each of its parts against a plain loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import pairs as targets


def test_pairs_follow_the_rule(world: Prepared) -> None:
    pairs = targets.choose(world, 10, 6, 30, seed=3)
    assert len(pairs) == 60
    out = held_out(world.persons)
    assert out[pairs.identity].all() and out[pairs.target].all()
    persons = np.array(world.persons)
    assert (persons[pairs.identity] != persons[pairs.target]).all()
    by_identity = pairs.identity.reshape(10, 6)
    assert (by_identity == by_identity[:, :1]).all()
    assert len(set(persons[by_identity[:, 0]])) == 10
    assert all(len(set(row)) == 6 for row in pairs.target.reshape(10, 6).tolist())
    given = Counter(pairs.target.tolist())  # 60 pairs of a pool of 30
    assert len(given) == 30 and sum(abs(times - 2) for times in given.values()) <= 2
    assert max(Counter(persons[np.unique(pairs.target)]).values()) == 1


def test_the_seed_decides_and_nothing_else(world: Prepared) -> None:
    first, again, other = (targets.choose(world, 10, 6, 30, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.identity, again.identity) and np.array_equal(first.target, again.target)
    assert not np.array_equal(first.identity, other.identity)


def test_unusable_images_are_not_chosen(world: Prepared) -> None:
    usable = np.arange(len(world)) % 3 != 0
    pairs = targets.choose(world, 10, 6, 30, 0, usable)
    assert usable[pairs.identity].all() and usable[pairs.target].all()


@pytest.mark.parametrize(
    ("identities", "count", "pool", "told"),
    [
        (41, 2, 5, "40 people are held out; lower `identities`, or"),
        (5, 2, 121, "120 photos are held out; lower `pool`, or"),
        (5, 6, 6, "6 targets"),
    ],
)
def test_fewer_than_asked_is_told(world: Prepared, identities: int, count: int, pool: int, told: str) -> None:
    with pytest.raises(DataError, match=told):
        for seed in range(20):  # whether the pool has one of an identity's own photos is a matter of the draw
            targets.choose(world, identities, count, pool, seed)


def test_farthest_points_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(1)
    points = random.normal(size=(40, 3))
    owners = [f"p{number % 12}" for number in range(40)]
    chosen = [5]
    while len(chosen) < 10:
        best, row = -1.0, -1
        for number in range(40):
            if sum(owners[one] == owners[number] for one in chosen) >= 1:
                continue
            nearest = min(float(np.sqrt(((points[number] - points[one]) ** 2).sum())) for one in chosen)
            if nearest > best:
                best, row = nearest, number
        chosen.append(row)
    assert targets.farthest_points(points, 10, 5, owners, 1) == chosen
    assert len(targets.farthest_points(points, 30, 5, owners, 1)) == 12
    assert len(targets.farthest_points(points, 30, 5, owners, 3)) == 30


def test_farthest_points_are_more_diverse_than_a_draw(world: Prepared) -> None:
    features = targets.standardised(world.angles[:, :2], world.blendshapes)

    def nearest(rows: list[int]) -> float:
        apart = np.linalg.norm(features[rows][:, None] - features[rows], axis=-1) + 99 * np.eye(len(rows))
        return float(apart.min(1).mean())

    chosen = targets.farthest_points(features, 20, 0, world.persons, 3)
    draws = [np.random.default_rng(seed).choice(len(features), 20, replace=False).tolist() for seed in range(20)]
    assert nearest(chosen) > max(nearest(draw) for draw in draws)


def test_pose_and_expression_count_alike() -> None:
    random = np.random.default_rng(2)
    pose, shapes = random.normal(5, 30, (50, 2)).astype(np.float32), random.random((50, 52)).astype(np.float32)
    made = targets.standardised(pose, shapes)
    for block in (made[:, :2], made[:, 2:]):
        assert block.mean(0) == pytest.approx(0, abs=1e-6)
        assert np.mean([sum(value**2 for value in row) for row in block]) == pytest.approx(1)
    assert targets.standardised(np.zeros((3, 2), np.float32), shapes[:3])[:, :2].tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(("sizes", "count", "limit"), [((1, 1, 1), 3, 1), ((1, 1, 9), 6, 4), ((5, 5), 6, 3)])
def test_nobody_gives_more_than_needed(sizes: tuple[int, ...], count: int, limit: int) -> None:
    people = {str(number): list(range(size)) for number, size in enumerate(sizes)}
    assert targets.fair_limit(people, count) == limit
