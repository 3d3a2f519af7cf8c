"""The figures of the emotion estimator, each written out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter.data.fer2013 import EmotionFaces
from facecrafter.errors import DataError, OutputError
from facecrafter.estimators.calibration import Scores, fit_temperature, log_prior
from facecrafter.evaluation import emotions
from facecrafter.evaluation.emotions import calibration_error, confusion, figures
from facecrafter.evaluation.result import read
from facecrafter.faces.emotion import CENTRES
from facecrafter.weights import sha256

RANDOM = np.random.default_rng(0)


def said(scores: np.ndarray, labels: np.ndarray) -> Scores:  # type: ignore[type-arg]
    return Scores(scores, labels, log_prior(labels))


def test_the_prior_is_how_common_classes_are_and_none_is_impossible() -> None:
    shares = np.exp(log_prior(np.array([0, 0, 0, 1])))
    assert shares[0] / shares[1] == pytest.approx(3)
    assert shares[7] == pytest.approx(0.001, rel=0.01)
    weighted = np.exp(log_prior(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 3.0])))
    assert weighted[0] == pytest.approx(weighted[1])


def test_probabilities_are_likelihood_times_prior() -> None:
    one = said(RANDOM.normal(size=(4, 8)), np.array([0, 1, 1, 2]))
    for row in range(4):
        odds = np.exp(one.scores[row] / 2) * np.exp(one.log_prior)
        np.testing.assert_allclose(one.probabilities(2.0)[row], odds / odds.sum())


def test_the_temperature_makes_sharp_scores_honest() -> None:
    truth = RANDOM.normal(size=(4000, 8))
    odds = np.exp(truth)
    labels = np.array([RANDOM.choice(8, p=row / row.sum()) for row in odds])
    flat = np.zeros(8)
    assert fit_temperature(Scores(truth, labels, flat)) == pytest.approx(1, abs=0.1)
    assert fit_temperature(Scores(3 * truth, labels, flat)) == pytest.approx(3, rel=0.1)
    honest = calibration_error(Scores(truth, labels, flat).probabilities(), labels)
    assert honest < 0.03 < 0.2 < calibration_error(Scores(3 * truth, labels, flat).probabilities(), labels)


def test_calibration_error_by_hand() -> None:
    shares = np.full((4, 8), 0.0)
    shares[:, 0] = [0.9, 0.91, 0.5, 0.52]
    shares[:, 1] = 1 - shares[:, 0]
    labels = np.array([0, 1, 0, 0])
    # Bins of a fifteenth: 0.9 and 0.91 lie in one, 0.5 and 0.52 in another.
    expected = 0.5 * abs(0.905 - 0.5) + 0.5 * abs(0.51 - 1.0)
    assert calibration_error(shares, labels) == pytest.approx(expected)


def test_the_confusion_matrix_has_people_in_rows() -> None:
    matrix = confusion(np.array([1, 1, 2]), np.array([0, 0, 2]))
    assert (matrix[0, 1], matrix[2, 2], matrix.sum()) == (2, 1, 3)


def test_balanced_accuracy_counts_classes_alike_and_knows_no_other() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    scores = np.zeros((100, 8))
    scores[:, 0] = 0.5
    scores[:, 7] = 3.0  # of which there are too few to count
    scores[95:, 1] = 1.0  # half of the rare class, which its prior then hides
    got = figures(said(scores, labels), [0, 1])
    assert got.accuracy == pytest.approx(0.9)
    assert got.balanced_accuracy == pytest.approx(0.75)
    assert got.balanced_accuracy_own_prior == pytest.approx(0.5)
    assert got.recall == {"neutral": 1.0, "happy": 0.5}
    assert got.recall_own_prior == {"neutral": 1.0, "happy": 0.0}
    assert np.sum(got.confusion) == 100
    assert "in_use" not in got
    even = np.log([0.5, 0.5] + [1e-9] * 6)
    in_use = figures(said(scores, labels), [0, 1], even).in_use
    assert in_use.accuracy == pytest.approx(0.95)
    assert in_use.recall == {"neutral": 1.0, "happy": 0.5}
    assert in_use.balanced_accuracy == pytest.approx(0.75)
    assert in_use.confusion[1][:2] == [5, 5]


class Reader:
    """Says of a crop what its first pixel says."""

    batch, path = 32, Path(__file__)
    network = SimpleNamespace(
        shape_scores=lambda shapes: torch.zeros(len(shapes), 8),
        joint_scores=lambda scores, shapes: scores,
        prior=torch.full((8,), 1 / 8),
    )

    def scores(self, crops: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        return 9 * torch.eye(8)[crops[:, 0, 0].astype(int)]

    def probabilities(self, crops: Any, shapes: Any = None) -> np.ndarray:  # type: ignore[type-arg]
        return self.scores(np.stack(crops)).double().softmax(1).numpy()


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets of 120 faces each, of which the reader takes one in ten for another. People agree on five in eight."""
    labels = np.arange(120) % 2
    crops = np.zeros((120, 48, 48), np.uint8)
    crops[:, 0, 0] = np.where(np.arange(120) % 10 == 0, 1, labels)
    faces = EmotionFaces(crops, labels, np.arange(120) % 4 < 2, ["f.jpg"] * 120, np.zeros((120, 52), np.float32))
    kept = dataclasses.replace(faces, held_out=np.arange(120) < 60)
    voted = dataclasses.replace(faces, clear=np.arange(120) % 8 < 5, blendshapes=None, held_out=np.arange(120) >= 60)
    monkeypatch.setattr(emotions, "read_ferplus", lambda *_: voted)
    monkeypatch.setattr(emotions, "read_photos", lambda *_: kept)
    monkeypatch.setattr(emotions, "ENOUGH", 30)
    monkeypatch.setattr(emotions, "vary", lambda *_: {"grey": {"found": 1.0, "distance": 0.25}})
    monkeypatch.setattr(emotions, "PixelEmotion", Reader)


