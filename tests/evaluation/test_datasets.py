"""Sets of people: who is found in each layout, who is drawn, and what is said where there are too few."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import datasets
from facecrafter.evaluation.datasets import Photo


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def agedb(tmp_path: Path) -> Path:
    names = [f"{10 * number + photo}_Person{number:02}_{20 + photo}_f.jpg" for number in range(6) for photo in range(3)]
    return fill(tmp_path, *names, "60_Ann_de_la_Cruz_7_m.JPG", "pairs.txt", "cover.jpg", ".1_Hidden_3_m.jpg")


def test_a_person_of_agedb_is_the_name_between_number_and_age(agedb: Path) -> None:
    photos = datasets.agedb(agedb, 7, every=True)
    assert [photo.person for photo in photos] == ["Ann_de_la_Cruz", *(f"Person{n:02}" for n in range(6) for _ in "abc")]
    assert photos[0] == Photo("Ann_de_la_Cruz", agedb / "60_Ann_de_la_Cruz_7_m.JPG")
    assert [photo.path.name for photo in photos[1:4]] == [f"{n}_Person00_{20 + n}_f.jpg" for n in range(3)]


def test_agedb_in_folders(tmp_path: Path) -> None:
    fill(tmp_path, "id_0/0_Ann_35_f.jpg", "id_1/1_Bob_35_m.jpg", "__MACOSX/.2_Cid_1_m.jpg")
    assert [photo.person for photo in datasets.agedb(tmp_path, 2)] == ["Ann", "Bob"]


def test_people_and_photos_are_drawn_by_the_seed(agedb: Path) -> None:
    one = datasets.agedb(agedb, 4, seed=1)
    assert one == datasets.agedb(agedb, 4, seed=1)
    assert len({photo.person for photo in one}) == len(one) == 4
    assert [photo.person for photo in one] == sorted(photo.person for photo in one)
    draws = [tuple(datasets.agedb(agedb, 4, seed=seed)) for seed in range(40)]
    assert len({tuple(photo.person for photo in draw) for draw in draws}) > 10
    assert len({photo.path for draw in draws for photo in draw}) == 19  # every photo of everybody comes up
    assert {photo.person for photo in datasets.agedb(agedb, 4, seed=1, every=True)} == {photo.person for photo in one}


def test_synth_is_one_image_a_person(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number:03}.png" for number in range(500)), "notes.md")
    photos = datasets.synth(tmp_path)
    assert photos == [Photo(f"{number:03}", tmp_path / f"{number:03}.png") for number in range(500)]
    assert len(datasets.synth(tmp_path, 20)) == 20


def test_in_a_plain_folder_folders_are_people(tmp_path: Path) -> None:
    fill(tmp_path, "Ann/1.jpg", "Ann/2.webp", "Bob/1.PNG", "Cid.jpeg", "Ann/list.csv", ".cache/3.jpg", "Ann/.4.jpg")
    photos = datasets.plain(tmp_path, every=True)
    found = [(photo.person, photo.path.relative_to(tmp_path).as_posix()) for photo in photos]
    assert found == [("Ann", "Ann/1.jpg"), ("Ann", "Ann/2.webp"), ("Bob", "Bob/1.PNG"), ("Cid", "Cid.jpeg")]
    assert [photo.person for photo in datasets.plain(tmp_path)] == ["Ann", "Bob", "Cid"]


def test_people_kept_out_of_a_prepared_folder(prepared: Prepared) -> None:
    assert datasets.of_prepared(prepared) == [("Ida", 3)]
    many = [f"person {number}" for number in range(200) for _ in range(3)]
    wide = dataclasses.replace(prepared, persons=many, files=many)
    out = set(np.array(many)[held_out(many)])
    rows = datasets.of_prepared(wide, 5, seed=2)
    assert rows == datasets.of_prepared(wide, 5, seed=2) != datasets.of_prepared(wide, 5, seed=3)
    assert len({person for person, _ in rows}) == 5
    assert all(many[row] == person and person in out for person, row in rows)
    assert {person for person, _ in datasets.of_prepared(wide)} == out


def test_every_layout_has_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "0_Ann_35_f.jpg")
    people = {name: layout(tmp_path, 1)[0].person for name, layout in datasets.LAYOUTS.items()}
    assert people == {"plain": "0_Ann_35_f", "synth": "0_Ann_35_f", "agedb": "Ann"}


def nothing(folder: Path) -> Path:
    return folder / "nowhere"


def file(folder: Path) -> Path:
    return fill(folder, "a.jpg") / "a.jpg"


def other(folder: Path) -> Path:
    return fill(folder, "a.txt", "b.csv")


def few(folder: Path) -> Path:
    return fill(folder, "0_Ann_35_f.jpg", "1_Ann_36_f.jpg")


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (nothing, "there is no folder"),
    "a file": (file, "there is no folder"),
    "no images": (other, "has no images of people in the layout asked for"),
    "an empty folder": (lambda folder: folder, "has no images of people in the layout asked for"),
}


@pytest.mark.parametrize("layout", datasets.LAYOUTS)
@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_one_sentence(case: str, layout: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    with pytest.raises(DataError, match=words) as raised:
        datasets.LAYOUTS[layout](make(tmp_path))
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_too_few_people_are_said(tmp_path: Path, prepared: Prepared) -> None:
    with pytest.raises(DataError, match=r"500 people are asked for, and .* has 1;"):
        datasets.agedb(few(tmp_path))
    with pytest.raises(DataError, match=r"3 people are asked for, and .* has 2;"):
        datasets.plain(tmp_path, 3)
    with pytest.raises(DataError, match="2 people are asked for, and the prepared folder has 1;"):
        datasets.of_prepared(prepared, 2)
