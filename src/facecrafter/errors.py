"""The errors a user can meet. Each message is one sentence that names the input and the way out."""

from __future__ import annotations


class FaceCrafterError(Exception):
    """Something the user can put right. The command line prints its message and no traceback."""


class PhotoError(FaceCrafterError):
    """A file that is not a readable picture."""


class NoFaceError(FaceCrafterError):
    """A picture in which no face was found."""


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
