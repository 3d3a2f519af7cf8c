"""Readers of expressions: labels of a set, recall, and a run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_maker
import numpy as np
import pytest
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.data.fer2013 import EmotionFaces
from facecrafter.datasets import experiment, expressions
from facecrafter.datasets.expressions import compare_readers, made_faces, mean_recall, reader_lines
from facecrafter.datasets.plan import Plan
from facecrafter.errors import DataError
from facecrafter.faces.emotion import EMOTIONS


def faces(labels: list[str], seed: int = 0) -> EmotionFaces:
    """Crops whose brightness follows the class."""
    numbers = np.array([EMOTIONS.index(one) for one in labels])
    noise = np.random.default_rng(seed).integers(0, 20, (len(labels), 48, 48))
    crops = (30 * numbers[:, None, None] + noise).astype(np.uint8)
    return EmotionFaces(
        crops, numbers, np.zeros(len(labels), np.bool_), [f"{seed}-{row}" for row in range(len(labels))]
    )


def test_labels_of_a_set_are_what_was_asked_for(planned: Callable[..., Plan], tmp_path: Path) -> None:
    emotion = ["joyful", "sad:0.7", {"valence": 0.5, "arousal": 0.3}, "free"]
    plan = planned(cells={"emotion": emotion}, a_person=2)
    fake_maker.made(plan, tmp_path / "set")
    found = made_faces(tmp_path / "set")
    wanted = {row.id: plan.cells[row.cell].emotion for number in range(plan.shards) for row in plan.rows(number)}
    asked = [wanted[file.removesuffix(".png")] for file in found.files]
    assert set(asked) == {"joyful", "sad:0.7"} and found.crops.shape == (len(asked), 48, 48)
    classes = {"joyful": "happiness", "sad:0.7": "sadness"}
    names = {EMOTIONS[label] for label in found.labels}
    assert len(names) == 2
    assert all(EMOTIONS[label].startswith(classes[word][:3]) for label, word in zip(found.labels, asked, strict=True))


def test_a_set_without_emotions_is_refused(planned: Callable[..., Plan], tmp_path: Path) -> None:
    fake_maker.made(planned(cells={"emotion": ["free"]}, a_person=2), tmp_path / "set")
    with pytest.raises(DataError, match="has no image with an emotion in words"):
        made_faces(tmp_path / "set")


def test_recall_counts_every_class_alike() -> None:
    labels = np.array([0, 0, 0, 1])
    assert mean_recall(np.array([True, True, False, False]), labels) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_recall(np.array([False, False, False, True]), labels) == 0.5


def test_readers_learn_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "BATCH", 16)
    first, second = EMOTIONS[0], EMOTIONS[7]
    photos, made = faces([first] * 9 + [second] * 9), faces([second] * 6, 1)
    test = faces([first] * 4 + [second] * 4, 2)
    found = compare_readers(photos, made, test, tmp_path, steps=12)
    assert (found.images, found.tested) == (6, 8)
    assert found.classes["made"] == {second: 6} and sum(found.classes["both"].values()) == 12
    assert found.recall["made"].value == 0.5  # it knows of one class alone
    assert found.accuracy["photos"].value > 0.9 and found.recall["photos"].value > 0.9
    assert found.differences["made"].value == pytest.approx(0.5 - found.recall["photos"].value)
    assert f"6 {second}" in " ".join(reader_lines(found))
    trained: list[str] = []
    real = expressions.fitted
    monkeypatch.setattr(expressions, "fitted", lambda *given: (trained.append(given[-1]), real(*given))[1])
    next(tmp_path.glob("expressions-both-*")).unlink()
    assert compare_readers(photos, made, test, tmp_path, steps=12) == found  # to the bit
    assert trained == ["expressions, both"]


def test_some_of_the_options_alone_are_refused(tmp_path: Path) -> None:
    given: list[Any] = ["dataset", "experiment", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*given, "--fer", str(tmp_path)])
    assert done.exit_code == 1 and "give all three, or none" in done.output
