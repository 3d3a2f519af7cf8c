"""What a YAML of settings may hold, and what is said about one that holds something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from facecrafter import config
from facecrafter.config import Bearing, Strict
from facecrafter.errors import ConfigError


class Part(Strict):
    weight: float = Field(1.0, ge=0)


class Whole(Strict):
    name: str
    part: Part | None = None
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = Field(default_factory=dict)


def load(tmp_path: Path, text: str) -> Whole:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return config.check(path, config.read(path), Whole)


def test_good_settings_come_through(tmp_path: Path) -> None:
    whole = load(tmp_path, "name: a\npart: {weight: 2}\nparts: [{weight: 0.5}, {}]")
    assert whole == Whole(name="a", part=Part(weight=2.0), parts=(Part(weight=0.5), Part()))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "holds no settings"),
        ("", "holds no settings"),
        ("name: [", "is not YAML"),
        ("part: {}", "name is missing; give it"),
        ("name: a\nnome: b", "there is no setting 'nome'; did you mean 'name'"),
        ("name: a\nzzz: b", "there is no setting 'zzz'$"),
        ("name: a\npart: {wieght: 1}", r"there is no setting 'part\.wieght'; did you mean 'part\.weight'"),
        ("name: a\nparts: [{}, {wieght: 1}]", r"no setting 'parts\.1\.wieght'; did you mean 'parts\.1\.weight'"),
        ("name: a\nnamed: {one: {wieght: 1}}", r"'named\.one\.wieght'; did you mean 'named\.one\.weight'"),
        ("name: a\nnamed: {weight: {wieght: 1}}", r"no setting 'named\.weight\.wieght'; did you mean"),
        ("name: a\npart: {weight: -1}", r"part\.weight: Input should be greater than or equal to 0"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "some.yaml") in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, told in (("missing.yaml", "there is no config"), ("binary.yaml", "is not a text file")):
        with pytest.raises(ConfigError, match=told):
            config.read(tmp_path / name)


def test_a_file_is_utf8_whatever_the_system_writes(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("name: Zoë", encoding="utf-8")
    code = "import sys\nfrom pathlib import Path\nfrom facecrafter import config\n"
    code += "print(ascii(config.read(Path(sys.argv[1]))['name']))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env={**os.environ, **plain}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == ascii("Zoë"), done.stderr


# --- what two configs differ in ---------------------------------------------------------------------------------------


class Net(Strict):
    width: int = 4
    weights: Annotated[Path | None, Bearing.PLACE] = None


class Run(Strict):
    rate: float = 1.0
    out: Annotated[Path, Bearing.ASIDE] = Path("out")
    data: Annotated[Path, Bearing.PLACE] = Path("data")
    log_every: Annotated[int, Bearing.ASIDE] = Field(5, ge=1)
    net: Net = Net()
    other: Net | None = None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"out": Path("b"), "data": Path("b"), "log_every": 7}, []),
        ({"net": Net(weights=Path("w"))}, []),
        ({"rate": 2.0, "net": Net(width=5, weights=Path("w"))}, ["rate", "net.width"]),
        ({"other": Net()}, ["other"]),
    ],
)
def test_configs_differ_in_what_changes_the_mathematics(changes: dict[str, Any], expected: list[str]) -> None:
    assert config.differences(Run(), Run(**changes)) == expected


def test_an_annotated_setting_is_checked_as_any_other() -> None:
    with pytest.raises(ValueError, match="log_every"):
        Run(log_every=0)


def test_places_are_named_with_their_settings() -> None:
    run = Run(net=Net(weights=Path("w")), other=Net())
    assert config.places(run) == {"data": Path("data"), "net.weights": Path("w")}
