"""Dealing: counts that differ by at most one, positions that balance, and orders by the seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from facecrafter.study.design import Dealt, chi_square_of_positions, deal, layouts, session
from tests.study.conftest import rng


@pytest.mark.parametrize("methods", range(2, 9))
def test_in_a_williams_square_everyone_is_everywhere_and_next_to_everyone(methods: int) -> None:
    rows = layouts("choose", methods)
    assert len(rows) == methods * (1 + methods % 2)
    for position in range(methods):
        assert set(Counter(row[position] for row in rows).values()) == {len(rows) // methods}
    neighbours = Counter(pair for row in rows for pair in pairwise(row))
    assert len(neighbours) == methods * (methods - 1) and len(set(neighbours.values())) == 1


def test_pairs_are_shown_both_ways() -> None:
    assert sorted(layouts("pairs", 3)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


@settings(max_examples=30, deadline=None)
@given(
    design=st.sampled_from(["choose", "ranking", "pairs"]),
    methods=st.integers(2, 6),
    sets=st.integers(1, 12),
    participants=st.integers(1, 20),
    data=st.data(),
)
def test_counts_of_sets_differ_by_one_at_most(
    design: str, methods: int, sets: int, participants: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, sets))
    dealt, chance = Dealt(), rng(1)
    for _ in range(participants):
        trials = deal(design, methods, sets, count, dealt, chance)
        numbers = [number for number, _ in trials]
        assert len(set(numbers)) == len(numbers) == count
        counts = [dealt.sets[number] for number in range(sets)]
        assert max(counts) - min(counts) <= 1
    for number in range(sets):
        within = [dealt.within[number, row] for row in layouts(design, methods)]
        assert max(within) - min(within) <= 1


def test_positions_balance_in_the_papers_design() -> None:
    dealt, chance, shown = Dealt(), rng(2), []
    for _ in range(21):
        shown += [layout for _, layout in deal("choose", 5, 30, 5, dealt, chance)]
    table = np.zeros((5, 5))
    for layout in shown:
        table[list(layout), range(5)] += 1
    assert table.sum() == 21 * 5 * 5 and np.ptp(table) <= 4
    assert chi_square_of_positions(shown, 5)[1] > 0.9


def test_released_sets_are_dealt_first_and_their_layouts_again() -> None:
    trials = [(number, layouts("choose", 3)[0]) for number in range(4)] * 2
    gone = Dealt.of(one for index, one in enumerate(trials) if index not in (1, 5))  # both trials of set 1
    assert [number for number, _ in deal("choose", 3, 4, 1, gone, rng())] == [1]
    assert 2 not in {number for number, _ in deal("choose", 3, 4, 3, gone, rng(), without=[2])}


def test_a_session_has_blocks_checks_and_practice() -> None:
    hands = [(key, [(number, (0, 1, 2)) for number in range(4)]) for key in ("a", "b", "c")]
    trials = session(hands, 2, True, rng(3))
    assert [one.kind for one in trials].count("attention") == 2 and trials[0].kind == "practice"
    answers = [one for one in trials if one.kind == "answer"]
    assert len(answers) == 12 and len({(one.question, one.set) for one in answers}) == 12
    blocks = [one.question for index, one in enumerate(answers) if index % 4 == 0]
    assert sorted(blocks) == ["a", "b", "c"]
    assert all(one.question == blocks[index // 4] for index, one in enumerate(answers))
    assert trials[1].kind == "answer"  # nobody begins with a check
    assert all((one.expected is not None) == (one.kind == "attention") for one in trials)
    assert session(hands, 2, True, rng(3)) == trials != session(hands, 2, True, rng(4))
    assert all(one.kind == "answer" for one in session(hands, 0, False, rng(3)))


def test_chi_square_of_positions() -> None:
    even = [*layouts("choose", 4)] * 5
    assert chi_square_of_positions(even, 4) == (0.0, 1.0)
    # 20 times the same row: every cell of a method is 20 or 0, 5 expected; 4 * (15^2 + 3 * 5^2) / 5 = 240, of which
    # three quarters have 9 degrees.
    statistic, p = chi_square_of_positions([(0, 1, 2, 3)] * 20, 4)
    assert statistic == pytest.approx(240.0) and p == pytest.approx(chi2.sf(180, 9))
    assert chi_square_of_positions([], 4) == (0.0, 1.0)


@pytest.mark.parametrize(("methods", "width"), [(2, 2), (3, 3), (5, 5), (3, 2), (5, 2)])
def test_p_values_of_layouts_by_chance_are_uniform(methods: int, width: int) -> None:
    chance = rng(7)
    values = [
        chi_square_of_positions([tuple(chance.permutation(methods)[:width]) for _ in range(60)], methods)[1]
        for _ in range(1000)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.045)  # of two methods there are few different values
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.025)
