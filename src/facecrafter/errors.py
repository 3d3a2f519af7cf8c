"""The errors a user can meet. Each message is one sentence that names the input and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

LONGEST_REASON = 200  # characters


def printable(value: object) -> str:
    """What a stranger's file says as text for a terminal: control characters, which could steer it, and what no
    encoding has are written as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))


def counted(count: int, one: str, several: str | None = None) -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """The end of a message on an unknown name, with the nearest known one; empty where none is near.

    Args:
        word: the unknown name.
        known: the names that there are.
        before: what stands before each of them, as in a dotted name.
    """
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, 1)
    return f"; did you mean '{before}{lower[close[0]]}'?" if close else ""


def nearest(word: str, known: Collection[str]) -> str:
    """The same, with all known names where none is near."""
    return did_you_mean(word, known) or f"; there are {', '.join(known)}"


def reason_of(error: Exception) -> str:
    """What a library says in an error, in one line for a sentence of ours: some quote the whole damaged file."""
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__


class FaceCrafterError(Exception):
    """Something the user can put right. The command line prints its message and no traceback.

    Args:
        message: what is wrong and the way out. Names in it may come from a stranger's file, so whatever could break the
            line or steer a terminal is written as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class PhotoError(FaceCrafterError):
    """A file that is not a readable image."""


class NoFaceError(FaceCrafterError):
    """An image in which no face was found."""


class WeightsError(FaceCrafterError):
    """A file of weights that is missing, or is not the file it should be."""


class CheckpointError(FaceCrafterError):
    """A checkpoint that is damaged, of another kind, or of another scale."""


class ConfigError(FaceCrafterError):
    """A config, an option or a condition with a value that cannot be used."""


class DataError(FaceCrafterError):
    """A data set that cannot be prepared or read."""


class OutputError(FaceCrafterError):
    """A result that cannot be written, or that would overwrite another."""


class TrainingError(FaceCrafterError):
    """Training of which a part failed."""
