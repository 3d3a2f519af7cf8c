"""Emotions: what is derived from a distribution, and what words say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from facecrafter.errors import ConfigError
from facecrafter.faces.emotion import CENTRES, EMOTIONS, Emotion, emotion_of, sharpness


def shares(**named: float) -> list[float]:
    return [named.get(name, 0.0) for name in EMOTIONS]


@pytest.mark.parametrize(
    ("told", "sharp"),
    [
        (shares(happy=1.0), 1.0),
        (shares(happy=0.5, sad=0.5), 1 - 1 / 9),  # a third of the largest entropy
        ([0.25] * 4 + [0.0] * 4, 1 - 4 / 9),
        ([1 / 8] * 8, 0.0),
    ],
)
def test_sharpness_by_hand(told: list[float], sharp: float) -> None:
    assert sharpness(np.array(told)) == pytest.approx(sharp)
    read = Emotion.from_probabilities(told)
    np.testing.assert_allclose([read.valence, read.arousal], sharp * (np.array(told) @ CENTRES), atol=1e-9)


def test_a_sure_reading_is_its_class_s_place_and_an_undecided_one_neutral() -> None:
    for place, centre in enumerate(CENTRES):
        read = Emotion.from_probabilities(np.eye(8)[place])
        np.testing.assert_allclose([read.valence, read.arousal], centre)
    undecided = Emotion.from_probabilities([1 / 8] * 8)
    assert (undecided.valence, undecided.arousal) == pytest.approx((0, 0), abs=1e-9)


def test_words_are_blends_of_the_classes_places() -> None:
    asked = Emotion.from_words({"happy": 0.5, "surprise": 0.25})
    assert asked.probabilities == tuple(shares(neutral=0.25, happy=0.5, surprise=0.25))
    assert asked.valence == pytest.approx(0.5 * 0.81 + 0.25 * 0.40)
    assert asked.arousal == pytest.approx(0.5 * 0.51 + 0.25 * 0.67)


def test_blends_that_sum_to_1_are_taken_however_their_sum_is_rounded() -> None:
    read = emotion_of("happy:0.05,sad:0.55,surprise:0.3,fear:0.1")
    assert read is not None and read.probabilities[0] == 0
    assert read.probabilities == pytest.approx(shares(happy=0.05, sad=0.55, surprise=0.3, fear=0.1), abs=1e-12)
    tenths = [parts for parts in itertools.product(range(11), repeat=4) if sum(parts) == 10]
    twentieths = [(one, two, 20 - one - two) for one in range(1, 19) for two in range(1, 20 - one)]
    for parts, whole in [*((parts, 10) for parts in tenths), *((parts, 20) for parts in twentieths)]:
        named = {name: share / whole for name, share in zip(EMOTIONS[1:], parts, strict=False) if share}
        found = Emotion.from_words(named).probabilities
        assert min(found) >= 0 and abs(sum(found) - 1) < 1e-12
    over = Emotion.from_words({"happy": 0.5, "sad": 0.5 + 5e-7})  # as rounded shares may be
    assert over.probabilities[0] == 0 and sum(over.probabilities) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([1.0], "needs 8 probabilities"),
        ([0.5] * 8, "sum to 1"),
        ([1.5, -0.5] + [0.0] * 6, "at least 0"),
        ([float("nan")] * 8, "at least 0"),
    ],
)
def test_what_is_no_distribution_is_refused(told: list[float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Emotion.from_probabilities(told)
