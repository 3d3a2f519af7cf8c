"""The errors a user can meet. Each message is one sentence that names the input and the way out."""

from __future__ import annotations

LONGEST_REASON = 200  # characters


def reason_of(error: Exception) -> str:
    """What a library says in an error, in one line for a sentence of ours: some quote the whole damaged file."""
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__


class FaceCrafterError(Exception):
    """Something the user can put right. The command line prints its message and no traceback."""


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
