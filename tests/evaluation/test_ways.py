from __future__ import annotations

import numpy as np
import pytest

from facecrafter.evaluation import ways
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.ways import WAYS, WORDS
from facecrafter.faces.emotion import EMOTIONS

PEOPLE = ("a", "b", "c")
# An image by person, way and word, as an evaluation makes them.
ASKED = [(person, way, word) for person in PEOPLE for word in WORDS for way in WAYS]


def read(classes: tuple[str, ...], right: list[bool], lost: tuple[int, ...] = ()) -> ways.WaysRead:
    """What is found where some images are read as asked, the others as the first class, and some show no face."""
    probabilities = np.zeros((len(ASKED), len(classes)))
    for row, (_, _, word) in enumerate(ASKED):
        probabilities[row, classes.index(word) if right[row] and word in classes else 0] = 1
    probabilities[list(lost)] = np.nan
    people, acting, words = zip(*ASKED, strict=True)
    return ways.read("net 12345678", classes, probabilities, acting, words, people)


def test_shares_are_counted_by_what_an_emotion_acts_through() -> None:
    found = read(EMOTIONS, [way == "both" or (way == "landmarks" and word == "happy") for _, way, word in ASKED])
    assert [found.shares[way].value for way in WAYS] == pytest.approx([0, 1 / 7, 1])
    assert found.by_class["landmarks"] == {word: float(word == "happy") for word in WORDS}
    assert found.more["both"] == Interval(1.0, 1.0, 1.0)
    assert found.more["landmarks"].value == pytest.approx(1 / 7) and found.more.keys() == set(WAYS[1:])


def test_ways_are_compared_over_the_same_people() -> None:
    # One person shows everything by both ways and another one nothing: each share is uncertain, their difference is 0.
    found = read(EMOTIONS, [person == "a" for person, _, _ in ASKED])
    assert found.shares["both"] == found.shares["module"] and found.shares["both"].low == 0
    assert found.more["both"] == Interval(0.0, 0.0, 0.0)


def test_images_without_a_face_and_words_that_a_network_does_not_know_are_left_out() -> None:
    without = tuple(name for name in EMOTIONS if name != "contempt")
    lost = tuple(row for row, (person, way, _) in enumerate(ASKED) if person == "c" and way == "both")
    found = read(without, [person != "c" for person, _, _ in ASKED], lost)
    assert "contempt" not in found.by_class["both"] and len(found.by_class["both"]) == 6
    assert found.shares["module"].value == pytest.approx(2 / 3)
    assert found.shares["both"].value == 1


def test_a_way_keeps_its_interval_where_some_resamplings_have_no_face_by_it() -> None:
    lost = tuple(row for row, (person, way, _) in enumerate(ASKED) if person == "c" and way == "both")
    found = read(EMOTIONS, [way == "module" or person == "a" for person, way, _ in ASKED], lost)
    assert found.shares["both"] == Interval(0.5, 0.0, 1.0)
    assert found.more["both"] == Interval(-0.5, -1.0, 0.0)


def test_a_way_of_one_persons_faces_has_no_interval() -> None:
    lost = tuple(row for row, (person, way, _) in enumerate(ASKED) if person != "a" and way == "both")
    found = read(EMOTIONS, [True] * len(ASKED), lost)
    assert found.shares["both"] == Interval(1.0, None, None)
    assert found.more["both"] == Interval(0.0, None, None)
    assert found.more["landmarks"] == Interval(0.0, 0.0, 0.0)


def test_a_table_has_a_row_for_each_network() -> None:
    whole = read(EMOTIONS, [True] * len(ASKED))
    less = read(EMOTIONS[:7], [way != "both" for _, way, _ in ASKED])
    lines = ways.as_markdown([whole, less], dict.fromkeys(WAYS, Interval(0.456, 0.4, 0.5)))
    assert lines[2] == f"| {WORDS[0]} | 100% | 100% | 100% |"
    assert lines[-5:-3] == [
        "| all 7, by net 12345678 | 100% [100%, 100%] | 100% [100%, 100%] | 100% [100%, 100%] |",
        "| less the module's |  | +0% [+0%, +0%] | +0% [+0%, +0%] |",
    ]
    assert lines[-3].startswith("| all 6, by net 12345678 | 100%") and lines[-3].endswith("| 0% [0%, 0%] |")
    assert lines[-2].endswith("| -100% [-100%, -100%] |")
    assert lines[-1] == "| cosine to the photo | 0.46 [0.40, 0.50] | 0.46 [0.40, 0.50] | 0.46 [0.40, 0.50] |"
