"""The prepared folder: what is written comes back exactly, and what is damaged is refused with the reason."""

from __future__ import annotations

import errno
import json
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from facecrafter.data import shards
from facecrafter.errors import DataError
from facecrafter.faces.face import Face

SIZE = 32
PERSONS = ["Ann", "Ann", "Bob", "Émile"]


def made_up_face(seed: int) -> Face:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, SIZE, (478, 3)).astype(np.float32)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    return Face(image, points, rng.random(52).astype(np.float32), np.eye(4, dtype=np.float32), (1.0, 2.0, 3.0, 4.0))


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(100 + seed)
    return {
        "sface": rng.normal(size=128).astype(np.float32),
        "other": rng.normal(size=5).astype(np.float32),
        "emotion": rng.random(10).astype(np.float32),
        "mask": rng.integers(0, 256, (64, 64), np.uint8),
    }


def sample(seed: int) -> tuple[str, dict[str, bytes]]:
    arrays = arrays_of(seed)
    identity = {"sface": arrays["sface"], "other": arrays["other"]}
    png, npz = shards.encode(made_up_face(seed), identity, arrays["emotion"], arrays["mask"])
    return f"{seed:08d}", {"png": png, "npz": npz, "json": b"{}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four samples in two shards."""
    sizes = {"sface": {"dimension": 128}, "other": {"dimension": 5}}
    about = {"format": shards.FORMAT, "size": SIZE, "recognisers": sizes, "emotion": {"name": "pixels"}}
    (tmp_path / "meta.json").write_text(json.dumps(about))
    for shard in (0, 1):
        shards.shard_path(tmp_path, shard).write_bytes(shards.pack(sample(2 * shard + i) for i in (0, 1)))
    rows = [
        {
            "key": f"{i:08d}",
            "shard": i // 2,
            "person": person,
            "file": f"{person}/{i}.jpg",
            "yaw": 10.0 * i,
            "pitch": -i,
            "roll": 0.5,
        }
        for i, person in enumerate(PERSONS)
    ]
    rows = [row | {"valence": 0.1, "arousal": 0.2, "emotion": "happy", "others": 0} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "index.parquet")
    return tmp_path


@pytest.mark.parametrize(("recogniser", "dimension"), [("sface", 128), ("other", 5)])
def test_everything_comes_back_exactly_and_in_order(folder: Path, recogniser: str, dimension: int) -> None:
    prepared = shards.load(folder, recogniser)
    assert len(prepared) == 4
    assert prepared.persons == PERSONS
    assert prepared.files == [f"{person}/{i}.jpg" for i, person in enumerate(PERSONS)]
    assert prepared.identity.shape == (4, dimension)
    np.testing.assert_array_equal(prepared.angles, np.array([[10 * i, -i, 0.5] for i in range(4)], np.float32))
    for i in range(4):
        face, arrays = made_up_face(i), arrays_of(i)
        np.testing.assert_array_equal(prepared.images[i], face.image)
        np.testing.assert_array_equal(prepared.points[i], face.points)
        np.testing.assert_array_equal(prepared.blendshapes[i], face.blendshapes)
        np.testing.assert_array_equal(prepared.identity[i], arrays[recogniser])
        np.testing.assert_array_equal(prepared.emotion[i], arrays["emotion"])
        np.testing.assert_array_equal(prepared.masks[i], arrays["mask"])


def test_headers_of_arrays_are_read_by_one_thread_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, reading, most = np.load, [], []

    class Slow:
        """Arrays that take their time, and note how many are read meanwhile."""

        def __init__(self, file: Any) -> None:
            self._arrays = real(file)

        def __enter__(self) -> Any:
            reading.append(1)
            time.sleep(0.05)
            most.append(len(reading))
            return self._arrays

        def __exit__(self, *_: object) -> None:
            reading.pop()

    monkeypatch.setattr(np, "load", Slow)
    shards.load(folder, "sface")  # of two shards, by a thread each
    assert most == [1] * 4


def test_images_too_large_for_memory_are_mapped_from_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = shards.load(folder)
    monkeypatch.setattr(shards, "MEMORY", 4 * SIZE * SIZE * 3 - 1)
    mapped = shards.load(folder, "other")
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, held.images)
    np.testing.assert_array_equal(mapped.emotion, held.emotion)
    assert [path.name for path in (folder / "cache").iterdir()] == ["pictures.npy"]

    def no_more(*_: object) -> None:
        raise AssertionError("images are decoded a second time")

    monkeypatch.setattr(shards, "_decode_image", no_more)
    np.testing.assert_array_equal(shards.load(folder).images, held.images)
    (folder / "cache" / "pictures.npy").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"pictures\.npy is damaged; delete it"):
        shards.load(folder)


