"""A file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facecrafter.files import whole


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
