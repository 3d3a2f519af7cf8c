"""What was seen is not looked at again."""

from __future__ import annotations

import numpy as np
import pytest

from facecrafter.evaluation import looks
from facecrafter.evaluation.pictures import make


@pytest.fixture
def shown(tmp_path, requests_of, stub_method):
    return make(stub_method(), requests_of(5), tmp_path, progress=False).paths


def test_rows_are_the_eyes_own_and_are_kept(tmp_path, shown, stub_eyes, monkeypatch):
    monkeypatch.setattr(looks, "CHUNK", 2)
    eyes = stub_eyes()
    seen = looks.look(eyes, shown, tmp_path, progress=False)
    direct = stub_eyes().look([looks.load_photo(path) for path in shown])
    for name in ("found", "pose", "expression", "identity", "emotion"):
        assert np.array_equal(getattr(seen, name), getattr(direct, name)), name
    assert eyes.shown == 5
    again = looks.look(eyes, shown, tmp_path, progress=False)
    assert eyes.shown == 5
    assert np.array_equal(again.emotion, seen.emotion) and again.found.dtype == bool


def test_one_picture_is_one_whether_a_file_or_an_array(tmp_path, shown, stub_eyes):
    eyes = stub_eyes()
    looks.look(eyes, shown, tmp_path, progress=False)
    looks.look(eyes, np.stack([looks.load_photo(path) for path in shown]), tmp_path, progress=False)
    assert eyes.shown == 5


def test_other_eyes_look_again(tmp_path, shown, stub_eyes):
    looks.look(stub_eyes(), shown, tmp_path, progress=False)
    other = stub_eyes()
    other.names["emotion"] = "another"
    looks.look(other, shown, tmp_path, progress=False)
    assert other.shown == 5


def test_features_are_apart_and_kept(tmp_path, shown, stub_eyes):
    eyes = stub_eyes()
    rows = looks.features(eyes, shown, tmp_path, progress=False)
    assert np.array_equal(rows, eyes.features([looks.load_photo(path) for path in shown]))
    assert np.array_equal(looks.features(eyes, shown, tmp_path, progress=False), rows)
    assert eyes.shown == 10


def test_a_damaged_file_is_looked_at_again(tmp_path, shown, stub_eyes):
    first = looks.look(stub_eyes(), shown, tmp_path, progress=False)
    next(tmp_path.rglob("*.npz")).write_bytes(b"PK\x03\x04 cut")
    eyes = stub_eyes()
    assert np.array_equal(looks.look(eyes, shown, tmp_path, progress=False).pose, first.pose)
    assert eyes.shown == 1


def test_rows_of_what_was_seen(tmp_path, shown, stub_eyes):
    seen = looks.look(stub_eyes(), shown, tmp_path, progress=False)
    assert np.array_equal(seen.rows(np.array([3, 0])).pose, seen.pose[[3, 0]])
    assert seen.rows(slice(0, None, 2)).found.shape == (3,)