def test_the_file_is_no_longer_mapped_when_it_takes_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[np.memmap]] = []
    alive: list[object] = []
    open_memmap, replace = np.lib.format.open_memmap, Path.replace

    def opened(*arguments: Any, **named: Any) -> np.memmap:
        memmap = open_memmap(*arguments, **named)
        made.append(weakref.ref(memmap))
        return memmap

    def replaced(self: Path, target: Path) -> Path:
        alive.extend(one() for one in made)
        return replace(self, target)

    monkeypatch.setattr(np.lib.format, "open_memmap", opened)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(shards, "MEMORY", 0)
    shards.load(folder)
    assert alive == [None]


def test_digests_tell_images_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shards.load(folder).digests
    assert first is not None
    assert len({row.tobytes() for row in first}) == 4
    key, parts = sample(3)
    face = made_up_face(3)
    face.image[0, 0] ^= 1  # meta, index and all arrays stay as they are
    png, _ = shards.encode(face, {}, np.zeros(10, np.float32), np.zeros((64, 64), np.uint8))
    shards.shard_path(folder, 1).write_bytes(shards.pack([sample(2), (key, {**parts, "png": png})]))
    second = shards.load(folder, "other").digests
    monkeypatch.setattr(shards, "MEMORY", 0)
    for got in (second, shards.load(folder).digests):
        assert got is not None
        assert (got == first).all(1).tolist() == [True, True, True, False]


@pytest.mark.parametrize("case", ["shard gone", "images of another size"])
def test_images_that_cannot_be_unpacked_leave_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    damage, message = DAMAGE[case]
    damage(folder)
    monkeypatch.setattr(shards, "MEMORY", 0)
    with pytest.raises(DataError, match=message):
        shards.load(folder)
    assert not list((folder / "cache").iterdir())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x03\x04") + 200
    content[start : start + 50] = bytes(byte ^ 255 for byte in content[start : start + 50])
    path.write_bytes(content)


def _set_meta(folder: Path, **values: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGE = {
    "no meta": (lambda f: (f / "meta.json").unlink(), "is not a prepared folder"),
    "meta cut": (lambda f: _truncate(f / "meta.json"), "meta.json is damaged"),
    "no estimator": (lambda f: _set_meta(f, emotion={}), "meta.json is damaged"),
    "other format": (lambda f: _set_meta(f, format=99), "has format 99 and this version reads 1"),
    "not finished": (lambda f: (f / "index.parquet").unlink(), "is not finished"),
    "index cut": (lambda f: _truncate(f / "index.parquet"), "index.parquet is damaged"),
    "shard gone": (lambda f: (f / "shard-00001.tar").unlink(), "shard-00001.tar is damaged or missing"),
    "shard empty": (lambda f: (f / "shard-00001.tar").write_bytes(b""), "shard-00001.tar is damaged or missing"),
    "shard cut": (lambda f: _truncate(f / "shard-00001.tar"), "shard-00001.tar is damaged or missing"),
    "bits flipped": (lambda f: _flip(f / "shard-00000.tar"), "shard-00000.tar is damaged or missing"),
    "a sample lost": (
        lambda f: (f / "shard-00000.tar").write_bytes(shards.pack([sample(0)])),
        "shard-00000.tar is damaged or missing",
    ),
    "images of another size": (lambda f: _set_meta(f, size=16), "shard-0000[01].tar is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_sentence(folder: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        shards.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a prepared folder"):
        shards.load(tmp_path / name)


def test_a_recogniser_that_was_not_prepared_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="has no 'arcface' embeddings, only sface, other"):
        shards.load(folder, "arcface")


def test_the_same_samples_give_the_same_bytes() -> None:
    assert shards.pack([sample(0), sample(1)]) == shards.pack([sample(0), sample(1)])
    assert shards.pack([sample(0), sample(1)]) != shards.pack([sample(1), sample(0)])


def test_a_shard_streams_in_order(folder: Path) -> None:
    read = list(shards.read_shard(folder / "shard-00001.tar"))
    assert read == [sample(2), sample(3)]


def test_held_out_is_whole_people_and_about_one_in_twenty() -> None:
    persons = [f"person {i // 2}" for i in range(8000)]
    out = shards.held_out(persons)
    assert out.shape == (8000,)
    assert (out[0::2] == out[1::2]).all()
    assert 0.04 < out.mean() < 0.06


@pytest.mark.parametrize(("person", "kept_out"), [("p0", False), ("p26", True), ("Zoë 11", True)])
def test_held_out_never_changes(person: str, kept_out: bool) -> None:
    assert shards.held_out([person]).tolist() == [kept_out]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "file"
    shards.write_whole(path, b"old")

    def half(self: Path, content: bytes) -> None:
        with open(self, "wb") as file:
            file.write(content[:1])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises((DataError, KeyboardInterrupt)) as caught:
        shards.write_whole(path, b"new")
    assert isinstance(caught.value, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
