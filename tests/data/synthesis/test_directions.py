"""Directions move what they are asked to and keep the rest, and their file holds what was saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facecrafter.data.synthesis import directions
from facecrafter.data.synthesis.directions import Directions, Linear, Samples, fit, fit_linear, load, save, scale
from facecrafter.data.synthesis.people import EXPRESSIONS, GLARE, PULLED
from facecrafter.data.synthesis.readings import MEASURES
from facecrafter.errors import WeightsError

WIDTH = 512


@pytest.fixture(scope="module")
def samples() -> Samples:
    """2,000 styles whose measures are linear in them, each along a row of its own, with a little noise."""
    random = np.random.default_rng(0)
    styles = random.normal(size=(2000, WIDTH))
    ways = random.normal(size=(len(MEASURES), WIDTH)) / np.sqrt(WIDTH)
    values = styles @ ways.T + 0.01 * random.normal(size=(2000, len(MEASURES)))
    measures = {}
    for name, column in zip(MEASURES, values.T, strict=True):
        measures[name] = column if name in directions.SIGNED else (column + 6) ** 2
    embeddings = styles @ random.normal(size=(WIDTH, 256)) / 20
    return Samples(styles, measures, embeddings)


@pytest.fixture(scope="module")
def fitted(samples: Samples) -> Directions:
    age, sex = Linear(np.linspace(0, 0.01, 256), 3.4), Linear(np.linspace(0.01, 0, 256), 0.5)
    return fit(samples, 1500, age, sex, {"plain": 1500})


def test_a_fit_reads_the_measures(samples: Samples, fitted: Directions) -> None:
    for name in ("yaw", "smile", "anger", "glasses"):
        found = (samples.styles - fitted.average) @ fitted.readers[fitted.names.index(name)]
        assert np.corrcoef(found, scale(name, samples.measures[name]))[0, 1] > 0.95


def test_a_move_takes_the_pose_there_and_keeps_the_rest(samples: Samples, fitted: Directions) -> None:
    style = samples.styles[3]
    moved = style + fitted.move(style, {"smile": 2.0}, pose=(1.5, -0.5))
    yaw, pitch = (fitted.standard(name, degrees) for name, degrees in (("yaw", 1.5), ("pitch", -0.5)))
    # Where nothing contradicts, the slack leaves a hundredth.
    np.testing.assert_allclose(fitted.predict(moved, ["yaw", "pitch"]), [yaw, pitch], atol=0.1)
    before, after = (fitted.predict(one, directions.KEPT) for one in (style, moved))
    np.testing.assert_allclose(after, before, atol=0.1)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets are not to be missed."""
    for name in ("SLACK", "SLACK_EMOTION", "SLACK_KEPT"):
        monkeypatch.setattr(directions, name, 0.0)


@pytest.mark.usefixtures("exact")
def test_strength_is_the_share_of_the_way(samples: Samples, fitted: Directions) -> None:
    style = samples.styles[5]
    (start,) = fitted.predict(style, ["jawOpen"])
    for strength in (0.0, 0.5, 1.0, 1.5):
        moved = style + fitted.move(style, {"jawOpen": 3.0}, strength)
        assert fitted.predict(moved, ["jawOpen"])[0] == pytest.approx(start + strength * (3 - start), abs=1e-6)


@pytest.mark.usefixtures("exact")
def test_a_move_is_the_cheapest(samples: Samples, fitted: Directions) -> None:
    style = samples.styles[7]
    change = fitted.move(style, {"smile": 2.0})
    cost = fitted.identity @ fitted.identity.T + directions.FLOOR * np.eye(WIDTH)
    rows = fitted.readers[[fitted.names.index(name) for name in ("smile", "yaw", "pitch", *directions.KEPT)]]
    aside = np.random.default_rng(1).normal(size=WIDTH)
    aside -= rows.T @ np.linalg.solve(rows @ rows.T, rows @ aside)  # changes none of the readings
    for step in (-0.1, 0.1):
        other = change + step * aside
        assert other @ cost @ other > change @ cost @ change


def test_a_linear_reading_is_found_again() -> None:
    random = np.random.default_rng(0)
    embeddings, weight = random.normal(size=(3000, 256)), random.normal(size=256)
    found = fit_linear(embeddings, embeddings @ weight + 3, 1e-6)
    np.testing.assert_allclose(found.weight, weight, atol=1e-3)
    assert found.offset == pytest.approx(3, abs=1e-3)


def test_a_learned_change_is_added_by_its_strength(samples: Samples, fitted: Directions) -> None:
    style, change = samples.styles[3], np.linspace(-1, 1, WIDTH)
    learned = replace(fitted, learned={"fear": change})
    for emotion, expected in (("fear", 0.7 * change), ("anger", 0 * change), (None, 0 * change)):
        moved = learned.move(style, {"smile": 1.0}, 0.7, emotion=emotion)
        np.testing.assert_allclose(moved - fitted.move(style, {"smile": 1.0}, 0.7), expected, atol=1e-12)


def test_a_file_holds_what_was_saved(fitted: Directions, tmp_path: Path) -> None:
    fitted = replace(fitted, learned={"fear": np.linspace(-1, 1, WIDTH)})
    save(fitted, tmp_path / "d.safetensors")
    again = load(tmp_path / "d.safetensors")
    assert list(again.learned) == ["fear"]
    np.testing.assert_allclose(again.learned["fear"], fitted.learned["fear"], rtol=1e-6, atol=1e-6)
    assert again.names == fitted.names
    assert again.about == fitted.about
    for name in ("readers", "average", "means", "deviations", "identity"):
        np.testing.assert_allclose(getattr(again, name), getattr(fitted, name), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(again.age.weight, fitted.age.weight, rtol=1e-6)
    assert again.sex.offset == pytest.approx(fitted.sex.offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file of directions"),
        (b"", "holds no directions"),
        (b"\x08" + bytes(30), "holds no directions"),
    ],
)
def test_what_is_no_file_of_directions_is_one_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "d.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load(path)


def test_the_shipped_file_knows_every_target() -> None:
    shipped = load()
    asked = {*GLARE, *PULLED, *(name for targets in EXPRESSIONS.values() for name in targets)}
    assert asked | set(directions.KEPT) | set(directions.POSE) <= set(shipped.names)
    assert directions.ASSET.stat().st_size < 2**20
    assert np.isfinite(shipped.move(shipped.average, EXPRESSIONS["anger"], 1.2, (10, -5))).all()