@pytest.mark.usefixtures("sets")
def test_a_result_is_written_whole_and_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, out = tmp_path / "none", tmp_path / "out"
    result = emotions.evaluate(nothing, nothing, nothing, nothing, out)
    assert read(out) == result
    assert result.estimator == f"pixels ({sha256(Path(__file__))[:8]})"
    assert result.config["data"] == str(nothing) and result.config["variations"] == 200
    assert result.sets["photos"]["both"].accuracy == pytest.approx(0.9)
    counts = {name: readers["pixels"].faces for name, readers in result.sets.items()}
    assert counts == {
        "fer2013": 45,
        "fer2013_held_out": 22,
        "fer2013_unclear_too": 60,
        "photos": 60,
        "photos_held_out": 30,
    }
    assert result.variations == {"grey": {"found": 1.0, "distance": 0.25}}
    with Image.open(out / "wrong.png") as wrong:
        assert wrong.size == (1440, 360)
    before = (out / "result.json").read_bytes()
    with monkeypatch.context() as without, pytest.raises(OutputError, match=r"result\.json exists already"):
        without.setattr(emotions, "PixelEmotion", None)
        emotions.evaluate(nothing, nothing, nothing, nothing, out)

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk, pytest.raises(OutputError, match="no space left"):
        disk.setattr(Path, "write_bytes", full)
        emotions.evaluate(nothing, nothing, nothing, nothing, out, overwrite=True)
    assert (out / "result.json").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["result.json", "wrong.png"]
    emotions.evaluate(nothing, nothing, nothing, nothing, out, overwrite=True)


@pytest.mark.usefixtures("sets")
def test_the_report_names_recall_confusion_circumplex_and_variations(tmp_path: Path) -> None:
    nothing = tmp_path / "none"
    result = emotions.evaluate(nothing, nothing, nothing, nothing, tmp_path / "out", variations=0)
    assert result.variations == {}
    lines = emotions.report(result.model_copy(update={"variations": {"grey": {"found": 1.0, "pixels_distance": 0.25}}}))
    assert "photos, both: 90.0% of 60 right, 90.0% balanced; calibration error" in "\n".join(lines)
    assert "  recall: neutral 80.0%, happy 100.0%" in lines
    row = next(line.split() for line in lines if line.split()[0] == "neutral" and "happy" not in line)
    assert [int(count) for count in row[1:]] == result.sets["fer2013"]["pixels"].confusion[0]
    assert any(line.startswith("valence and arousal of happy: centre +0.81 +0.51; derived") for line in lines)
    assert lines[-1] == "grey: found 1.000, pixels distance 0.250"


def test_valence_and_arousal_of_classes_are_means_over_their_faces() -> None:
    crops = np.zeros((3, 48, 48), np.uint8)
    crops[1, 0, 0] = 1  # happy, and so people say of the third
    faces = EmotionFaces(crops, np.array([0, 1, 1]), np.ones(3, bool), ["a", "b", "c"])
    places = emotions.circumplex(Reader(), faces)  # type: ignore[arg-type]
    assert sorted(places) == ["happy", "neutral"]
    assert places["happy"]["centre"] == [0.81, 0.51]
    odds = np.exp([9.0] + [0.0] * 7)
    sure, doubt = odds[0] / odds.sum(), odds[1] / odds.sum()
    happy = sure * 0.81 + doubt * (CENTRES[:, 0].sum() - 0.81)
    neutral = doubt * CENTRES[:, 0].sum()
    assert places["happy"]["plain"][0] == pytest.approx((happy + neutral) / 2, abs=1e-6)
    entropy = -(sure * np.log(sure) + 7 * doubt * np.log(doubt)) / np.log(8)
    assert places["happy"]["derived"][0] == pytest.approx((1 - entropy**2) * (happy + neutral) / 2, abs=1e-6)


@pytest.mark.usefixtures("sets")
def test_sets_without_enough_faces_of_any_class_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emotions, "ENOUGH", 61)
    nothing = tmp_path / "none"
    with pytest.raises(DataError, match=r"no emotion has 61 labelled faces, f\.jpg"):
        emotions.evaluate(nothing, nothing, nothing, nothing, tmp_path / "out")
