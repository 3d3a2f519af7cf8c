"""Measuring how far a model turns heads, with a generator whose images are what its landmarks are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.data.shards import Prepared
from facecrafter.errors import DataError
from facecrafter.evaluation import gain
from facecrafter.faces.rig import load
from facecrafter.request import Progress, Request


class Half:
    """Makes images that show half of what the landmarks are turned by, and no more than 15 degrees."""

    name, key, size, extra_parameters = "half", "k", 4, 0

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        self.asked = list(requests)
        yield from ((number, np.full((4, 4, 3), number, np.uint8)) for number in range(len(requests)))

    def read(self) -> SimpleNamespace:
        found = load().straightened([one.conditions["landmark"].points for one in self.asked])
        pose = np.stack([found.yaw, found.pitch, 0 * found.yaw], 1)
        return SimpleNamespace(pose=np.radians(np.clip(pose / 2, -15, 15)))


def faces(prepared: Prepared) -> Prepared:
    """The same people with faces in place of their made-up points."""
    rig = load()
    points = np.stack([rig.posed(rig.mean, 3 * row) for row in range(len(prepared))])
    return replace(prepared, points=points)


def test_a_model_that_turns_half_as_far_is_turned_twice_as_far(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Half()
    judges: Any = lambda *given, **named: SimpleNamespace(measure=lambda images: half.read())  # noqa: E731
    monkeypatch.setattr(gain, "Judges", judges)
    found = gain.fit(half, faces(prepared), people=2)
    assert found.turn("yaw", 10) == pytest.approx(20, abs=0.3)
    assert found.turn("pitch", -8) == pytest.approx(-16, abs=0.3)
    assert found.turn("yaw", 45) == pytest.approx(30, abs=0.3)  # 15 degrees are the most that shows
    assert found.about["people"] == 2 and found.about["key"] == "k"
    names = {one.identity.name for one in half.asked}
    assert len(names) == 2 and "Ida" not in names  # who is held out
    assert len(half.asked) == 2 * sum(map(len, gain.TURNS.values()))


def test_more_people_than_there_are_are_refused(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="4 people of the training are asked for, and there are 3; ask for fewer"):
        gain.fit(Half(), prepared, people=4)


def test_a_turn_in_which_no_face_is_found_is_an_error() -> None:
    asked = [("yaw", turn) for turn in gain.TURNS["yaw"]]
    read = np.array([np.nan if turn == 45 else turn / 2 for _, turn in asked])
    with pytest.raises(DataError, match="no face was found in the images of yaw 45 degrees"):
        gain._means("yaw", asked, read)
    assert gain._means("yaw", asked, np.nan_to_num(read, nan=20.0))[45.0] == 20
