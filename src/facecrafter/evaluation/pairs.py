"""Who is asked for in Table 1, and in whose pose and expression.

The rule, for one seed:

1. Identities are held-out people, drawn without repetition, one photo each, drawn too.
2. Targets are a pool of photos of held-out people, by farthest-point sampling (Gonzalez, 1985): the first is drawn, and
   each further one is the photo farthest from all chosen before, in pose (yaw and pitch) and expression (blendshapes).
   Pose and expression are each centred and divided by the root of their mean squared distance from the mean, so that
   both count alike, and blendshapes that hardly move do not count as much as those that do. Nobody gives more photos
   to the pool than others have to: one each, where there are as many people as targets.
3. Each identity gets the photos of the pool that were given least often so far, never one of its own person; ties are
   broken by lot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.data.shards import Prepared, held_out
from facecrafter.data.sources import thinned
from facecrafter.errors import DataError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Rows of a prepared folder: whose identity, and whose pose, expression and emotion, for each of P images."""

    identity: Rows
    target: Rows

    def __len__(self) -> int:
        return len(self.identity)


def choose(
    prepared: Prepared,
    identities: int,
    targets: int,
    pool: int,
    seed: int = 0,
    usable: NDArray[np.bool_] | None = None,
) -> Pairs:
    """Identities times targets, by the rule of this module; all of one identity follow each other.

    Args:
        prepared: a prepared folder with held-out people.
        identities: people.
        targets: photos a person.
        pool: target photos in all.
        seed: of every draw.
        usable: ``(N,)``, which images may be chosen; None for all.

    Raises:
        DataError: fewer people or photos than asked for.
    """
    random = np.random.default_rng(seed)
    candidates = held_out(prepared.persons) & (True if usable is None else usable)
    rows = np.flatnonzero(candidates)
    people = by_person(prepared, rows)
    if len(people) < identities:
        raise DataError(
            f"{identities} identities are asked for, and {len(people)} people are held out; lower `identities`, or "
            "prepare photos of more people"
        )
    if len(rows) < pool:
        raise DataError(
            f"a pool of {pool} targets is asked for, and {len(rows)} photos are held out; lower `pool`, or prepare "
            "more photos"
        )
    chosen = random.permutation(sorted(people))[:identities].tolist()
    sources = [int(random.choice(people[person])) for person in chosen]
    features = standardised(prepared.angles[rows, :2], prepared.blendshapes[rows])
    owners = [prepared.persons[row] for row in rows.tolist()]
    places = farthest_points(features, pool, int(random.integers(len(rows))), owners, fair_limit(people, pool))
    given = share([owners[place] for place in places], chosen, targets, random)
    return Pairs(np.repeat(sources, targets), rows[places][given].reshape(-1))


def by_person(prepared: Prepared, rows: Rows) -> dict[str, list[int]]:
    """Rows of a prepared folder by whose they are, people in the order of their first."""
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        found.setdefault(prepared.persons[row], []).append(row)
    return found


def fair_limit(people: Mapping[str, Sequence[int]], count: int) -> int:
    """How many photos each person may give at most, so that ``count`` come together; there must be as many."""
    limit = 1
    while sum(min(len(photos), limit) for photos in people.values()) < count:
        limit += 1
    return limit


def standardised(pose: NDArray[np.float32], expression: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pose ``(N, A)`` and expression ``(N, B)`` side by side, ``(N, A + B)``, each with a mean squared length of 1."""
    blocks = []
    for block in (pose, expression):
        centred = block.astype(np.float64) - block.mean(0, dtype=np.float64)
        blocks.append(centred / max(float(np.sqrt(np.square(centred).sum(1).mean())), 1e-12))
    return np.concatenate(blocks, axis=1)


def farthest_points(
    features: NDArray[np.float64], count: int, first: int, owners: Sequence[str], limit: int
) -> list[int]:
    """Rows of features ``(N, F)``, each as far as can be from those before it; of equally far ones the first.

    Args:
        features: of N photos.
        count: how many rows.
        first: the first of them.
        owners: whose photos they are, N.
        limit: photos that one owner may give.

    Returns:
        ``count`` rows; fewer where the limit leaves fewer.
    """
    mine = np.unique(np.asarray(owners), return_inverse=True)[1]
    left = np.full(mine.max() + 1, limit)
    apart = np.full(len(features), np.inf)
    chosen: list[int] = []
    row = first
    while len(chosen) < count and apart.max() > -np.inf:
        chosen.append(row)
        left[mine[row]] -= 1
        apart = np.minimum(apart, np.linalg.norm(features - features[row], axis=1))
        apart[row] = -np.inf
        if left[mine[row]] == 0:
            apart[mine == mine[row]] = -np.inf
        row = int(apart.argmax())
    return chosen


def share(owners: Sequence[str], people: Sequence[str], count: int, random: np.random.Generator) -> Rows:
    """Which photos of a pool each person gets: ``(people, count)``, in the order of the pool.

    Args:
        owners: whose the photos are.
        people: who gets some; never a photo of their own.
        count: photos a person.
        random: breaks ties.

    Raises:
        DataError: the pool has fewer photos of others than a person should get.
    """
    mine, used = np.asarray(owners), np.zeros(len(owners), np.int64)
    given = np.empty((len(people), count), np.int64)
    for number, person in enumerate(people):
        others = np.flatnonzero(mine != person)
        if len(others) < count:
            raise DataError(
                f"{person} should get {count} targets, and the pool has {len(others)} of other people; "
                "lower `targets`, or set a larger `pool`"
            )
        order = np.lexsort((random.permutation(len(others)), used[others]))
        given[number] = np.sort(others[order[:count]])
        used[given[number]] += 1
    return given


def held_out_photos(prepared: Prepared, most: int) -> tuple[NDArray[np.uint8], list[str]]:
    """At most so many photos of held-out people, all photos of some of them, and whose they are."""
    rows = np.flatnonzero(thinned(prepared, held_out(prepared.persons), most))
    return prepared.images[rows], [prepared.persons[row] for row in rows]
