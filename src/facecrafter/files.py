"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()
