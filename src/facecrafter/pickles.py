"""Files of PyTorch's, which are pickles: read without running anything that they name."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

# What PyTorch's reader for weights only says of a class that it does not know, and of a use of one that it refuses.
_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not")
_REFUSED = re.compile(r"Can only |Trying to |persistent id")


class _Inert:
    """Stands for every class that a file names and that is no weight, such as a training framework's callbacks."""

    def __init__(self, *_: object) -> None: ...

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


class ForeignClasses(Exception):
    """A pickle that cannot be read without running classes of the program that wrote it; its text follows a path."""

    def __init__(self, names: Iterable[str]) -> None:
        first, *others = sorted(names)
        more = f" and {len(others)} more" if others else ""
        super().__init__(
            f"is a pickle with objects of other programs ({first}{more}), whose code is not run here; if you trust the "
            "file, save its weights alone where it was made: torch.save(checkpoint['state_dict'], FILE)"
        )


def foreign_class(error: Exception) -> str | None:
    """The class for which PyTorch's reader for weights only refused a file; None where it was something else."""
    found = _UNKNOWN.search(str(error))
    return found[1] if found else None


def unpickled(path: Path, mmap: bool = False) -> Any:
    """What a file holds, by PyTorch's reader for weights only, with classes that it does not know made inert.

    Args:
        path: a file of PyTorch's, in either of its formats.
        mmap: map the tensors of a file in the newer format, so that their numbers are not read.

    Raises:
        ForeignClasses: an object is made by more than its class and its state.
        Exception: the file is damaged; of whatever type pickle, zip and torch have for it.
    """
    zipped = zipfile.is_zipfile(path)
    known = set(torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else ())
    while True:
        names = known | {f"builtins.{name}" for name in known if "." not in name}
        try:
            with torch.serialization.safe_globals([(_Inert, name) for name in names]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
        except pickle.UnpicklingError as error:
            unknown = foreign_class(error)
            if unknown is not None and unknown not in known:  # the older format does not list them beforehand
                known.add(unknown)
            elif known and _REFUSED.search(str(error)):
                raise ForeignClasses(known) from None
            else:
                raise
