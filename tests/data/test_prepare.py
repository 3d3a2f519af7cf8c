"""Photos to a prepared folder: right numbers, the same bytes however it ran, one sentence for all that is wrong."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pillow_heif
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from facecrafter.data import shards, video
from facecrafter.data.prepare import Report, prepare, renew_emotions, stopping, workers
from facecrafter.data.prepare import folder as folders
from facecrafter.data.prepare import reader as readers
from facecrafter.data.prepare import run as runs
from facecrafter.data.prepare import source as sources
from facecrafter.errors import ConfigError, DataError, FaceCrafterError, PhotoError, WeightsError
from facecrafter.estimators import emotion_estimator, face_finder, identity
from facecrafter.faces import emotion, face, photo, segmentation

LFW = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "lfw-deepfunneled.tar.gz"


def run(source: Path, out: Path, **options: Any) -> Report:
    return prepare(
        source,
        out,
        **{"workers": 1, "recognisers": ("sface",), "size": 64, "shard_size": 2, "progress": False, **options},
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.astronaut()).crop((96, 0, 352, 256))


@pytest.fixture(scope="module")
def people(astronaut: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good photos of three persons, and five files that are none."""
    folder = tmp_path_factory.mktemp("people")
    for name in ("Ann", "Bob", "Empty", ".hidden"):
        (folder / name).mkdir()
    astronaut.save(folder / "Ann" / "Ann_0001.jpg", quality=95)
    astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("L").save(folder / "Ann" / "Ann.0002.png")
    astronaut.resize((180, 180)).save(folder / "Bob" / "Bob.jpg", quality=95)
    astronaut.save(folder / "Übung.jpg", quality=95)
    (folder / "Ann" / "cut.jpg").write_bytes((folder / "Ann" / "Ann_0001.jpg").read_bytes()[:4000])
    Image.new("RGB", (200, 150), "grey").save(folder / "Bob" / "wall.jpg")
    (folder / "Bob" / "empty.png").write_bytes(b"")
    (folder / "notes, with comma.txt").write_text("no image")
    (folder / ".hidden" / "a.jpg").write_text("never seen")
    (folder / ".DS_Store").write_text("never seen")
    return folder


