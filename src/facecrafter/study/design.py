"""Who sees which sets in which order: seeded, with counts that differ by at most one, and balanced positions.

A *layout* is what one trial shows: the numbers of methods from left to right. A set is dealt to whom has the fewest of
it; within a set the layout that was used least comes next. What a participant leaves unanswered is no longer counted
once it is released, so the next ones get it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from facecrafter.study.config import Design

Layout = tuple[int, ...]


@lru_cache
def layouts(design: Design, methods: int) -> tuple[Layout, ...]:
    """All layouts of a design.

    Of all methods: the rows of a Williams square (1949), in which every method is equally often in each position and,
    over the rows, equally often right of every other one. Of pairs: every ordered pair.
    """
    if design == "pairs":
        return tuple(itertools.permutations(range(methods), 2))
    first = [0]
    for step in range(1, methods):
        first.append((first[-1] + (step if step % 2 else -step)) % methods)
    rows = [tuple((start + one) % methods for one in first) for start in range(methods)]
    if methods % 2:
        rows += [row[::-1] for row in rows]
    return tuple(rows)


@dataclass
class Dealt:
    """What of a question is dealt and not released: how often each set, each layout, and each layout in a set."""

    sets: Counter[int] = field(default_factory=Counter)
    layouts: Counter[Layout] = field(default_factory=Counter)
    within: Counter[tuple[int, Layout]] = field(default_factory=Counter)
    pairs: Counter[tuple[int, frozenset[int]]] = field(default_factory=Counter)

    @classmethod
    def of(cls, trials: Iterable[tuple[int, Layout]]) -> Dealt:
        """Count trials, each a set and its layout."""
        dealt = cls()
        for number, layout in trials:
            dealt.add(number, layout)
        return dealt

    def add(self, number: int, layout: Layout) -> None:
        """Count one more trial."""
        self.sets[number] += 1
        self.layouts[layout] += 1
        self.within[number, layout] += 1
        self.pairs[number, frozenset(layout)] += 1


def deal(
    design: Design,
    methods: int,
    sets: int,
    count: int,
    dealt: Dealt,
    rng: np.random.Generator,
    without: Iterable[int] = (),
) -> list[tuple[int, Layout]]:
    """Deal one participant some sets of a question, those with the fewest trials first, ties by chance.

    If the counts of all sets differ by at most one before, they do afterwards, unless ``without`` forbids it.

    Args:
        design: of the study.
        methods: how many there are.
        sets: how many the question has.
        count: how many the participant gets, at most as many as there are sets.
        dealt: what others have; what is dealt here is added to it.
        rng: for ties.
        without: sets that the participant has already.

    Returns:
        Sets and their layouts, in the order in which they are to be shown.
    """
    free = [number for number in range(sets) if number not in set(without)]
    chance = rng.permutation(len(free))
    chosen = sorted(zip(free, chance, strict=True), key=lambda one: (dealt.sets[one[0]], one[1]))[:count]
    trials = []
    for number, _ in sorted(chosen, key=lambda one: one[1]):
        layout = _next_layout(design, methods, number, dealt)
        dealt.add(number, layout)
        trials.append((number, layout))
    return trials


def _next_layout(design: Design, methods: int, number: int, dealt: Dealt) -> Layout:
    """The layout that a set has had least, of those the one that all sets together had least. Sets begin at different
    ones, so that their unfinished rounds add up to whole ones."""
    rows = layouts(design, methods)

    def used(index: int) -> tuple[int, int, int, int]:
        row = rows[index]
        turn = (index - number) % len(rows)
        return dealt.pairs[number, frozenset(row)], dealt.within[number, row], dealt.layouts[row], turn

    return rows[min(range(len(rows)), key=used)]


@dataclass(frozen=True)
class Planned:
    """One trial to be: its question, set and layout.

    Attributes:
        kind: ``answer``, ``practice`` or ``attention``.
        expected: the position that an attention check tells to choose.
    """

    question: str
    set: int
    layout: Layout
    kind: str = "answer"
    expected: int | None = None


def session(
    hands: Sequence[tuple[str, Sequence[tuple[int, Layout]]]], checks: int, practice: bool, rng: np.random.Generator
) -> list[Planned]:
    """The trials of one participant in order: a block a question, the blocks in an order by chance, attention checks
    anywhere after the first trial, practice before all.

    Practice and attention checks show sets that the participant also answers, or will; they are never counted.

    Args:
        hands: for each question what it was dealt.
        checks: attention checks.
        practice: begin with a trial that does not count.
        rng: the participant's.
    """
    order = rng.permutation(len(hands))
    trials = [Planned(hands[index][0], number, layout) for index in order for number, layout in hands[index][1]]
    answers = list(trials)
    for place in sorted(rng.integers(1, len(answers) + 1, checks), reverse=True):
        shown = answers[place - 1]
        expected = int(rng.integers(len(shown.layout)))
        trials.insert(place, Planned(shown.question, shown.set, shown.layout[::-1], "attention", expected))
    if practice:
        last = answers[-1]
        trials.insert(0, Planned(answers[0].question, last.set, answers[0].layout[::-1], "practice"))
    return trials


def chi_square_of_positions(trials: Iterable[Layout], methods: int) -> tuple[float, float]:
    """Whether every method was shown equally often in each position: Pearson's chi-square of the table of methods by
    positions against equal counts, and its p-value were layouts by chance.

    Where a trial shows every method once, rows and columns both have fixed sums, and (M - 1) / M of the statistic has
    (M - 1)^2 degrees of freedom (Anderson, 1959). In pairs only the two columns have fixed sums.

    Args:
        trials: the layouts that were shown, all of one length.
        methods: how many there are.
    """
    from scipy.stats import chi2

    shown = list(trials)
    if not shown:
        return 0.0, 1.0
    table = np.zeros((methods, len(shown[0])))
    for layout in shown:
        table[list(layout), range(len(layout))] += 1
    expected = table.sum() / table.size
    statistic = float(np.square(table - expected).sum() / expected)
    if table.shape[1] == methods:
        return statistic, float(chi2.sf(statistic * (methods - 1) / methods, (methods - 1) ** 2))
    return statistic, float(chi2.sf(statistic, table.size - table.shape[1]))
