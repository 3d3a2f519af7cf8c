"""Everything random is a pure function of seed and step."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from facecrafter.training.batches import Draw, batch_indices, divided, draw, draw_joint, generator, sample_indices

LATENT = torch.Size((2, 3, 3))
MIXTURE = {"none": 0.1, "identity": 0.2, "landmark": 0.3, "emotion": 0.15, "landmark+emotion": 0.25}
BOTH = ["landmark", "emotion"]


def samples(*counts: int, shares: tuple[float, ...] = ()) -> Any:
    """So many samples of each source, with even shares unless others are given."""
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    by_source = [torch.arange(first, end) for first, end in pairwise(ends)]
    return SimpleNamespace(count=ends[-1], by_source=by_source, shares=shares or [1 / len(counts)] * len(counts))


def drawn(
    seed: int = 0, step: int = 0, batch: int = 12, mixture: dict[str, float] = MIXTURE, pair: float = 0.5
) -> Draw:
    return draw(seed, step, batch, samples(25), LATENT, 7, mixture, pair)


def same(a: Draw, b: Draw) -> list[bool]:
    first, second = ({**vars(one), **one.weights} for one in (a, b))
    return [torch.equal(value, second[name]) for name, value in first.items() if name != "weights"]


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    first = drawn(3, 5)
    torch.manual_seed(99)
    torch.rand(10)
    assert all(same(drawn(3, 5), first))
    for other in (drawn(4, 5), drawn(3, 6)):
        assert not torch.equal(other.noise, first.noise)
        assert not torch.equal(other.timesteps, first.timesteps)
        assert not torch.equal(other.indices, first.indices)
    state = torch.get_rng_state()
    drawn()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 12])
def test_the_parts_of_a_draw_are_the_whole(parts: int) -> None:
    whole = drawn()
    pieces = [whole.part(index, parts) for index in range(parts)]
    assert all(len(piece.indices) == 12 // parts for piece in pieces)
    names = vars(whole).keys() - {"weights"}
    weights = {name: torch.cat([piece.weights[name] for piece in pieces]) for name in whole.weights}
    joined = Draw(**{name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names}, weights=weights)
    assert all(same(joined, whole))


def test_shapes_and_ranges() -> None:
    one = drawn(batch=64)
    assert one.noise.shape == (64, 2, 3, 3)
    assert one.identity_noise.shape == (64, 7)
    assert one.timesteps.dtype == torch.int64
    assert one.timesteps.min() >= 0
    assert one.timesteps.max() < 1000
    assert one.dropped.dtype == one.swap.dtype == torch.bool
    assert set(one.weights["landmark"].tolist()) | set(one.weights["emotion"].tolist()) == {0.0, 1.0}
    assert one.pick.min() >= 0
    assert one.pick.max() < 1
    assert not (one.dropped & ((one.weights["landmark"] > 0) | (one.weights["emotion"] > 0))).any()


@pytest.mark.parametrize(("count", "batch"), [(10, 5), (10, 4), (7, 3), (5, 12), (1, 3)])
def test_every_epoch_visits_each_sample_once(count: int, batch: int) -> None:
    epochs = 4
    steps = -(-epochs * count // batch)
    visits = torch.cat([batch_indices(1, step, batch, count) for step in range(steps)]).tolist()
    orders = [visits[epoch * count : (epoch + 1) * count] for epoch in range(epochs)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count > 5:
        assert len({tuple(order) for order in orders}) == epochs


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 3), (5, 12), (1, 3)])
def test_the_indices_are_those_of_the_epochs_orders_looked_up_sample_by_sample(count: int, batch: int) -> None:
    for step in range(7):
        expected = []
        for place in range(step * batch, (step + 1) * batch):
            order = torch.randperm(count, generator=generator(3, 0, place // count))
            expected.append(int(order[place % count]))
        assert batch_indices(3, step, batch, count).tolist() == expected


def test_mixture_shares_are_met() -> None:
    kinds: Counter[tuple[bool, bool, bool]] = Counter()
    for step in range(40):
        one = drawn(step=step, batch=250)
        kinds.update(
            zip(
                one.dropped.tolist(),
                (one.weights["landmark"] > 0).tolist(),
                (one.weights["emotion"] > 0).tolist(),
                strict=True,
            )
        )
    names = [
        (True, False, False),
        (False, False, False),
        (False, True, False),
        (False, False, True),
        (False, True, True),
    ]
    assert set(kinds) == set(names)
    for name, share in zip(names, MIXTURE.values(), strict=True):
        assert kinds[name] / 10_000 == pytest.approx(share, abs=0.02)  # four standard deviations


@pytest.mark.parametrize("name", MIXTURE)
def test_a_share_of_one_is_always_met(name: str) -> None:
    one = drawn(batch=100, mixture={**dict.fromkeys(MIXTURE, 0.0), name: 1.0})
    assert one.dropped.tolist() == [name == "none"] * 100
    assert one.weights["landmark"].tolist() == [float("landmark" in name)] * 100
    assert one.weights["emotion"].tolist() == [float("emotion" in name)] * 100


@pytest.mark.parametrize("pair", [0.0, 0.3, 1.0])
def test_the_chance_of_another_photo_is_met(pair: float) -> None:
    assert float(drawn(batch=5000, pair=pair).swap.float().mean()) == pytest.approx(
        pair, abs=0.03 if 0 < pair < 1 else 0
    )


def test_timesteps_are_one_a_stratum_and_in_random_order() -> None:
    one = drawn(batch=100).timesteps
    assert (one.sort().values // 10).tolist() == list(range(100))
    assert one.tolist() != sorted(one.tolist())


def test_noise_is_standard_normal() -> None:
    noise = torch.cat([drawn(step=step, batch=200).noise.flatten() for step in range(5)])
    assert abs(float(noise.mean())) < 0.04
    assert abs(float(noise.std()) - 1) < 0.03


def test_neighbouring_places_of_a_run_are_unrelated() -> None:
    places = [(seed, kind, step) for seed in (0, 1, 2**31, -1) for kind in (0, 1, 2) for step in (0, 1, 2, 1000)]
    numbers = torch.stack([torch.randn(500, generator=generator(seed, kind, step)) for seed, kind, step in places])
    correlations = torch.corrcoef(numbers) - torch.eye(len(places))
    assert correlations.abs().max() < 0.25


@pytest.mark.parametrize("groups", [1, 2, 6, 12])
def test_a_joint_batch_replicates_its_data_points(groups: int) -> None:
    made = draw_joint(3, 5, 12, samples(25), LATENT, 7, BOTH, groups, 0.0, 0.5)
    size = 12 // groups
    for name in ("indices", "swap", "pick", "identity_noise"):
        value = getattr(made, name).unflatten(0, (groups, size))
        assert torch.equal(value, value[:, :1].expand_as(value)), name
    assert len(made.indices.unique()) == groups
    assert len(made.timesteps.unique()) > 6  # each replica has its own
    assert not torch.equal(made.noise[0], made.noise[1])
    again = draw_joint(3, 5, 12, samples(25), LATENT, 7, BOTH, groups, 0.0, 0.5)
    assert all(same(made, again))


def test_joint_batches_go_through_all_data_points() -> None:
    seen = torch.cat(
        [draw_joint(0, step, 8, samples(5), LATENT, 7, BOTH, 2, 0.0, 0.5).indices[::4] for step in range(5)]
    )
    assert sorted(seen.tolist()) == list(range(10))


def test_the_four_combinations_are_equally_likely() -> None:
    made = [draw_joint(1, step, 40, samples(25), LATENT, 7, BOTH, 1, 0.2, 0.5) for step in range(100)]
    kinds = Counter(
        (bool(d), int(a), int(b))
        for one in made
        for d, a, b in zip(one.dropped, one.weights["landmark"], one.weights["emotion"], strict=True)
    )
    assert set(kinds) == {(True, 0, 0), *((False, a, b) for a in (0, 1) for b in (0, 1))}
    assert all(700 < count < 900 for count in kinds.values())


# --- several sources --------------------------------------------------------------------------------------------------


def test_each_source_has_its_share_of_every_batch_and_epochs_of_its_own() -> None:
    data, batch = samples(10, 4), 8
    steps = [sample_indices(data, 1, step, batch) for step in range(20)]
    for indices in steps:
        own = indices % data.count
        assert int((own < 10).sum()) == batch // 2
    # Four of the first's 20 numbers a step: an epoch is five steps. The second's eight are through in two.
    first = [int(one) for indices in steps[:5] for one in indices if one % data.count < 10]
    second = [int(one) for indices in steps[:2] for one in indices if one % data.count >= 10]
    assert sorted(first) == [*range(10), *range(14, 24)]
    assert sorted(second) == [*range(10, 14), *range(24, 28)]
    assert torch.equal(sample_indices(data, 1, 7, batch), steps[7])
    assert not torch.equal(sample_indices(data, 2, 7, batch), steps[7])
    assert any(int(one) % data.count >= 10 for one in steps[0][:4])  # they are mixed


def test_a_source_without_samples_leaves_its_places_to_the_others() -> None:
    data = samples(6, 0)
    assert sorted(sample_indices(data, 0, 0, 12).tolist()) == list(range(12))


@pytest.mark.parametrize(
    ("groups", "shares", "expected"),
    [(1, (0.7, 0.3), [210, 90]), (4, (0.9, 0.1), [1080, 120]), (1, (0.34, 0.33, 0.33), [102, 99, 99]),
     (7, (0.5, 0.5), [1050, 1050]), (2, (0.5, 0.25, 0.25), [300, 150, 150])],
)  # fmt: skip
def test_what_a_step_rounds_the_next_ones_make_up_for(
    groups: int, shares: tuple[float, ...], expected: list[int]
) -> None:
    counts = (50, 20, 40)[: len(shares)]
    data = samples(*counts, shares=shares)
    seen: list[list[int]] = [[] for _ in counts]
    for step in range(300):
        indices = draw_joint(2, step, 4 * groups, data, LATENT, 7, BOTH, groups, 0.0, 0.5).indices[::4]
        assert len(indices) == groups
        assert torch.equal(indices, sample_indices(data, 2, step, groups))
        for index in indices.tolist():
            seen[next(one for one, rows in enumerate(data.by_source) if index % data.count in rows)].append(index)
        for own, share in zip(seen, shares, strict=True):
            assert abs(len(own) - share * groups * (step + 1)) <= 1
    assert [len(own) for own in seen] == expected
    for own, rows in zip(seen, data.by_source, strict=True):  # in epochs: none is seen twice more than another
        assert {len(own) // (2 * len(rows)) - own.count(int(row)) for row in [*rows, *(rows + data.count)]} <= {0, -1}


def test_where_the_shares_are_whole_every_step_has_them() -> None:
    data = samples(10, 4, 30, shares=(0.5, 0.125, 0.375))
    for step in (0, 1, 7, 10**6):
        parts = []
        for source, (rows, size) in enumerate(zip(data.by_source, (8, 2, 6), strict=True)):
            places = batch_indices(1 + source, step, size, 2 * len(rows))
            parts.append(rows[places % len(rows)] + data.count * (places >= len(rows)))
        order = torch.randperm(16, generator=generator(1, 6, step))
        assert torch.equal(sample_indices(data, 1, step, 16), torch.cat(parts)[order])


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.1, 0.2, 0.7), (0.4, 0.05, 0.05, 0.5), (0.0, 0.6, 0.0, 0.4, 0.0)])
def test_no_part_of_a_larger_count_is_smaller(shares: tuple[float, ...]) -> None:
    made = [divided(count, shares) for count in range(400)]
    assert [sum(parts) for parts in made] == list(range(400))
    for before, after in pairwise(made):
        assert all(one <= other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [(8, (0.5, 0.5), [4, 4]), (7, (0.5, 0.5), [4, 3]), (10, (0.34, 0.66), [3, 7]), (1, (0.2, 0.8), [0, 1]),
     (5, (1.0, 0.0), [5, 0])],
)  # fmt: skip
def test_a_count_is_divided_by_shares(count: int, shares: tuple[float, ...], expected: list[int]) -> None:
    assert divided(count, shares) == expected
