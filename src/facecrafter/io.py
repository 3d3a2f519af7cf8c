"""Files that are there whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from facecrafter.errors import ConfigError, OutputError
from facecrafter.interruption import deferred

LOCK = "lock"
NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas
_written: dict[Path, None] = {}  # see `written`; a dictionary keeps the order


@contextmanager
def whole(path: Path, shared: bool = False) -> Iterator[Path]:
    """Give a place beside ``path`` to write to; what was written takes the path's place when all went well.

    Whatever is raised inside passes through, and then nothing is left beside the path and what was there before still
    is.

    Args:
        path: the file.
        shared: several processes may write it at once; each gets a place of its own, and the last one wins.

    Raises:
        OSError: the file cannot be put in its place.
    """
    own = f".{os.getpid()}" if shared else ""
    partial = path.with_name(f"{path.name}{own}.partial")
    try:
        yield partial
        with deferred():
            partial.replace(path)
            _written.pop(path, None)
            _written[path] = None
    finally:
        with deferred(), suppress(OSError):
            partial.unlink()


def forget_written() -> None:
    """Let :func:`written` begin with what comes from here on: a new command."""
    _written.clear()


def written(folder: Path | None = None) -> list[Path]:
    """The files that were put in their places with :func:`whole` in this process, the last one last.

    Args:
        folder: only those somewhere below it.
    """
    return [path for path in _written if folder is None or path.is_relative_to(folder)]


def command(*words: str | Path) -> str:
    """A command of this program, quoted for a shell so that it can be copied."""
    return shlex.join(["facecrafter", *map(str, words)])


def name_as_text(name: str | Path) -> str:
    """A file's name as text that can be written anywhere, also where the disk holds bytes that are no text."""
    return os.fsencode(name).decode("utf-8", "replace")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there before is still there.
    """
    try:
        with whole(in_folder(path)) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise unwritten(path, error) from None


def in_folder(path: Path) -> Path:
    """The same path, once its folder is there.

    Raises:
        OSError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is a file") from None
    return path


def unwritten(path: Path, error: OSError) -> OutputError:
    """The error for a file that the system refuses to write."""
    return OutputError(f"{path} could not be written ({_why(error)}); {_advice(error)}, and run it again")


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _advice(error: OSError) -> str:
    return "free some space or choose another folder" if error.errno in NO_SPACE else "choose another folder"


@contextmanager
def place_for(folder: Path) -> Iterator[None]:
    """Have a folder to write to inside, so that one that cannot be had is known before the work. What was made of it
    is taken away again where nothing was written.

    Raises:
        OutputError: it cannot be made, or not be written to.
    """
    new: list[Path] = []
    try:
        try:
            new += [one for one in (folder, *folder.parents) if not one.exists()]
            in_folder(folder / "file")
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise OutputError(f"the folder {folder} cannot be written to ({_why(error)}); {_advice(error)}") from None
        yield
    finally:
        for one in new:
            with suppress(OSError):  # it is not empty
                one.rmdir()


def check_free(paths: Iterable[Path], overwrite: bool = False) -> None:
    """Make sure that nothing is overwritten by accident.

    Raises:
        OutputError: one of the files exists and ``overwrite`` is off, or nothing can be said of its place.
    """
    taken = [path for path in paths if exists(path)]
    if overwrite:
        return
    if taken:
        raise OutputError(f"{taken[0]} exists already; choose another place for the output, or give --overwrite")


def exists(path: Path) -> bool:
    """Whether a file exists.

    Raises:
        OutputError: its folder cannot be read, or there can be none of that name.
    """
    try:
        return path.exists()
    except OSError as error:
        raise OutputError(f"{path} cannot be used ({_why(error)}); choose another place for the output") from None


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep others out of a folder as long as this process lives, however it ends. The folder is made if it is not
    there; the empty file :data:`LOCK` stays in it. Windows, and disks that know no locks, keep nobody out.

    Args:
        folder: where this process writes.
        what: it does there, for the messages: ``run``, ``preparation``.

    Raises:
        ConfigError: another process has the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")  # noqa: SIM115 - open as long as the folder is ours
    except OSError as error:
        raise ConfigError(f"the {what} folder {folder} cannot be used ({error.strerror}); choose another one") from None
    with file:
        if not lock(file):
            raise ConfigError(f"another {what} is going on in {folder}; wait for its end, or choose another one")
        yield


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process until it is closed or the process ends, however it ends.

    Returns:
        Whether it is ours: False where another process has it. True where there are no locks: on Windows, and on disks
        that know none.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True
