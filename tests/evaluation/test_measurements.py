"""What was measured is not looked at again."""

from __future__ import annotations

import numpy as np
import pytest

from facecrafter.evaluation import measurements
from facecrafter.evaluation.images import make
from facecrafter.evaluation.judges import Judge


@pytest.fixture
def shown(tmp_path, requests_of, stub_method):
    return make(stub_method(), requests_of(5), tmp_path, progress=False).paths


def test_rows_are_the_judges_own_and_are_kept(tmp_path, shown, stub_judges, monkeypatch):
    monkeypatch.setattr(measurements, "CHUNK", 2)
    judges = stub_judges()
    measured = measurements.measure(judges, shown, tmp_path, progress=False)
    direct = stub_judges().measure([measurements.load_photo(path) for path in shown])
    for name in ("found", "pose", "expression", "identity", "emotion"):
        assert np.array_equal(getattr(measured, name), getattr(direct, name)), name
    assert judges.shown == 5
    again = measurements.measure(judges, shown, tmp_path, progress=False)
    assert judges.shown == 5
    assert np.array_equal(again.emotion, measured.emotion) and again.found.dtype == bool


def test_one_image_is_one_whether_a_file_or_an_array(tmp_path, shown, stub_judges):
    judges = stub_judges()
    measurements.measure(judges, shown, tmp_path, progress=False)
    measurements.measure(judges, np.stack([measurements.load_photo(path) for path in shown]), tmp_path, progress=False)
    assert judges.shown == 5


def test_other_judges_look_again(tmp_path, shown, stub_judges):
    measurements.measure(stub_judges(), shown, tmp_path, progress=False)
    other = stub_judges()
    other.names["emotion"] = "another"
    measurements.measure(other, shown, tmp_path, progress=False)
    assert other.shown == 5


def test_judges_of_other_code_look_again(tmp_path, shown, stub_judges, monkeypatch):
    judges = stub_judges()
    for version in ("one", "one", "other"):
        monkeypatch.setattr(measurements, "code", lambda *parts, version=version: version)
        measurements.measure(judges, shown, tmp_path, progress=False)
        measurements.features(judges, shown, tmp_path, progress=False)
    assert judges.shown == 4 * 5


def test_features_are_apart_and_kept(tmp_path, shown, stub_judges):
    judges = stub_judges()
    rows = measurements.features(judges, shown, tmp_path, progress=False)
    assert np.array_equal(rows, judges.features([measurements.load_photo(path) for path in shown]))
    assert np.array_equal(measurements.features(judges, shown, tmp_path, progress=False), rows)
    assert judges.shown == 10


def test_a_damaged_file_is_looked_at_again(tmp_path, shown, stub_judges):
    first = measurements.measure(stub_judges(), shown, tmp_path, progress=False)
    next(tmp_path.rglob("*.npz")).write_bytes(b"PK\x03\x04 cut")
    judges = stub_judges()
    assert np.array_equal(measurements.measure(judges, shown, tmp_path, progress=False).pose, first.pose)
    assert judges.shown == 1


def test_rows_of_what_was_seen(tmp_path, shown, stub_judges):
    measured = measurements.measure(stub_judges(), shown, tmp_path, progress=False)
    assert np.array_equal(measured.rows(np.array([3, 0])).pose, measured.pose[[3, 0]])
    assert measured.rows(slice(0, None, 2)).found.shape == (3,)


def test_one_more_judge_reads_faces_once_and_nothing_where_there_is_none(tmp_path, astronaut):
    asked = []

    def read(detected):
        asked.extend(detected)
        return np.array([one.points[:, :2].mean(0) for one in detected]).reshape(-1, 2)

    images = [np.zeros_like(astronaut), astronaut, astronaut]
    judge = Judge("stub net", 2, read)
    rows = measurements.by_judge(judge, images, tmp_path, progress=False)
    assert rows.shape == (3, 2) and np.isnan(rows[0]).all() and np.array_equal(rows[1], rows[2])
    assert np.abs(rows[1] - (225, 124)).max() < 20  # where the face is
    assert len(asked) == 1
    again = measurements.by_judge(judge, images, tmp_path, progress=False)
    assert len(asked) == 1 and np.array_equal(again, rows, equal_nan=True)
    measurements.by_judge(Judge("another net", 2, read), images, tmp_path, progress=False)
    assert len(asked) == 2
