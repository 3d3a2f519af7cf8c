from __future__ import annotations

import pytest

from facecrafter.errors import PhotoError
from facecrafter.faces.photo_file import HeldPhoto
from facecrafter.studio.photos import ENTRY_BYTES, Photos, UnknownPhotoError, photo_id, plain_name
from facecrafter.studio.worker import Busy


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
    photos = Photos(most_bytes=2 * (ENTRY_BYTES + 4))
    one, two = photos.add(b"1" * 4, "a"), photos.add(b"2" * 4, "b")
    assert photos.get(photo_id(one)) is one
    photos.add(b"3" * 4, "c")
    assert photos.get(photo_id(one)) is one
    with pytest.raises(UnknownPhotoError, match="send it again"):
        photos.get(photo_id(two))


def test_an_empty_photo_and_a_large_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facecrafter.studio.photos.MOST_PHOTO_BYTES", 2**20)
    with pytest.raises(PhotoError, match=r"a\.jpg is empty"):
        Photos().add(b"", "a.jpg")
    with pytest.raises(PhotoError, match="more than the 1 MiB"):
        Photos().add(b"x" * (2**20 + 1), "a.jpg")


def test_the_same_content_keeps_every_name_and_is_held_once() -> None:
    photos = Photos(most_bytes=100 + 3 * ENTRY_BYTES)
    first, second = photos.add(b"x" * 100, "a.jpg"), photos.add(bytearray(b"x" * 100), "b.jpg")
    assert [photos.get(photo_id(one)).path.name for one in (first, second)] == ["a.jpg", "b.jpg"]
    assert photo_id(first) != photo_id(second)
    assert (first.sha256, first.content) == (second.sha256, second.content)
    assert second.content is first.content
    assert photos.add(b"x" * 100, "folder/a.jpg") is first
    # The content goes with the last of its names, and counts until then.
    photos.add(b"y" * 100, "c.jpg")
    assert photos.add(b"x" * 100, "a.jpg") is first
    with pytest.raises(UnknownPhotoError):
        photos.get(photo_id(second))


def test_small_photos_are_not_held_without_number() -> None:
    photos = Photos(most_bytes=10 * ENTRY_BYTES)
    ids = [photo_id(photos.add(b"x", f"{number}.jpg")) for number in range(20)]
    with pytest.raises(UnknownPhotoError):
        photos.get(ids[10])
    assert photos.get(ids[11]).path.name == "11.jpg"


def test_what_jobs_need_is_held_and_counts() -> None:
    photos = Photos(most_bytes=3 * (ENTRY_BYTES + 100))
    first, second = (photos.add(bytes([number]) * 100, f"{number}.jpg") for number in (1, 2))
    held = {photo_id(one): one for one in (first, second)}
    photos.keep(held)
    photos.keep({photo_id(first): first})
    photos.let_go(held)  # a second job needs the first photo still
    for number in range(3, 10):
        photos.add(bytes([number]) * 100, f"{number}.jpg")
    assert photos.get(photo_id(first)) is first
    with pytest.raises(UnknownPhotoError):
        photos.get(photo_id(second))
    photos.keep(held)  # a job's photo that was forgotten meanwhile is held again
    assert photos.get(photo_id(second)).content == second.content


def test_a_photo_is_refused_while_jobs_need_all_that_is_held() -> None:
    photos = Photos(most_bytes=2 * (ENTRY_BYTES + 100))
    held = {photo_id(one): one for one in (photos.add(b"1" * 100, "1.jpg"), photos.add(b"2" * 100, "2.jpg"))}
    photos.keep(held)
    with pytest.raises(Busy, match=r"jobs that wait take up all the place; ask again in 5 s"):
        photos.add(b"3" * 100, "3.jpg")
    other = {photo_id(one): one for one in (HeldPhoto.of(b"x", "x.jpg"), HeldPhoto.of(b"4" * 100, "4.jpg"))}
    with pytest.raises(Busy):
        photos.keep({**held, **other})
    assert all(photos.get(one) for one in held)
    photos.let_go(held)
    photos.add(b"3" * 100, "3.jpg")  # and nothing of what was refused is kept
    photos.add(b"4" * 100, "4.jpg")
    with pytest.raises(UnknownPhotoError):
        photos.get(next(iter(held)))
