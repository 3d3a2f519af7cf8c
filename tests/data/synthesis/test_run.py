"""A folder of people: it loads as any prepared one, goes on where it was, and depends on seed and number alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.prepare.reader import Accepted, Rejected, Result
from facecrafter.data.synthesis import run
from facecrafter.data.synthesis.people import EXPRESSIONS, Edit, Made, Maker, Recipe
from facecrafter.data.synthesis.readings import Reader, Reading
from facecrafter.data.synthesis.run import Synthesised, synthesise
from facecrafter.errors import ConfigError, DataError, WeightsError
from facecrafter.faces.face import Face

needs_generator = pytest.mark.skipif(
    weights.find("face_generator_synthesis") is None,
    reason="needs the face generator: facecrafter weights fetch face_generator_synthesis",
)


@pytest.fixture(scope="module")
def reading(face: Face) -> Reading:
    with Reader() as reader:
        found = reader.read(face.image)
    assert found is not None
    return found


class Stub:
    """A maker of people who are all of one face, each in a plain image and one of anger; every third is left out."""

    made: ClassVar[list[int]] = []

    def __init__(self, recipe: Recipe, reading: Reading) -> None:
        self.maker = Maker.__new__(Maker)
        self.maker.recipe, self.reading = recipe, reading

    def read(self, number: int) -> list[Result]:
        Stub.made.append(number)
        name = f"synthetic-{self.maker.recipe.seed}-{number:07d}"
        if number % 3 == 2:
            return [Rejected(name, "no face found")]
        anger = Edit("anger", EXPRESSIONS["anger"], 1.0, (0.0, 0.0), "anger", 0.5)
        images = [Made(None, 0.0, self.reading, 1.0, 1.0, 30.0), Made(anger, 1.2, self.reading, 0.6, 0.95, 30.0)]
        found: list[Result] = [self.maker.accepted(number, place, name, one) for place, one in enumerate(images)]
        return [*found, Rejected(f"{name}/fear", "at no strength")]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def stubbed(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    Stub.made = []
    monkeypatch.setattr(run, "_check_files", lambda file: None)
    monkeypatch.setattr(run, "maker", lambda recipe, file: Stub(recipe, reading))
    monkeypatch.setattr(run, "SHARD", 3)


def made(out: Path, people: int = 6, seed: int = 0, overwrite: bool = False) -> Synthesised:
    return synthesise(out, people=people, seed=seed, overwrite=overwrite, size=64, workers=1, progress=False)


def test_a_folder_loads_as_any_prepared_one(tmp_path: Path, reading: Reading) -> None:
    done = made(tmp_path / "out")
    assert (done.people, done.images, done.rejected, done.resumed) == (6, 8, 6, 0)
    loaded = shards.load(tmp_path / "out")
    assert loaded.images.shape == (8, 64, 64, 3)
    assert len(set(loaded.persons)) == 4
    np.testing.assert_array_equal(loaded.identity[0], reading.dlib)
    np.testing.assert_allclose(loaded.angles[0], reading.face.angles, atol=1e-4)
    np.testing.assert_array_equal(shards.load(tmp_path / "out", "sface").identity[0], reading.sface)
    assert loaded.files[1] == "synthetic-0-0000000/01-anger.png"


def test_the_report_counts_what_was_kept(tmp_path: Path) -> None:
    made(tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["people"] == {"tried": 6, "kept": 4, "left out": {"no face found": 2}}
    assert numbers["edits"]["anger"]["images"] == 4
    assert numbers["edits"]["anger"]["sface"] == [pytest.approx(0.6), pytest.approx(0.6)]
    assert numbers["edits"]["anger"]["read as asked"] in (0, 1)
    assert sum(numbers["emotion"].values()) == 8
    assert sum(numbers["skin tone"].values()) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 of 6 people were kept" in page
    assert "http" not in page.replace("http-equiv", "")


def test_more_people_go_on_and_give_what_one_run_gives(tmp_path: Path) -> None:
    made(tmp_path / "one", 8)
    made(tmp_path / "two", 4)
    Stub.made.clear()
    done = made(tmp_path / "two", 8)
    assert Stub.made == [3, 4, 5, 6, 7]  # the shard that was not full is made again
    assert done.resumed == 3
    for name in ("shard-00000.tar", "shard-00001.tar", "shard-00002.tar", "index.parquet", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_last_shard_that_could_not_be_written_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "one", 6)
    made(tmp_path / "two", 4)

    def full(samples: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(shards, "pack", full)
        with pytest.raises(MemoryError):
            made(tmp_path / "two", 6)
    Stub.made.clear()
    assert made(tmp_path / "two", 6).resumed == 3
    assert Stub.made == [3, 4, 5]
    for name in ("shard-00001.tar", "shard-00001.json", "index.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_finished_folder_makes_nobody(tmp_path: Path) -> None:
    made(tmp_path / "out")
    Stub.made.clear()
    assert made(tmp_path / "out").resumed == 6
    assert made(tmp_path / "out", 3).images == 8
    assert Stub.made == []


def test_an_interrupt_keeps_whole_shards_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Stub.read

    def stopped(self: Stub, number: int) -> list[Result]:
        if number == 4:
            raise KeyboardInterrupt
        return read(self, number)

    monkeypatch.setattr(Stub, "read", stopped)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        made(tmp_path / "out")
    assert "3 of 6 people are done and kept" in interrupt.value.__notes__[0]
    assert len(shards.load(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": 0}, "people 0 is outside"),
        ({"seed": -1}, "seed -1 is outside"),
        ({"workers": -1}, "workers -1 is negative"),
        ({"size": 16}, "size 16 is outside 32 to 512"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesise(tmp_path / "out", progress=False, **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        made(tmp_path / "file")
    with pytest.raises(DataError, match="not empty"):
        made(tmp_path)
    made(tmp_path / "out")
    with pytest.raises(DataError, match="was begun with the seed 0, not 1; name another folder, or give --overwrite"):
        made(tmp_path / "out", seed=1)
    assert made(tmp_path / "out", seed=1, overwrite=True).images == 8
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    (tmp_path / "photos").mkdir()
    del meta["synthesis"]
    (tmp_path / "photos" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="another kind of prepared folder; name a new one for people who do not"):
        made(tmp_path / "photos")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("directions", "with another file of directions"),
        ("generator", "with other weights for synthesis"),
        ("least", "by another version, which chose people otherwise"),
    ],
)
def test_what_makes_other_people_is_named(tmp_path: Path, name: str, message: str) -> None:
    made(tmp_path / "out", people=1)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    meta["synthesis"][name] = "another"
    (tmp_path / "out" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=f"was begun {message}; name another folder"):
        made(tmp_path / "out", people=1)


def test_without_the_generator_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(weights, "find", lambda name: None)
    weights.locate.cache_clear()
    with pytest.raises(WeightsError, match="facecrafter weights fetch face_generator_mapping"):
        made(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_generator
def test_a_person_depends_on_seed_and_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    one, other = run.maker(Recipe(3, 64)), run.maker(Recipe(3, 64))
    other.read(4)
    first, second = one.read(5), other.read(5)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a == b
        if isinstance(a, Accepted):
            assert json.loads(a.parts["json"])["synthesis"]["sface"] >= 0.45
