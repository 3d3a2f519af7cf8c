"""A built study: its config, its methods, and which served image is whose. It is written once and never changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError

from facecrafter.config import Strict
from facecrafter.errors import DataError
from facecrafter.io import write_whole
from facecrafter.study.config import Kind, StudyConfig
from facecrafter.web.tokens import kept_token

MANIFEST = "study.json"
IMAGES = "images"
TOKEN = "admin-token"


class ImageSet(Strict):
    """The images of one request, or of one person: names of files in the folder's ``images``.

    Attributes:
        name: the request, for the export.
        references: by ``source`` and ``target``.
        images: of each method, in the order of the group's methods.
    """

    name: str
    references: dict[str, str]
    images: tuple[tuple[str, ...], ...]


class Group(Strict):
    """All sets of one kind, with the methods that made them. ``size`` is the width and height of every image."""

    methods: tuple[str, ...] = Field(min_length=2)
    size: tuple[int, int]
    sets: tuple[ImageSet, ...] = Field(min_length=1)


class Manifest(Strict):
    """A built study."""

    version: int = 1
    config: StudyConfig
    groups: dict[Kind, Group]
    # As its file has it. A version with more settings fills in defaults, and the study stays the same.
    _written: str | None = PrivateAttr(None)

    @property
    def digest(self) -> str:
        """What a database must be of to belong to this study."""
        content = self.model_dump_json() if self._written is None else self._written
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @classmethod
    def of_file(cls, content: dict[str, Any]) -> Manifest:
        """A study by the content of its file.

        Raises:
            ValidationError: it is none.
        """
        study = cls(**content)
        study._written = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return study

    def group(self, question: str) -> Group:
        """The images that a question is about."""
        return self.groups[self.config.question(question).images]


def read(folder: Path) -> Manifest:
    """The study in a folder.

    Raises:
        DataError: there is none, or its file is damaged.
    """
    path = folder / MANIFEST
    try:
        return Manifest.of_file(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} holds no study; build one with: facecrafter study new") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{path} is damaged ({where}); build the study again in another folder") from None


def write(folder: Path, manifest: Manifest) -> None:
    """Write the study's file, and an admin token that its owner alone can read. The file of another study that is there
    stays as ``study-DIGEST.json``: answers in PostgreSQL name their methods and sets by it.

    Raises:
        OutputError: a file cannot be written.
    """
    admin_token(folder)
    _keep_former(folder, manifest)
    write_whole(folder / MANIFEST, f"{manifest.model_dump_json(indent=1)}\n".encode())


def _keep_former(folder: Path, manifest: Manifest) -> None:
    path = folder / MANIFEST
    try:
        former = read(folder)
    except DataError:  # none, or one that nobody can read
        return
    if former.digest != manifest.digest:
        write_whole(folder / f"{path.stem}-{former.digest}{path.suffix}", path.read_bytes())


def admin_token(folder: Path) -> str:
    """The token that status and export over HTTP ask for; one is made where there is none.

    Raises:
        OutputError: its file cannot be used.
    """
    return kept_token(folder / TOKEN)
