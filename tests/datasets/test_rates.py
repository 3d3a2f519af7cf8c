"""How fast workers are: the arithmetic on their stamps, and that every kind is measured on the same jobs in turn."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import fake_maker
import pytest

from facecrafter.datasets import rates
from facecrafter.datasets.make import _jobs
from facecrafter.datasets.plan import Plan
from facecrafter.datasets.rates import ACTOR, PROCESS, RAY_DATA, Clocked, Pause, Stamp, compare, lines, rate_of


def test_the_rate_is_from_the_first_begin_to_the_last_end() -> None:
    stamps = [Stamp("a", 104.0, 106.5, 8), Stamp("b", 101.0, 103.0, 8), Stamp("b", 103.5, 109.0, 4)]
    assert rate_of(stamps) == 20 / 8
    assert rate_of(stamps[:1]) == 8 / 2.5


def test_a_worker_that_begins_late_is_idle_until_then() -> None:
    early = [Stamp("a", 0.0, 4.0, 8), Stamp("a", 4.0, 8.0, 8)]
    assert rate_of(early) == 2
    assert rate_of([*early, Stamp("b", 0.0, 4.0, 8), Stamp("b", 4.0, 8.0, 8)]) == 4
    assert rate_of([*early, Stamp("b", 4.0, 8.0, 8)]) == 3


def test_a_maker_is_warm_and_puts_a_stamp_before_its_results(planned: Callable[..., Plan]) -> None:
    plan = planned()
    asked: list[Any] = []
    making = fake_maker.Making(tuple(plan.cells))

    class Noting(fake_maker.FakeMaker):
        def read(self, job):
            asked.append(job)
            return super().read(job)

    first, job, *_ = _jobs(plan, list(range(plan.shards)))
    clocked = Clocked(lambda: Noting(making), first)
    assert asked == [first]
    stamp, *results = clocked.read(job)
    assert results == making().read(job) and stamp.images == len(job.rows)
    assert stamp.begin <= stamp.end
    assert [one.images for one in clocked.read(Pause(0.0))] == [0] and len(asked) == 2


def test_jobs_wait_until_every_worker_has_answered() -> None:
    answers = iter("aaaaaaaaabcacccc")  # the second worker answers in the third round

    def submit(job: Any) -> Future[Any]:
        assert job == Pause(rates.ANSWER)
        future: Future[Any] = Future()
        future.set_result([Stamp(next(answers), 0.0, 0.0, 0)])
        return future

    rates._wait_for_all(submit, 2)
    assert "".join(answers) == "cccc"


def test_kinds_take_turns_on_the_same_jobs(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned()
    jobs = list(_jobs(plan, list(range(plan.shards))))
    maker, seen = fake_maker.Making(tuple(plan.cells)), []

    def made(kind: str, given: Any, make: Any, workers: int, ray: Any) -> Any:
        seen.append((kind, workers))
        one = make()
        for job in given:
            yield job.number, one.read(job)

    monkeypatch.setattr(rates, "_made", made)
    found = compare(jobs, maker, [1, 2], "local")
    turns = [PROCESS, ACTOR, RAY_DATA], [RAY_DATA, ACTOR, PROCESS]
    assert seen[:9] == [(kind, 1) for turn in (0, 1, 0) for kind in turns[turn]]
    assert {kind: {count: len(those) for count, those in counts.items()} for kind, counts in found.items()} == {
        kind: {1: 3, 2: 3} for kind in turns[0]
    }
    seen.clear()
    assert [len(one) for one in compare(jobs, maker, [2], None)[PROCESS].values()] == [1]
    assert seen == [(PROCESS, 2)]


def test_processes_are_measured(planned: Callable[..., Plan]) -> None:
    plan = planned()
    jobs = list(_jobs(plan, list(range(plan.shards))))
    stamps = rates._stamps(PROCESS, jobs, fake_maker.Making(tuple(plan.cells)), 2, None)
    assert sorted(stamp.images for stamp in stamps) == sorted(len(job.rows) for job in jobs)


def test_rates_in_words() -> None:
    several = {
        PROCESS: {1: [2.5, 2.4, 2.6], 2: [4.8, 5.0, 4.9]},
        ACTOR: {1: [2.5, 2.0, 4.0], 2: [4.0, 5.0, 4.5]},
        RAY_DATA: {1: [2.0, 2.0, 3.0], 2: [4.0, 4.5, 4.5]},
    }
    assert list(lines(several)) == [
        "1 process: 2.50 (2.40 to 2.60) images a second of wall-clock time",
        "2 processes: 4.90 (4.80 to 5.00) images a second of wall-clock time",
        "1 Ray actor: 2.50 (2.00 to 4.00) images a second of wall-clock time",
        "2 Ray actors: 4.50 (4.00 to 5.00) images a second of wall-clock time",
        "1 Ray Data worker: 2.00 (2.00 to 3.00) images a second of wall-clock time",
        "2 Ray Data workers: 4.50 (4.00 to 4.50) images a second of wall-clock time",
        "Ray Data with 1: 0.80 (0.75 to 1.00) of what as many actors make",
        "Ray Data with 2: 1.00 (0.90 to 1.00) of what as many actors make",
    ]
    assert list(lines({PROCESS: {1: [2.5]}})) == ["1 process: 2.50 images a second of wall-clock time"]
