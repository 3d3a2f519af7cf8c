"""Whether a set helps: pairs of held-out people, the same training for all, and a run that goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facecrafter.data.shards import Prepared, held_out
from facecrafter.datasets import experiment
from facecrafter.datasets.experiment import area, compare, lines, pairs_of
from facecrafter.errors import ConfigError, DataError


@pytest.fixture
def photos(prepared: Prepared) -> Prepared:
    """Twice Ida, who is held out, and another one who is."""
    other = next(name for name in map(str, range(1000)) if held_out([name])[0])
    names = ["Ann", "Ann", "Bob", "Ida", "Bob", "Ida", "Bob", other]
    return dataclasses.replace(prepared, persons=names)


@pytest.fixture
def made(prepared: Prepared) -> Prepared:
    return dataclasses.replace(prepared, persons=["x", "x", "x", "y", "y", "y", "z", "z"], images=prepared.images[::-1])


def test_pairs_are_of_held_out_people(photos: Prepared) -> None:
    pairs = pairs_of(photos, np.flatnonzero(held_out(photos.persons)), np.random.default_rng(0))
    assert pairs.rows.tolist() == [[3, 5], [3, 7]]
    assert pairs.same.tolist() == [True, False] and pairs.people == ["Ida", "Ida"]


@pytest.mark.parametrize(
    ("scores", "expected"), [([3, 4, 1, 2], 1.0), ([1, 2, 3, 4], 0.0), ([1, 1, 1, 1], 0.5), ([1, 4, 2, 3], 0.5)]
)
def test_the_area_is_how_often_one_person_scores_higher(scores: list[float], expected: float) -> None:
    assert area(np.array(scores, float), np.array([True, True, False, False])) == expected


def test_two_steps_of_all_arms(
    photos: Prepared, made: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(photos, made, tmp_path, steps=2)
    assert (found.images, found.pairs) == (5, 1)
    assert found.people == {"photos": 2, "made": 2, "both": 4}
    assert set(found.auc) == {"photos", "made", "both"} and set(found.differences) == {"made", "both"}
    assert found.differences["made"].value == pytest.approx(found.auc["made"].value - found.auc["photos"].value)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["both", "made", "photos"]
    assert "both: AUC" in " ".join(lines(found)) and "10 images of 4 people" in " ".join(lines(found))
    real: Callable[..., object] = experiment.train_on
    trained: list[str] = []
    monkeypatch.setattr(experiment, "train_on", lambda *given: (trained.append(given[-1]), real(*given))[1])
    next(tmp_path.glob("made-*")).unlink()
    assert compare(photos, made, tmp_path, steps=2) == found  # to the bit
    assert trained == ["made"]


def test_people_of_a_set_who_resemble_a_held_out_person_are_left_out(
    photos: Prepared, made: Prepared, tmp_path: Path
) -> None:
    identity = made.identity.copy()
    identity[3:6] = photos.identity[[3, 5]].mean(0)  # y is Ida
    found = compare(photos, dataclasses.replace(made, identity=identity), tmp_path, steps=1)
    assert (found.resembling, found.images, found.people["made"]) == (1, 5, 2)
    assert "who resemble a held-out person, left out: 1" in " ".join(lines(found))
    identity[:] = photos.identity[[3, 5]].mean(0)
    with pytest.raises(ConfigError, match="there are 0 images of either kind"):
        compare(photos, dataclasses.replace(made, identity=identity), tmp_path, steps=1)


def test_training_learns_who_is_who(prepared: Prepared) -> None:
    """Four people of two images each: after some steps an image is nearest to the other one of its person."""
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (4, 1, 1, 3)).repeat(64, 1).repeat(64, 2)
    small = np.concatenate([plain, plain + rng.integers(-20, 20, plain.shape)]).clip(0, 255).astype(np.uint8)
    model = experiment.train_on(small, list("abcdabcd"), 30, 0, "test")
    import torch

    with torch.inference_mode():
        vectors = torch.nn.functional.normalize(model(experiment.tensor(small)), dim=1)
    cosines = (vectors @ vectors.T).numpy() - 2 * np.eye(8)
    assert cosines.argmax(1).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_what_cannot_be_compared_is_refused(photos: Prepared, made: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are 5 images of either kind, and 9 cannot be taken"):
        compare(photos, made, tmp_path, images=9, steps=1)
    with pytest.raises(DataError, match="show one person"):
        compare(photos, dataclasses.replace(made, persons=["x"] * 8), tmp_path, steps=1)
    single = dataclasses.replace(photos, persons=["Ann", "Ann", "Bob", "Ida", "Bob", "Bob", "Bob", "Bob"])
    with pytest.raises(DataError, match="one of them with two photos"):
        compare(single, made, tmp_path, steps=1)
