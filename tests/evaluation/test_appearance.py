"""Errors of skin tone by thirds of the tones, against a loop, and the table."""

from __future__ import annotations

import numpy as np
import pytest

from facecrafter.evaluation.appearance import THIRDS, as_markdown, neighbours, skin_errors
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Appearance, AppearanceResult


def test_errors_are_by_thirds_of_the_photos_tones() -> None:
    random = np.random.default_rng(0)
    tones = dict(zip([f"person {number}" for number in range(9)], np.linspace(-40, 60, 9), strict=True))
    people = [name for name in tones for _ in range(4)]
    wanted = np.array([tones[name] for name in people])
    shown = wanted + random.normal(size=len(people)) * 10
    got = skin_errors(shown, wanted, people)
    assert tuple(got) == THIRDS
    for place, name in enumerate(THIRDS):
        rows = slice(12 * place, 12 * place + 12)
        assert got[name].value == pytest.approx(np.abs(shown - wanted)[rows].mean())
        assert got[name].low < got[name].value < got[name].high


def test_faces_without_colour_are_left_out() -> None:
    wanted, people = np.array([-20.0, 10.0, 50.0, np.nan]), ["a", "b", "c", "d"]
    got = skin_errors(np.array([-10.0, 10.0, np.nan, 5.0]), wanted, people)
    assert [one.value for one in got.values()] == [10, 0] and "middle third" not in got
    assert skin_errors(np.full(4, np.nan), wanted, people) == {}


def test_photos_are_compared_with_the_persons_next_one() -> None:
    one, other = neighbours(["a", "b", "a", "c", "b", "a"])
    assert list(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 2), (2, 5), (5, 0), (1, 4), (4, 1)]
    assert len(neighbours(["a", "b"])[0]) == 0


def test_the_table_has_what_is_known() -> None:
    one = Appearance(frechet_ratio=Interval(2.25, 2.0, 2.5), skin_error={"darkest third": Interval(4.0, 3.5, 4.5)})
    other = Appearance(frechet_ratio=Interval(), skin_error={"darkest third": Interval(4.0)})
    settings, photos = {"one": one, "other": other}, {"middle third": Interval(3.0)}
    result = AppearanceResult(photos=12, network="stub", another_photo=photos, settings=settings)
    assert as_markdown(result).splitlines()[2:] == [
        "| another photo of the person | 1.0 | none | 3.0° | none |",
        "| one | 2.2 [2.0, 2.5] | 4.0° [3.5, 4.5] | none | none |",
        "| other | none | 4.0° | none | none |",
    ]
