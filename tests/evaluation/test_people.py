"""People who do not exist, read by a network that guided none of them, in a folder whose answer is known."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import shards
from facecrafter.errors import DataError, WeightsError
from facecrafter.estimators.face_api import CLASSES
from facecrafter.evaluation import people
from facecrafter.evaluation.people import Asked

# Of two people a shard, in three shards: the file, what was asked, what the estimator read, and what the network reads.
IMAGES = (
    ("00-plain", "plain", "neutral", "neutral"),
    ("01-happy", "happy", "happy", "happy"),
    ("02-fear", "fear", "fear", "surprise"),
    ("03-contempt", "contempt", "contempt", "sad"),
)


class Reader:
    """Reads an image's class from its first pixel, which says it."""

    def read(self, images: list[NDArray[np.uint8]], points: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        assert all(one.shape == (478, 3) for one in points) and all(one.shape == (8, 8, 3) for one in images)
        return np.eye(len(CLASSES))[[int(one[0, 0, 2]) for one in images]].reshape(-1, len(CLASSES))


def sample(number: int, place: int, person: str) -> tuple[str, dict[str, bytes]]:
    file, asked, likeliest, read = IMAGES[place]
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, 2] = CLASSES.index(read)
    if number == 5 and asked == "fear":
        pixels[0, 0, 2] = CLASSES.index("fear")
    png, arrays = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    np.savez(arrays, points=np.zeros((478, 3), np.float32))
    origin = {"asked": asked, "likeliest": likeliest}
    about = {"person": person, "file": f"{person}/{file}.png", "synthesis": origin}
    parts = {"png": png.getvalue(), "npz": arrays.getvalue(), "json": json.dumps(about).encode()}
    return f"{number:07d}-{place:02d}", parts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six people in three shards."""
    index: dict[str, list[object]] = {"key": [], "shard": [], "person": []}
    for shard in range(3):
        samples = []
        for number in (2 * shard, 2 * shard + 1):
            for place in range(len(IMAGES)):
                samples.append(sample(number, place, f"synthetic-{number}"))
                for name, value in (("key", samples[-1][0]), ("shard", shard), ("person", f"synthetic-{number}")):
                    index[name].append(value)
        shards.shard_path(tmp_path, shard).write_bytes(shards.pack(samples))
    monkeypatch.setattr(shards, "read_meta", lambda _: {"synthesis": {}})
    monkeypatch.setattr(shards, "read_index", lambda _: index)
    return tmp_path


def test_what_was_asked_is_set_beside_what_is_read(folder: Path) -> None:
    found = people.read(folder, 100, Reader(), progress=False)
    assert len(found) == 6 * 3  # the plain image was asked for nothing
    assert found[:3] == [
        Asked("synthetic-0", "happy", "happy", "happy"),
        Asked("synthetic-0", "fear", "fear", "surprise"),
        Asked("synthetic-0", "contempt", "contempt", "sad"),
    ]
    lines = people.as_markdown(found).splitlines()
    cells = {line.strip("| ").split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in lines}
    assert cells["happy"] == ["6", "100 % [100, 100]", "100 % [100, 100]"]
    assert cells["fear"][:2] == ["6", "100 % [100, 100]"] and cells["fear"][2].startswith("17 % [0, ")
    assert cells["contempt"] == ["6", "100 % [100, 100]", "not known to it"]
    assert cells["sad"] == ["0", "none", "none"]
    assert cells["all seven"][:2] == ["12", "100 % [100, 100]"] and cells["all seven"][2].startswith("58 % [")
    assert all(line.count("|") == 5 for line in lines)


def test_shards_of_people_who_are_not_asked_for_are_not_opened(folder: Path) -> None:
    shards.shard_path(folder, 2).unlink()
    found = people.read(folder, 3, Reader(), progress=False)
    assert {one.person for one in found} == {"synthetic-0", "synthetic-1", "synthetic-2"}
    with pytest.raises(DataError, match=r"shard-00002\.tar is damaged or missing"):
        people.read(folder, 5, Reader(), progress=False)


def test_photos_are_refused_and_so_are_missing_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"facecrafter weights fetch face_expression$"):
        people.read(folder, 3, progress=False)
    monkeypatch.setattr(shards, "read_meta", lambda _: {"format": 1})
    with pytest.raises(DataError, match="is prepared from photos; name a folder that `facecrafter data synthesise`"):
        people.read(folder, 3, Reader(), progress=False)
