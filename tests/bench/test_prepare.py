"""Preparation beside the time of its estimators."""

from __future__ import annotations

from pathlib import Path

import pytest

from facecrafter.bench import prepare as bench
from facecrafter.data import prepare as data
from facecrafter.data.prepare import Report
from facecrafter.errors import DataError


def test_rates_are_beside_what_the_estimators_take(lfw: Path) -> None:
    cost = bench.preparing(lfw, 6, [1])
    assert cost.photos == 6
    assert set(cost.estimators) == {"reading", "finding", "emotion", "mask", "identity"}
    assert all(seconds > 0 for seconds in cost.estimators.values())
    assert cost.shares[1] == pytest.approx(cost.rates[1] * sum(cost.estimators.values()))
    assert cost.rates[1] > 0
    told = bench.lines(cost)
    assert "ms a photo" in told[0] and told[1].startswith("1 process: ")


def test_photos_are_given_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lets few people make them."""
    given: dict[str, bytes] = {}

    def refuse(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    def prepare(source: Path, out: Path, **_: object) -> Report:
        given.update({path.name: path.read_bytes() for path in source.iterdir()})
        return Report(out, 2, 2, 0, 0, 1.0)

    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "a.jpg").write_bytes(b"one")
    (tmp_path / "b.PNG").write_bytes(b"two")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(data, "prepare", prepare)
    monkeypatch.setattr(bench, "_alone", lambda *_: {"finding": 0.1})
    assert bench.preparing(tmp_path, workers=[1]).rates == {1: 2.0}
    assert given == {"000000.jpg": b"one", "000001.PNG": b"two"}


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photos"):
        bench.preparing(tmp_path)
