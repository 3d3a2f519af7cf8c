"""A small study of coloured squares, and databases: SQLite, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from facecrafter.study.build import build
from facecrafter.study.config import StudyConfig
from facecrafter.study.database import Database, open_database
from facecrafter.study.manifest import Manifest
from facecrafter.study.store import Store

METHODS = ("Secret Alpha", "Secret Beta", "Secret Gamma")
SIDE = 40


def square(path: Path, colour: tuple[int, int, int], side: int = SIDE) -> None:
    """A one-coloured image whose file tells who made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("facecrafter", f'{{"model": "{path.parts[-3]}"}}')
    Image.new("RGB", (side, side), colour).save(path, pnginfo=text)


def draw_images(folder: Path, sets: int, images: int = 2) -> dict[str, Path]:
    """Folders of images of :data:`METHODS` and ``references`` in the layout that ``build`` reads; all differ."""
    for number in range(sets):
        for index, method in enumerate(METHODS):
            colour = (60 * index + 40, number * 7 % 256, number // 37)
            square(folder / method / "control" / f"{number:03d}.png", colour)
            for image in range(images):
                square(folder / method / "diversity" / f"{number:03d}" / f"{image}.png", (*colour[:2], 200 + image))
        for kind, blue in (("control", 90), ("diversity", 150)):
            square(folder / "references" / kind / "source" / f"{number:03d}.png", (250, number * 7 % 256, blue))
        square(folder / "references" / "control" / "target" / f"{number:03d}.png", (250, number * 7 % 256, 120))
    return {method: folder / method for method in METHODS}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder, 30)
    return folder


@pytest.fixture(scope="session")
def made(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Manifest]]:
    """Builds a study of the images, once for each config."""
    known: dict[str, tuple[Path, Manifest]] = {}

    def study(**settings: Any) -> tuple[Path, Manifest]:
        config = StudyConfig(
            methods={name: images / name for name in METHODS},
            references=images / "references",
            **{"images_a_set": 2, "sets": 6, "sets_a_participant": 2, **settings},
        )
        key = config.model_dump_json()
        if key not in known:
            folder = tmp_path_factory.mktemp("study")
            known[key] = folder, build(config, folder)
        return known[key]

    return study


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def pass_hours(self, hours: float) -> None:
        self.time += timedelta(hours=hours)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- databases --------------------------------------------------------------------------------------------------------


def postgresql_binaries() -> Path | None:
    """Where Debian, or the path, has the programs of PostgreSQL."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    places += [Path(found).parent] if found else []
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of this session's own, on a socket in a folder of its own; its URL."""
    binaries = postgresql_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="fc-pg-"))  # short: a socket's path has 107 letters at most
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if not shutil.which("setpriv") or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"

    def run(*command: str) -> None:
        done = subprocess.run([*as_user, *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    try:
        run(str(binaries / "initdb"), "-D", str(data), "-U", "study", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=60"
        run(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://study@/postgres?host={folder}"
        finally:
            run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_numbers = iter(range(1_000_000))


def new_postgresql_database(server: str) -> str:
    """The URL of an empty database: a schema of its own, which is made faster than a database."""
    from sqlalchemy import create_engine, text

    name = f"study{next(_numbers)}"
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    engine.dispose()
    return f"{server}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where a database is: None for SQLite in a folder, or a new database of PostgreSQL."""
    if request.param == "sqlite":
        return None
    return new_postgresql_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def opened(url: str | None, tmp_path: Path) -> Iterator[Callable[[Manifest], Database]]:
    """Opens a study's database, in each of the two kinds."""
    found: list[Database] = []

    def database(study: Manifest) -> Database:
        found.append(open_database(tmp_path, study.digest, url))
        return found[-1]

    yield database
    for one in found:
        one.close()


@pytest.fixture
def store(opened: Callable[[Manifest], Database], made: Callable[..., tuple[Path, Manifest]], clock: Clock) -> Store:
    study = made()[1]
    return Store(study, opened(study), clock)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)
