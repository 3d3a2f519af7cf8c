from __future__ import annotations

import pytest

from facecrafter.errors import PhotoError
from facecrafter.studio.photos import Photos, UnknownPhotoError, plain_name


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("me.jpg", "me.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\me.jpg", "me.jpg"),
        ("/", "photo"),
        ("", "photo"),
        ("..", "photo"),
        ("--out", "out"),
        ("a\x1b[2Jb\n.png", "a[2Jb.png"),
        ("Jürgen 😀.png", "Jürgen 😀.png"),
        ("x" * 300 + ".jpeg", "x" * 74 + ".jpeg"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_clients_name_is_never_a_place(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_the_photos_used_least_recently_are_forgotten() -> None:
    photos = Photos(most_bytes=10)
    one, two = photos.add(b"1" * 4, "a"), photos.add(b"2" * 4, "b")
    assert photos.get(one.sha256) is one
    photos.add(b"3" * 4, "c")
    assert photos.get(one.sha256) is one
    with pytest.raises(UnknownPhotoError, match="send it again"):
        photos.get(two.sha256)


def test_an_empty_photo_and_a_large_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facecrafter.studio.photos.MOST_PHOTO_BYTES", 2**20)
    with pytest.raises(PhotoError, match=r"a\.jpg is empty"):
        Photos().add(b"", "a.jpg")
    with pytest.raises(PhotoError, match="more than the 1 MiB"):
        Photos().add(b"x" * (2**20 + 1), "a.jpg")


def test_the_same_photo_is_held_once_under_its_last_name() -> None:
    photos = Photos()
    first = photos.add(b"x", "a.jpg")
    assert photos.add(b"x", "b.jpg") == first or photos.get(first.sha256).path.name == "b.jpg"
    assert photos.get(first.sha256).path.name == "b.jpg"