@pytest.fixture(scope="module")
def prepared(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "new" / "folder"
    report = run(people, out)
    assert (report.photos, report.prepared, report.rejected, report.resumed) == (8, 4, 4, 0)
    return out


def test_bad_photos_are_listed_and_the_rest_comes_through(prepared: Path, people: Path) -> None:
    with open(prepared / "rejected.csv", newline="", encoding="utf-8") as file:
        rejected = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert list(rejected) == ["Ann/cut.jpg", "Bob/empty.png", "Bob/wall.jpg", "notes, with comma.txt"]
    assert "damaged" in rejected["Ann/cut.jpg"]
    assert "no face found in Bob/wall.jpg (200x150)" in rejected["Bob/wall.jpg"]
    assert "is not an image" in rejected["Bob/empty.png"]
    assert "is not an image" in rejected["notes, with comma.txt"]
    assert not any(str(people) in reason for reason in rejected.values())


def test_numbers_are_those_of_the_estimators(prepared: Path, people: Path) -> None:
    loaded = shards.load(prepared)
    assert loaded.persons == ["Ann", "Ann", "Bob", "Übung"]
    assert loaded.files == ["Ann/Ann.0002.png", "Ann/Ann_0001.jpg", "Bob/Bob.jpg", "Übung.jpg"]
    with face_finder.FaceFinder() as finder:
        found = finder.find(face.load_photo(people / "Bob" / "Bob.jpg"), 256, "centre")
    np.testing.assert_array_equal(loaded.images[2], found.resized(64).image)
    np.testing.assert_allclose(loaded.points[2], found.points / 4, atol=1e-4)
    np.testing.assert_allclose(loaded.blendshapes[2], found.blendshapes, atol=1e-6)
    np.testing.assert_allclose(loaded.angles[2], found.angles, atol=1e-4)
    np.testing.assert_allclose(loaded.identity[2], identity.recogniser("sface").embed([found])[0], atol=1e-4)
    np.testing.assert_allclose(loaded.emotion[2], emotion_estimator.estimator().estimate([found])[0].vector, atol=1e-6)
    np.testing.assert_allclose(loaded.masks[2] / 255, segmentation.face_mask(found, 64), atol=1 / 255)
    assert loaded.identity[2] @ loaded.identity[3] > 0.9


def test_index_and_meta_say_what_is_there(prepared: Path) -> None:
    rows = pyarrow.parquet.read_table(prepared / "index.parquet").to_pylist()
    assert list(rows[0]) == list(shards.INDEX_COLUMNS)
    assert [(row["key"], row["shard"]) for row in rows] == [
        ("00000000", 0),
        ("00000001", 0),
        ("00000003", 1),
        ("00000007", 3),
    ]
    assert rows[2]["emotion"] in emotion.EMOTIONS
    assert rows[2]["others"] == 0
    meta = json.loads((prepared / "meta.json").read_text())
    assert meta["size"] == 64
    assert meta["recognisers"]["sface"]["dimension"] == 128
    for estimator in (meta["recognisers"]["sface"], meta["landmarks"], meta["emotion"]):
        assert len(estimator["sha256"]) == 64


def test_a_sample_holds_person_file_box_and_others(prepared: Path) -> None:
    (key, parts), *rest = shards.read_shard(prepared / "shard-00001.tar")
    assert (key, rest) == ("00000003", [])
    about = json.loads(parts["json"])
    assert (about["person"], about["file"], about["others"]) == ("Bob", "Bob/Bob.jpg", 0)
    left, top, right, bottom = about["box"]
    assert 0 < left < right < 180
    assert 0 < top < bottom < 180
    with Image.open(io.BytesIO(parts["png"])) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_webdataset_reads_the_shards(prepared: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    names = [str(shards.shard_path(prepared, number)) for number in (0, 1, 3)]
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == ["00000000", "00000001", "00000003", "00000007"]
    assert samples[3]["png"].shape == (64, 64, 3)
    assert samples[3]["npz"]["identity_sface"].shape == (128,)
    assert samples[3]["json"]["person"] == "Übung"


@pytest.mark.parametrize("size", [96, 300])
def test_size_scales_image_and_points_alike(people: Path, prepared: Path, tmp_path: Path, size: int) -> None:
    run(people / "Bob", tmp_path / "out", size=size)
    large, small = shards.load(tmp_path / "out"), shards.load(prepared)
    assert large.images.shape == (1, size, size, 3)
    np.testing.assert_allclose(large.points[0] / size, small.points[2] / 64, atol=1e-5)
    np.testing.assert_allclose(large.identity[0], small.identity[2], atol=0.02)


def test_two_workers_write_the_same_bytes_as_one(people: Path, prepared: Path, tmp_path: Path) -> None:
    run(people, tmp_path / "out", workers=2)
    assert content(tmp_path / "out") == content(prepared)


@pytest.mark.parametrize("kind", ["gztar", "zip"])
def test_an_archive_is_read_like_the_folder_in_it(people: Path, prepared: Path, tmp_path: Path, kind: str) -> None:
    visible = tmp_path / "visible"
    shutil.copytree(people, visible / "people", ignore=shutil.ignore_patterns(".*"))
    archive = shutil.make_archive(str(tmp_path / "archive"), kind, visible, "people")
    run(Path(archive), tmp_path / "out")
    assert content(tmp_path / "out") == content(prepared)


def _tar(path: Path, *members: tuple[str, bytes, str]) -> tarfile.TarFile:
    """A tar of members: a name, a type, and what a link points to or a file holds."""
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, file = kind, None
            if kind == tarfile.REGTYPE:
                member.size, file = len(content), io.BytesIO(content.encode())
            else:
                member.linkname = content
            archive.addfile(member, file)
    return tarfile.open(path)


def test_of_a_tar_only_files_are_written_and_links_are_copies(tmp_path: Path) -> None:
    members = [
        ("people/Ann", tarfile.DIRTYPE, ""),
        ("people/Ann/1.jpg", tarfile.REGTYPE, "one"),
        ("/people/Bob/2.jpg", tarfile.REGTYPE, "two"),
        ("people/Bob/../Cid/3.jpg", tarfile.REGTYPE, "three"),
        ("people/Ann/hard.jpg", tarfile.LNKTYPE, "people/Ann/1.jpg"),
        ("people/Ann/soft.jpg", tarfile.SYMTYPE, "1.jpg"),
        ("people/Ann/dangling.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("people/out", tarfile.SYMTYPE, str(tmp_path)),
        ("people/out/4.jpg", tarfile.REGTYPE, "four"),
        ("people/Ann/pipe.jpg", tarfile.FIFOTYPE, ""),
    ]
    with _tar(tmp_path / "people.tar", *members) as archive:
        sources._extract(archive, tmp_path / "to")
    written = {path.relative_to(tmp_path / "to" / "people").as_posix(): path for path in (tmp_path / "to").rglob("*.*")}
    assert {name: path.read_text() for name, path in written.items()} == {
        "Ann/1.jpg": "one",
        "Bob/2.jpg": "two",
        "Cid/3.jpg": "three",
        "Ann/hard.jpg": "one",
        "Ann/soft.jpg": "one",
        "out/4.jpg": "four",
    }
    assert not any(path.is_symlink() for path in (tmp_path / "to").rglob("*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people.tar", "to"]


@pytest.mark.parametrize("name", ["../evil.jpg", "people/../../evil.jpg"])
def test_a_tar_that_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    _tar(tmp_path / "people.tar", (name, tarfile.REGTYPE, "evil")).close()
    with pytest.raises(DataError, match=r"people.tar is a damaged archive \(.*evil.jpg would lie outside of it\)"):
        run(tmp_path / "people.tar", tmp_path / "out")
    assert not list(tmp_path.rglob("evil.jpg"))


def _unpacked(archive: Path, folder: Path) -> list[str]:
    place = sources._unpack(archive, folder)
    return sorted(path.name for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("program", ["tarfile", "tar"])
def test_a_tar_is_read_to_its_end(tmp_path: Path, ending: str, program: str) -> None:
    """A tar ends with blocks of zeros. Without them, or with anything else in their place, some of it is missing."""
    names, archive = ["1.jpg", "2.jpg", "3.jpg"], tmp_path / f"photos.{ending}"
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).write_bytes(os.urandom(700))
    if program == "tar":
        subprocess.run(["tar", "-caf", archive, "-C", tmp_path, "photos"], check=True)
    else:
        with tarfile.open(archive, "w:gz" if ending == "tar.gz" else "w", format=tarfile.GNU_FORMAT) as made:
            made.add(tmp_path / "photos", "photos")
    assert _unpacked(archive, tmp_path / "whole") == names
    packed = archive.read_bytes()
    content = gzip.decompress(packed) if ending == "tar.gz" else packed
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512  # of the last member
    second = bytearray(content)
    second[512 + 1536 + 148 : 512 + 1536 + 156] = b"damaged "  # its checksum, after the folder and the first photo
    for harmed in (bytes(second), content[:end], content[: end - 1536], content[: end + 100], content + b"more"):
        archive.write_bytes(gzip.compress(harmed) if ending == "tar.gz" else harmed)
        with pytest.raises(DataError, match=r"is a damaged archive \(.*\); fetch it again"):
            _unpacked(archive, tmp_path / "harmed")
    archive.write_bytes(gzip.compress(content[: end + 512]) if ending == "tar.gz" else content[: end + 512])
    assert _unpacked(archive, tmp_path / "short") == names
    if ending == "tar.gz":
        archive.write_bytes(packed[:-8] + bytes(4) + packed[-4:])
        with pytest.raises(DataError, match=r"is a damaged archive \(CRC check failed"):
            _unpacked(archive, tmp_path / "checked")


def test_a_photo_can_be_given_both_recognisers(people: Path, tmp_path: Path) -> None:
    prepare(people / "Bob", tmp_path / "out", workers=1, recognisers=["sface", "dlib"], progress=False)
    ours, judge = shards.load(tmp_path / "out", "sface"), shards.load(tmp_path / "out", "dlib")
    assert ours.images.shape == (1, 128, 128, 3)
    assert judge.identity.shape == (1, 128)
    assert abs(float(ours.identity[0] @ judge.identity[0])) < 0.5


@pytest.mark.parametrize("stage", ["write_index", "write_shard"])
def test_an_interrupted_run_goes_on_where_it_stopped(
    people: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    real = getattr(runs, stage)

    def interrupted(out: Path, number: int, *rest: object) -> object:
        if number:
            raise KeyboardInterrupt
        return real(out, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(runs, stage, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(people, tmp_path / "out")
    with pytest.raises(DataError, match="is not finished"):
        shards.load(tmp_path / "out")
    report = run(people, tmp_path / "out")
    assert report.resumed == {"write_shard": 4, "write_index": 8}[stage]
    assert content(tmp_path / "out") == content(prepared)


# What happens at which moment, the exit code, how many of the eight files, all of one shard, are said to be kept, and
# what the folder holds beside meta.json and its lock.
STOPS = {
    "Ctrl-C": ("facecrafter.data.prepare.reader:Reader.read 6 SIGINT", 130, 5, ["begun-00000.tar"]),
    "SIGTERM": ("facecrafter.data.prepare.reader:Reader.read 6 SIGTERM", 143, 5, ["begun-00000.tar"]),
    "while the shard is packed": ("facecrafter.data.prepare.run:write_shard 1 SIGINT", 130, 8, ["begun-00000.tar"]),
    # It is the third file to take its place, and takes it.
    "while the shard is written": ("pathlib:Path.replace 3 SIGINT", 130, 8, ["shard-00000.json", "shard-00000.tar"]),
    "twice": (
        "facecrafter.data.prepare.reader:Reader.read 6 SIGINT; facecrafter.data.prepare.folder:_pack_begun 1 SIGINT",
        130,
        0,
        [],
    ),
    "kill -9 while what was begun is written": (
        "facecrafter.data.prepare.reader:Reader.read 6 SIGINT; pathlib:Path.replace 2 SIGKILL",
        -9,
        0,
        ["begun-00000.tar.partial"],
    ),
}


@pytest.fixture(scope="module")
def one_shard(people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command line writes when it is left alone."""
    out = tmp_path_factory.mktemp("one_shard") / "out"
    run(people, out, shard_size=512)
    return content(out)


@pytest.mark.parametrize("case", STOPS)
def test_a_shard_that_was_begun_is_kept_and_goes_on(
    case: str,
    people: Path,
    one_shard: dict[str, bytes],
    tmp_path: Path,
    interrupted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments, code, kept, files = STOPS[case]
    out = tmp_path / "out"
    asked = ("data", "prepare", people, out, "--workers", 1, "--recogniser", "sface", "--size", 64)
    done = interrupted(moments, *asked)
    assert done.returncode == code, done.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(["lock", "meta.json", *files])
    said = f"stopped: {kept} of 8 files are done and kept in {out}; run the same command again, it goes on from there"
    assert code < 0 or done.stderr.splitlines()[-1] == said
    assert "Traceback" not in done.stderr
    read, real = [], readers.Reader.read
    monkeypatch.setattr(readers.Reader, "read", lambda reader, photo: read.append(photo) or real(reader, photo))
    report = run(people, out, shard_size=512)
    assert len(read) == 8 - kept
    assert (report.photos, report.prepared, report.resumed) == (8, 4, kept)
    assert content(out) == one_shard


def test_what_was_begun_earlier_outlives_a_second_stop(
    people: Path, one_shard: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five files and a stop, three more are read, and then nothing more can be written."""
    real, left = readers.Reader.read, iter(range(5))

    def read(reader: Any, photo: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(reader, photo)

    def full(path: Path, content: bytes) -> None:
        raise DataError("no space left")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(readers.Reader, "read", read)
        with pytest.raises(KeyboardInterrupt) as caught:
            run(people, out, shard_size=512)
        assert caught.value.__notes__[-1].startswith("5 of 8 files are done")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_whole", full)
        with pytest.raises(DataError, match="no space left"):
            run(people, out, shard_size=512)
    begun = out / "begun-00000.tar"
    assert [key for key, _ in shards.read_shard(begun)] == ["found", "00000000", "00000001", "00000003"]
    whole = begun.read_bytes()
    begun.write_bytes(whole[: len(whole) // 2])  # a disk's fault: read again, all of it
    assert run(people, Path(shutil.copytree(out, tmp_path / "copy")), shard_size=512).resumed == 0
    begun.write_bytes(whole)
    assert run(people, out, shard_size=512).resumed == 5
    assert content(out) == content(tmp_path / "copy") == one_shard


@pytest.mark.parametrize("lost", ["shard-00001.tar", "shard-00000.json", "index.parquet", "rejected.csv"])
def test_a_lost_file_is_made_again(people: Path, prepared: Path, tmp_path: Path, lost: str) -> None:
    out = Path(shutil.copytree(prepared, tmp_path / "out"))
    (out / lost).unlink()
    (out / f"{lost}.partial").write_text("left by a kill")
    (out / "cache").mkdir()
    (out / "cache" / "pictures.npy").write_bytes(b"of the shards that were there")
    run(people, out)
    assert (out / "cache" / "pictures.npy").exists() == (not lost.startswith("shard"))
    shutil.rmtree(out / "cache")
    (out / f"{lost}.partial").unlink(missing_ok=True)
    assert content(out) == content(prepared)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_a_folder_to_go_on_with(
    people: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for number in range(300):
        os.link(people / "Bob" / "Bob.jpg", many / f"{number}.jpg")
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom facecrafter.data.prepare import prepare\n"
        # A shell that runs the tests in its background has Ctrl-C ignored for everything below it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if __name__ == '__main__':\n"
        "    prepare(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, recognisers=['sface'], shard_size=4)\n"
    )
    with open(tmp_path / "stderr", "wb") as errors:
        process = subprocess.Popen([sys.executable, script, many, out], start_new_session=True, stderr=errors)
    wait_until(lambda: (out / "shard-00002.tar").exists())
    if sent is signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, sent)  # as a terminal does
    assert process.wait(30) != 0
    wait_until(lambda: not group_lives(process.pid))
    done = sorted(out.glob("shard-*.tar"))
    assert 3 <= len(done) < 75
    assert all(len(list(shards.read_shard(path))) == 4 for path in done)
    assert not (out / "index.parquet").exists()
    if sent is signal.SIGKILL:
        return
    assert not list(out.glob("*.partial"))
    begun = [json.loads(next(shards.read_shard(path))[1]["json"]) for path in out.glob("begun-*.tar")]
    kept = 4 * len(done) + sum(map(len, begun))
    outcome = (tmp_path / "stderr").read_text()
    assert outcome.splitlines()[-1].startswith(f"{kept} of 300 files are done and kept in {out}; ")
    assert outcome.count("Traceback") == 1  # the script's own: no worker adds one


def wait_until(done: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def send_much(connection: Any) -> None:
    signal.signal(signal.SIGTERM, stopping.leave)
    stopping.LAST_SECONDS = 1.0
    connection.send_bytes(bytes(5_000_000))
    time.sleep(60)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_a_worker_that_is_ended_sends_its_result_to_the_end() -> None:
    """A pipe holds 64 kB, so the worker is in the middle of it until somebody reads."""
    context = multiprocessing.get_context("fork")  # importing this module again takes long
    reader, writer = context.Pipe(duplex=False)
    worker = context.Process(target=send_much, args=(writer,))
    worker.start()
    writer.close()
    assert worker.pid is not None
    assert reader.poll(30)
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.1)
    assert len(reader.recv_bytes()) == 5_000_000
    worker.join(30)
    assert worker.exitcode == 1


def test_a_worker_that_is_ended_alone_drops_no_photo(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_reader", readers.Reader(readers.Job(64, "centre", ("sface",), None)))
    photo = sources.Photo("0", people / "Bob" / "Bob.jpg", "Bob.jpg", "Bob")
    assert len(workers._read(photo)) == 1
    monkeypatch.setattr(stopping, "_leaving", True)
    with pytest.raises(DataError, match="a worker process was ended; put that right and run the same command again"):
        workers._read(photo)


class Deadly:
    """A photo whose arrival ends the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_worker_that_dies_is_one_sentence() -> None:
    with (
        pytest.raises(DataError, match="a worker process died"),
        workers.readers(readers.Job(64, "centre", ("sface",), None), 2) as read,
    ):
        list(read([Deadly()]))  # type: ignore[list-item]


class Crashing:
    """A photo whose arrival crashes the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


def test_a_photo_that_crashes_its_reader_costs_itself_alone() -> None:
    items, rejected = [*"abcdefg"], readers.Rejected("photo", "crashes")
    items[1:1] = [Crashing()]  # type: ignore[list-item]
    letters = partial(SimpleNamespace, read=list)
    with workers.readers(letters, 2, chunk=2, crashed=lambda item: [rejected]) as read:
        found = list(read(items))
        assert found == [[rejected] if isinstance(item, Crashing) else [item] for item in items]
        assert list(read(items[-2:])) == [["f"], ["g"]]  # the next shard


@pytest.mark.parametrize("first", [True, False])
def test_a_process_that_is_killed_is_no_photos_fault(first: bool) -> None:
    items = [Deadly() if first else Crashing(), "a", Deadly()]
    with (
        pytest.raises(DataError, match="a worker process died"),
        workers.readers(partial(SimpleNamespace, read=list), 2, 1, crashed=lambda item: []) as read,
    ):
        list(read(items))


def test_a_photo_that_crashes_its_reader_is_listed() -> None:
    photo = sources.Photo("0", Path("photos/Ann/1.avif"), "Ann/1.avif", "Ann")
    assert readers.crashed(photo) == [
        readers.Rejected("Ann/1.avif", "Ann/1.avif crashes what decodes it; save it in another format")
    ]


def test_an_error_nobody_thought_of_rejects_one_photo_only(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> np.ndarray:
        return face.load_photo(path) if path.name != "Ann_0001.jpg" else 1 // 0  # type: ignore[return-value]

    monkeypatch.setattr(readers, "load_photo", load)
    report = run(people, tmp_path / "out")
    assert (report.prepared, report.rejected) == (3, 5)
    assert "Ann/Ann_0001.jpg cannot be used: ZeroDivisionError" in (tmp_path / "out" / "rejected.csv").read_text()


@contextmanager
def failing(place: str, error: BaseException) -> Iterator[None]:
    """The machine fails at a file, while it is read or looked at."""
    real, (owner, name) = photo._decoder, {"reading": (photo, "_decoder"), "looking": (readers, "face_mask")}[place]

    def fail(*arguments: Any) -> Any:
        if place == "looking" or Path(arguments[1]).name == "Ann_0001.jpg":
            raise error
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


STOPPED = r"preparation stopped at .*Ann.*\({}\); put that right and run the same command again"


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("looking", MemoryError(), r"memory ran out at Ann/Ann\.0002\.png; free some"),
        ("looking", OSError(errno.ENOSPC, "No space left on device"), STOPPED.format("No space left on device")),
        ("looking", OSError(errno.EIO, "Input/output error", "other.file"), STOPPED.format("Input/output error")),
        ("reading", MemoryError(), r"memory ran out at Ann/Ann_0001\.jpg; free some"),
        (
            "reading",
            OSError(errno.EMFILE, "Too many open files", "Ann_0001.jpg"),
            STOPPED.format("Too many open files"),
        ),
    ],
)
def test_a_machine_that_fails_ends_the_run_and_rejects_no_photo(
    people: Path, prepared: Path, tmp_path: Path, place: str, error: Exception, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught, failing(place, error):
        run(people, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), DataError)  # as from a worker
    run(people, tmp_path / "out")
    assert content(tmp_path / "out") == content(prepared)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_photo_that_the_disk_does_not_give_is_rejected(people: Path, tmp_path: Path, number: int) -> None:
    with failing("reading", OSError(number, "Refused")):
        report = run(people, tmp_path / "out")
    assert (report.prepared, report.rejected) == (3, 5)


def test_memory_that_runs_out_beside_the_photos_is_one_sentence(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(shards, "pack", full)
    with pytest.raises(DataError, match="memory ran out; free some, or run it again with fewer workers"):
        run(people, tmp_path / "out")


GOING_ON = r"another preparation is going on in .*out; wait for its end"


def test_a_second_preparation_is_refused_and_costs_the_first_nothing(
    people: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    visible = tmp_path / "visible"
    shutil.copytree(people, visible / "people", ignore=shutil.ignore_patterns(".*"))
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "tar", visible, "people"))
    write, refused = runs.write_shard, []

    def meanwhile(out: Path, *rest: Any) -> None:
        for second in (lambda: run(archive, out), lambda: renew_emotions(out)):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError, match=GOING_ON):
                patch.setattr(runs, "write_shard", write)
                second()
            refused.append(second)
        write(out, *rest)

    monkeypatch.setattr(runs, "write_shard", meanwhile)
    run(archive, tmp_path / "out")
    assert len(refused) == 2 * 4
    assert content(tmp_path / "out") == content(prepared)


def test_a_run_that_was_killed_before_it_began_leaves_a_folder_to_begin_in(
    people: Path, prepared: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lock").write_bytes(b"")
    (tmp_path / "out" / "meta.json.partial").write_bytes(b"{")
    run(people, tmp_path / "out")
    assert content(tmp_path / "out") == content(prepared)


@pytest.mark.parametrize(
    "victim", ["meta.json", "shard-00001.json", "shard-00001.tar", "rejected.csv", "index.parquet"]
)
def test_a_full_disk_is_one_sentence_and_no_half_written_file(
    people: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == f"{victim}.partial":
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match=rf"{victim} cannot be written \(No space left on device\)"):
            run(people, out)
    assert not (out / victim).exists()
    assert not list(out.glob("*.partial"))
    run(people, out)
    assert content(out) == content(prepared)


OTHER_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"size": 96}, "with size 64, not 96"),
    "choice": ({"choose": "largest"}, "with choose centre, not largest"),
    "shards": ({"shard_size": 3}, "with shard_size 2, not 3"),
    "recognisers": ({"recognisers": ("sface", "dlib")}, "with the recognisers sface, not sface, dlib"),
}


@pytest.mark.parametrize("case", OTHER_SETTINGS)
def test_other_settings_are_refused_and_nothing_is_touched(
    people: Path, prepared: Path, tmp_path: Path, case: str
) -> None:
    options, message = OTHER_SETTINGS[case]
    out = Path(shutil.copytree(prepared, tmp_path / "out"))
    with pytest.raises(DataError, match=message):
        run(people, out, **options)
    assert content(out) == content(prepared)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [("landmarks", "with other weights for landmarks"), ("emotion", "another emotion estimator .*--only emotion")],
)
def test_other_weights_are_refused(people: Path, prepared: Path, tmp_path: Path, estimator: str, message: str) -> None:
    out = Path(shutil.copytree(prepared, tmp_path / "out"))
    meta = json.loads((out / "meta.json").read_text())
    meta[estimator]["sha256"] = "0" * 64
    (out / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=message):
        run(people, out)


def test_other_photos_are_refused_and_overwriting_starts_again(people: Path, prepared: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(prepared, tmp_path / "out"))
    (out / "mine.txt").write_text("not ours to delete")
    with pytest.raises(DataError, match="from other photos than there are now"):
        run(people / "Bob", out)
    assert run(people / "Bob", out, overwrite=True).prepared == 1
    assert sorted(content(out)) == sorted(
        ["index.parquet", "lock", "meta.json", "mine.txt", "rejected.csv"]
        + [f"shard-0000{n}.{s}" for n in (0, 1) for s in ("json", "tar")]
    )
    assert shards.load(out).persons == ["Bob"]


def test_without_a_single_face_the_report_is_there_and_the_data_are_not(people: Path, tmp_path: Path) -> None:
    (tmp_path / "walls").mkdir()
    shutil.copy(people / "Bob" / "wall.jpg", tmp_path / "walls")
    with pytest.raises(DataError, match=r"not one of the 1 files in .*walls gave a face; .*rejected.csv says why"):
        run(tmp_path / "walls", tmp_path / "out")
    assert "no face found in wall.jpg" in (tmp_path / "out" / "rejected.csv").read_text()


def _archive_of_nothing(folder: Path) -> Path:
    with tarfile.open(folder / "nothing.tar.gz", "w:gz"):
        return folder / "nothing.tar.gz"


def _cut_archive(folder: Path) -> Path:
    whole = Path(shutil.make_archive(str(folder / "cut"), "gztar", folder / "full"))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return whole


BAD_PLACES = {
    "missing source": (lambda f: (f / "missing", f / "out"), "there is no folder or archive .*missing"),
    "empty source": (lambda f: (f / "empty", f / "out"), "there are no photos in .*empty"),
    "a file": (lambda f: (f / "full" / "a.txt", f / "out"), "a.txt is neither a folder nor a tar or zip"),
    "empty archive": (lambda f: (_archive_of_nothing(f), f / "out"), "there are no photos in .*nothing.tar.gz"),
    "cut archive": (lambda f: (_cut_archive(f), f / "out"), "cut.tar.gz is a damaged archive"),
    "no table either": (lambda f: (f / "empty.csv", f / "out"), "empty.csv is neither a folder nor a tar or zip"),
    "out is a file": (lambda f: (f / "full", f / "full" / "a.txt"), "a.txt lies inside|a.txt is a file"),
    "out under a file": (lambda f: (f / "some", f / "full" / "a.txt" / "out"), "out cannot be written"),
    "out is something else": (lambda f: (f / "some", f / "full"), "full is not empty and not a prepared folder"),
    "out inside the source": (lambda f: (f / "full", f / "full" / "out"), "out lies inside .*full"),
    "out is the source": (lambda f: (f / "full", f / "full"), "full lies inside .*full"),
}


@pytest.mark.parametrize("case", BAD_PLACES)
def test_bad_places_are_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_bytes(os.urandom(10_000))
    shutil.copytree(tmp_path / "full", tmp_path / "some")
    (tmp_path / "empty.csv").touch()
    places, message = BAD_PLACES[case]
    source, out = places(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        run(source, out)
    assert "\n" not in str(caught.value)
    assert not (out / "meta.json").exists()
    assert not (out / "unpacked.partial").exists()
    if case in ("empty source", "a file", "no table either"):
        assert not out.exists()


BAD_OPTIONS: list[tuple[dict[str, Any], type[FaceCrafterError], str]] = [
    ({"size": 16}, ConfigError, "size 16 is outside 32 to 1024"),
    ({"size": 4096}, ConfigError, "size 4096 is outside 32 to 1024"),
    ({"workers": -1}, ConfigError, "workers -1 is negative"),
    ({"shard_size": 0}, ConfigError, "shard_size 0 must be at least 1"),
    ({"choose": "left"}, ConfigError, "choose 'left' is not one of largest, centre"),
    ({"interval": 0.0}, ConfigError, "interval 0 must be at least 0.01 seconds"),
    ({"recognisers": ()}, ConfigError, "recognisers is empty"),
    ({"recognisers": ("sfase",)}, WeightsError, "unknown recogniser 'sfase'"),
    ({"recognisers": ("arcface",)}, WeightsError, "arcface"),
    ({"recognisers": ("arcface",), "arcface": Path("missing.onnx")}, WeightsError, "missing.onnx"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD_OPTIONS)
def test_bad_options_are_refused(
    people: Path, tmp_path: Path, options: dict[str, Any], kind: type[FaceCrafterError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(people, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "meta.json").exists()


def test_this_process_is_left_as_it_was(prepared: Path) -> None:
    assert "FACECRAFTER_WORKER" not in os.environ


class Threads:
    """Reads of every item how many threads torch and OpenCV have."""

    def read(self, item: object) -> list[Any]:
        return [torch.get_num_threads(), cv2.getNumThreads()]

    def close(self) -> None:
        pass


def test_this_process_alone_has_one_thread_as_workers_have() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(3)
        cv2.setNumThreads(2)
        with workers.readers(Threads, 1) as read:
            assert list(read([0])) == [[1, 1]]
        assert Threads().read(0) == [3, 2]
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.skipif(not LFW.exists(), reason="needs ../shared/data/lfw-deepfunneled.tar.gz")
def test_press_photos_come_through(tmp_path: Path) -> None:
    with tarfile.open(LFW) as archive:
        for entry, _ in zip((entry for entry in archive if entry.isfile()), range(20), strict=False):
            content = archive.extractfile(entry)
            assert content is not None
            (tmp_path / "photos" / entry.name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / entry.name).write_bytes(content.read())
    report = run(tmp_path / "photos", tmp_path / "out")
    assert (report.prepared, report.rejected) == (20, 0)
    loaded = shards.load(tmp_path / "out")
    same = np.array([[a == b for b in loaded.persons] for a in loaded.persons])
    likeness = loaded.identity @ loaded.identity.T
    assert likeness[~same].mean() < 0.3
    assert (np.abs(loaded.points[:, 1, :2] - [32, 36]) < 12).all()


# --- videos -----------------------------------------------------------------------------------------------------------


def film(path: Path, seconds: list[Image.Image]) -> Path:
    """A video that shows each image for a second, five times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = (*seconds[0].size, "yuv420p")
        stream.options = {"crf": "10", "g": "5"}
        for image in seconds:
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def films(astronaut: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos as MEAD has them, one of them cut off and one with a wall in it, a photo, and a video that is none."""
    folder = tmp_path_factory.mktemp("films")
    mirrored, wall = astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("RGB", astronaut.size, "grey")
    film(folder / "M003" / "video" / "front" / "happy" / "level_2" / "001.mp4", [astronaut, wall, mirrored])
    cut = film(folder / "W009" / "video" / "left_30" / "angry" / "level_1" / "002.mp4", [mirrored] * 6)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (folder / "Ann").mkdir()
    astronaut.save(folder / "Ann" / "Ann.jpg", quality=95)
    (folder / "Ann" / "none.mov").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def filmed(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filmed") / "out"
    report = run(films, out)
    rows = report.prepared
    assert rows == 1 + 2 + len(cut_frames(films))
    assert (report.photos, report.rejected, report.resumed) == (rows + 3, 3, 0)
    return out


HAPPY, ANGRY = "M003/video/front/happy/level_2/001.mp4", "W009/video/left_30/angry/level_1/002.mp4"


def cut_frames(films: Path) -> list[tuple[float, np.ndarray]]:
    found = []
    with pytest.raises(PhotoError, match="is damaged after"):
        for frame in video.frames(films / ANGRY):
            found.append(frame)
    assert 1 <= len(found) < 6
    return found


def test_every_frame_is_a_sample_that_says_whose_and_when(filmed: Path, films: Path) -> None:
    cut = cut_frames(films)
    loaded = shards.load(filmed)
    assert loaded.files == ["Ann/Ann.jpg", f"{HAPPY}#t=0.000", f"{HAPPY}#t=2.000"] + [
        f"{ANGRY}#t={seconds:.3f}" for seconds, _ in cut
    ]
    assert loaded.persons == ["Ann", "M003", "M003"] + ["W009"] * len(cut)
    index = shards.read_index(filmed)
    assert index["key"][:3] == ["00000000", "00000002-00000000", "00000002-00002000"]
    assert index["key"][3:] == [f"00000003-{round(seconds * 1000):08d}" for seconds, _ in cut]
    (_, first), (_, third) = (frame for number, frame in enumerate(video.frames(films / HAPPY)) if number != 1)
    with face_finder.FaceFinder() as finder:
        for row, image in ((1, first), (2, third), (3, cut[0][1])):
            np.testing.assert_array_equal(loaded.images[row], finder.find(image, 256, "centre").resized(64).image)
    assert loaded.angles[1, 0] == pytest.approx(-loaded.angles[2, 0], abs=3)


def test_a_frame_keeps_what_the_folders_say(filmed: Path) -> None:
    outcome = {
        key: json.loads(parts["json"])
        for path in sorted(filmed.glob("shard-*.tar"))
        for key, parts in shards.read_shard(path)
    }
    assert "video" not in outcome["00000000"]
    assert outcome["00000002-00002000"]["video"] == {"seconds": 2.0, "emotion": "happy", "level": 2, "view": "front"}
    assert outcome["00000003-00000000"]["video"] == {"seconds": 0.0, "emotion": "anger", "level": 1, "view": "left_30"}
    assert outcome["00000003-00000000"]["file"] == f"{ANGRY}#t=0.000"


def test_webdataset_reads_frames_too(filmed: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    names = [str(path) for path in sorted(filmed.glob("shard-*.tar"))]
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == shards.read_index(filmed)["key"]
    assert samples[1]["png"].shape == (64, 64, 3)


def test_frames_without_a_face_and_damaged_videos_are_listed(filmed: Path, films: Path) -> None:
    with open(filmed / "rejected.csv", newline="", encoding="utf-8") as file:
        rejected = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert list(rejected) == ["Ann/none.mov", f"{HAPPY}#t=1.000", ANGRY]
    assert rejected["Ann/none.mov"].startswith("Ann/none.mov is not a video that can be read")
    assert rejected[f"{HAPPY}#t=1.000"].startswith(f"no face found in {HAPPY}#t=1.000 (256x256)")
    assert rejected[ANGRY].startswith(f"{ANGRY} is damaged after")
    assert not any(str(films) in reason for reason in rejected.values())


def test_videos_go_on_where_they_stopped_and_spread_over_workers(films: Path, filmed: Path, tmp_path: Path) -> None:
    # Shards of two images, and of whole videos: Ann's two files, M003's three frames, what is left of W009's six.
    assert len(list(filmed.glob("shard-*.tar"))) == 3
    run(films, tmp_path / "out", workers=2)
    assert content(tmp_path / "out") == content(filmed)
    for number in (1, 2):
        shards.shard_path(tmp_path / "out", number).unlink()
    report = run(films, tmp_path / "out")
    assert report.resumed == 2
    assert content(tmp_path / "out") == content(filmed)


@pytest.mark.parametrize("error", [MemoryError(), av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")])
@pytest.mark.parametrize(("owner", "name"), [(readers, "face_mask"), (video, "_upright")])
def test_memory_that_runs_out_in_a_video_rejects_nothing(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(DataError, match=r"memory ran out at video/front/happy/level_2/001\.mp4"):
        run(films / "M003", tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard-*"))


def test_a_video_that_asks_for_memory_to_be_opened_is_damaged(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = av.open

    def greedy(file: Any, *rest: Any, **options: Any) -> Any:
        if Path(file.name).name == "002.mp4":
            raise av.MemoryError(errno.ENOMEM, "Cannot allocate memory")
        return real(file, *rest, **options)

    monkeypatch.setattr(av, "open", greedy)
    report = run(films, tmp_path / "out", interval=2.0)
    assert (report.prepared, report.rejected) == (3, 2)
    assert (
        f"{ANGRY} is not a video that can be read (its header asks for" in (tmp_path / "out/rejected.csv").read_text()
    )


def test_another_interval_is_refused_and_photos_alone_have_none(
    films: Path, filmed: Path, prepared: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(filmed, tmp_path / "out"))
    with pytest.raises(DataError, match=r"was begun with interval 1\.0, not 2\.0"):
        run(films, out, interval=2.0)
    assert content(out) == content(filmed)
    assert json.loads((filmed / "meta.json").read_text())["interval"] == 1.0
    assert "interval" not in json.loads((prepared / "meta.json").read_text())


def test_an_archive_of_one_persons_videos_keeps_the_person(films: Path, tmp_path: Path) -> None:
    """MEAD comes as ``M003/video.tar``."""
    (tmp_path / "M003").mkdir()
    archive = shutil.make_archive(str(tmp_path / "M003" / "video"), "tar", films / "M003", "video")
    assert run(Path(archive), tmp_path / "out", interval=2.0).prepared == 2
    loaded = shards.load(tmp_path / "out")
    assert loaded.persons == ["M003", "M003"]
    assert loaded.files == ["front/happy/level_2/001.mp4#t=0.000", "front/happy/level_2/001.mp4#t=2.000"]


@pytest.mark.parametrize(
    ("sizes", "shard_size", "expected"),
    [
        ([1, 1, 1, 1, 1], 2, [[1, 1], [1, 1], [1]]),
        ([1, 1, 1, 1], 2, [[1, 1], [1, 1]]),
        ([1, 3, 1, 1, 2, 9, 1], 4, [[1, 3], [1, 1, 2], [9], [1]]),
        ([9, 9], 1, [[9], [9]]),
    ],
)
def test_shards_are_filled_by_images_and_divide_no_video(
    sizes: list[int], shard_size: int, expected: list[list[int]]
) -> None:
    photos = [sources.Photo(str(key), Path(), "", "", images=size) for key, size in enumerate(sizes)]
    parts = runs._parts(photos, shard_size)
    assert [photo for part in parts for photo in part] == photos
    assert [[photo.images for photo in part] for part in parts] == expected


# --- renewed emotions -------------------------------------------------------------------------------------------------


class Moody:
    """Another estimator: it says what the image's brightness is."""

    name = "moody"

    def __init__(self, path: Path, stop_after: int = 100) -> None:
        self.path, self.left = path, stop_after

    def estimate(self, faces: list[face.Face]) -> list[emotion.Emotion]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        values = [one.image.mean() / 255 for one in faces]
        return [emotion.Emotion(value, -value, (0, 1, 0, 0, 0, 0, 0, 0)) for value in values]


def test_only_the_emotions_are_renewed(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    (tmp_path / "weights").write_bytes(b"moody")
    monkeypatch.setattr(emotion_estimator, "estimator", lambda emonet=None: Moody(tmp_path / "weights"))
    before = shards.load(folder)
    report = renew_emotions(folder, progress=False)
    assert (report.prepared, report.resumed) == (4, 0)
    after = shards.load(folder)
    for name in ("images", "points", "blendshapes", "angles", "identity", "masks"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert (after.persons, after.files) == (before.persons, before.files)
    light = after.images.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(after.emotion[:, 0], light, atol=1e-5)
    np.testing.assert_allclose(after.emotion[:, 1], -light, atol=1e-5)
    rows = pyarrow.parquet.read_table(folder / "index.parquet").to_pylist()
    assert [row["emotion"] for row in rows] == ["happy"] * 4
    np.testing.assert_allclose([row["valence"] for row in rows], light, atol=1e-5)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["emotion"]["name"] == "moody"
    assert meta["recognisers"] == json.loads((prepared / "meta.json").read_text())["recognisers"]
    assert (folder / "rejected.csv").read_bytes() == (prepared / "rejected.csv").read_bytes()


def test_a_renewal_that_was_stopped_goes_on(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "folder"
    shutil.copytree(prepared, whole)
    shutil.copytree(prepared, folder)
    (tmp_path / "weights").write_bytes(b"moody")
    monkeypatch.setattr(emotion_estimator, "estimator", lambda emonet=None: Moody(tmp_path / "weights"))
    renew_emotions(whole, progress=False)
    monkeypatch.setattr(emotion_estimator, "estimator", lambda emonet=None: Moody(tmp_path / "weights", stop_after=1))
    with pytest.raises(KeyboardInterrupt):
        renew_emotions(folder, progress=False)
    with pytest.raises(DataError, match="not finished"):
        shards.load(folder)
    monkeypatch.setattr(emotion_estimator, "estimator", lambda emonet=None: Moody(tmp_path / "weights"))
    assert renew_emotions(folder, progress=False).resumed == 2
    assert content(folder) == content(whole)


@pytest.mark.parametrize("name", ["shard-00003.json", "shard-00003.tar"])
@pytest.mark.parametrize("harm", ["cut", "lost", "another's"])
def test_a_damaged_shard_is_found_before_its_folder_is_touched(
    people: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, harm: str
) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "folder"))
    path = folder / name
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes((folder / f"shard-00002{path.suffix}").read_bytes() if harm == "another's" else b"cut off")
    harmed = content(folder)
    (tmp_path / "weights").write_bytes(b"moody")
    with monkeypatch.context() as patch:
        patch.setattr(emotion_estimator, "estimator", lambda emonet=None: Moody(tmp_path / "weights"))
        with pytest.raises(DataError, match=r"is damaged or missing; delete it and run .* with --overwrite if"):
            renew_emotions(folder, progress=False)
    assert content(folder) == harmed
    path.unlink(missing_ok=True)  # as it says
    run(people, folder)
    assert content(folder) == content(prepared)


def test_a_last_shard_that_is_lost_is_missed(prepared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "folder"))
    for suffix in ("tar", "json"):
        (folder / f"shard-00003.{suffix}").unlink()
    with pytest.raises(DataError, match=r"shard-00003\.json is damaged or missing"):
        renew_emotions(folder, progress=False)


def test_a_shard_that_is_damaged_while_emotions_are_renewed_can_be_made_again(
    people: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "folder"))
    (tmp_path / "weights").write_bytes(b"moody")
    with monkeypatch.context() as patch:
        patch.setattr(emotion_estimator, "estimator", lambda emonet=None: Moody(tmp_path / "weights", stop_after=1))
        with pytest.raises(KeyboardInterrupt):
            renew_emotions(folder, progress=False)
        (folder / "shard-00003.tar").unlink()
        with pytest.raises(DataError, match=r"shard-00003\.tar is damaged or missing; .* with --overwrite if that is"):
            renew_emotions(folder, progress=False)
    with pytest.raises(DataError, match=r"another emotion estimator .*, or give --overwrite"):
        run(people, folder)
    run(people, folder, overwrite=True)
    assert content(folder) == content(prepared)


def test_only_a_finished_folder_is_renewed(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared folder"):
        renew_emotions(tmp_path)
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    (folder / "index.parquet").unlink()
    with pytest.raises(DataError, match="not finished"):
        renew_emotions(folder)
    with pytest.raises(WeightsError, match="no EmoNet file"):
        renew_emotions(prepared, tmp_path / "none.pth")


def test_files_that_are_not_what_they_say_are_rejected_and_heic_is_read(astronaut: Image.Image, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    pillow_heif.from_pillow(astronaut).save(source / "IMG_1.HEIC", quality=90)
    astronaut.save(source / "avif.avif")
    (source / "avif.avif").write_bytes((source / "avif.avif").read_bytes().replace(b"pitm", b"xxxx"))
    (source / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    (source / "link.jpg").symlink_to(source / "nothing.jpg")
    for name in ("pipe.jpg", "pipe.mp4"):
        os.mkfifo(source / name)
    report = run(source, tmp_path / "out")
    assert (report.prepared, report.rejected) == (1, 5)
    assert shards.load(tmp_path / "out").files == ["IMG_1.HEIC"]
    with open(tmp_path / "out" / "rejected.csv", newline="", encoding="utf-8") as file:
        rejected = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    for name, words in (
        ("avif.avif", "avif.avif is damaged"),
        ("eps.jpg", "eps.jpg is not an image"),
        ("link.jpg", "there is no file link.jpg"),
        ("pipe.jpg", "pipe.jpg is a pipe or a device"),
        ("pipe.mp4", "it is a pipe or a device"),
    ):
        assert words in rejected[name]


def test_a_pipe_for_a_source_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photos.tar")
    with pytest.raises(DataError, match=r"photos\.tar is a pipe or a device; name a folder or an archive"):
        run(tmp_path / "photos.tar", tmp_path / "out")


def test_a_damaged_list_beside_a_shard_is_named(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(prepared, folder)
    for content in ("{", '{"rows": [], "rejected": [{"file": 1}]}', '{"rows": [{}], "rejected": []}', "[" * 100_000):
        (folder / "shard-00000.json").write_text(content)
        with pytest.raises(DataError, match=r"shard-00000\.json is damaged; delete it"):
            folders.write_index(folder, 1)
