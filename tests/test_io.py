"""A file is there whole or not at all, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from facecrafter.errors import ConfigError, OutputError
from facecrafter.io import LOCK, alone, check_free, place_for, unwritten, whole, write_whole


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_written_takes_the_place(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with whole(path, shared) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert (str(os.getpid()) in partial.name) is shared
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_really_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "a.png.partial").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="no space left"):
        write_whole(tmp_path / "a.png", b"x" * 100)
    assert not (tmp_path / "a.png").exists()


def test_what_is_there_is_not_free_unless_it_may_be_replaced(tmp_path: Path) -> None:
    there, free = tmp_path / "a.png", tmp_path / "b.png"
    there.write_bytes(b"")
    check_free([free])
    check_free([free, there], overwrite=True)
    with pytest.raises(OutputError, match=r"a\.png exists already.*--overwrite"):
        check_free([free, there])


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), whole(path) as partial:
        partial.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_raises_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), whole(tmp_path / "file" / "inside") as partial:
        partial.write_text("")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps nobody out")
def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # what is left of the first is not in the second's way
        with alone(folder, "run"):
            with (
                pytest.raises(ConfigError, match=r"another run is going on in .*folder; wait for its end"),
                alone(folder, "run"),
            ):
                raise AssertionError
            with alone(tmp_path, "run"):
                pass
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_file_of_the_locks_name_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("mine")
    with alone(tmp_path, "run"):
        pass
    assert (tmp_path / LOCK).read_text() == "mine"


def test_what_is_raised_inside_passes_through_and_ends_it(tmp_path: Path) -> None:
    for error in (OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), alone(tmp_path, "run"):
            raise error


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"the run folder .*inside cannot be used \(.+\); choose another one"),
        alone(tmp_path / "file" / "inside", "run"),
    ):
        raise AssertionError


@pytest.mark.parametrize("system", ["without locks", "disk without locks"])
def test_where_there_are_no_locks_nobody_is_kept_out(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "without locks":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        fcntl = pytest.importorskip("fcntl")

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path, "run"), alone(tmp_path, "run"):
        pass


def test_a_place_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"cannot be used \(file name too long\); choose another place"):
            check_free([tmp_path / ("x" * 400)], overwrite)


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"could not be written \(.*file is a file\); choose another folder, and run"):
        write_whole(tmp_path / "file" / "more.txt", b"")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space or choose another folder, and run it again"),
        (errno.EDQUOT, "free some space or choose another folder, and run it again"),
        (errno.ENOENT, "choose another folder, and run it again"),
    ],
)
def test_space_is_freed_where_it_is_what_lacks(number: int, advice: str) -> None:
    said = str(unwritten(Path("a.png"), OSError(number, os.strerror(number))))
    assert said == f"a.png could not be written ({os.strerror(number).lower()}); {advice}"


def test_a_place_is_there_and_goes_again_where_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(ValueError, match="refused"), place_for(out):
        assert out.is_dir()
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    with place_for(out):
        (out / "a.png").touch()
    with place_for(out):
        pass
    assert (out / "a.png").exists()
    (tmp_path / "empty").mkdir()
    with place_for(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()  # which was there before


@pytest.mark.parametrize(
    ("folder", "reason"), [("file/new/out", "is a file|not a directory"), ("x" * 400, "file name too long")]
)
def test_a_place_that_cannot_be_had_is_named(tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            OutputError, match=rf"the folder .* cannot be written to \(.*({reason})\); choose another folder$"
        ),
        place_for(tmp_path / folder),
    ):
        pass


def test_a_place_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with (
        pytest.raises(OutputError, match=r"\(permission denied\); choose another folder$"),
        place_for(tmp_path / "out"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
