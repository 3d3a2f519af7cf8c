from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecrafter import FaceCrafter, Pose
from facecrafter.errors import ConfigError, OutputError
from facecrafter.faces.asked import Asked, asked_of
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines import watermark
from facecrafter.pipelines.images import inspect
from facecrafter.pipelines.missing import Summary
from facecrafter.pipelines.settings import Settings
from facecrafter.pipelines.sweep import LOOP, STRIP, Sweep, cells, generate_sweep, sweep_of


@pytest.fixture(scope="module")
def crafter(small_model: FaceModel) -> Iterator[FaceCrafter]:
    yield FaceCrafter(small_model)


def test_a_sweep_goes_from_end_to_end() -> None:
    assert sweep_of("yaw=-30:30:7") == Sweep("yaw", (-30, -20, -10, 0, 10, 20, 30))
    assert sweep_of("jawOpen=0.8:0:3") == Sweep("jawOpen", (0.8, 0.4, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yaw", "no NAME=FIRST:LAST:COUNT"),
        ("yaw=1:2", "no NAME=FIRST:LAST:COUNT"),
        ("yaw=a:b:3", "no NAME=FIRST:LAST:COUNT"),
        ("yaw=0:30:1", "from 2 to 64 images, not 1"),
        ("yaw=0:30:65", "from 2 to 64 images, not 65"),
        ("yaw=-60:60:3", "yaw must be from -45 to 45"),
        ("yaw=nan:60:3", "yaw must be from -45 to 45"),
        ("jawopen=0:1:3", "did you mean 'jawOpen'"),
        ("jawOpen=0:2:3", "jawOpen must be a number from 0 to 1"),
    ],
)
def test_bad_sweeps_are_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep_of(text)


def test_a_relative_sweep_starts_from_the_photo_and_goes_below_it() -> None:
    asked = asked_of(relative=True, swept=True)
    found = cells(asked, [sweep_of("jawOpen=-0.5:0.5:3", relative=True)])
    assert [(one.start, one.expression["jawOpen"]) for _, one in found] == [
        ("relative", -0.5),
        ("relative", 0),
        ("relative", 0.5),
    ]
    with pytest.raises(ConfigError, match="from -1 to 1, not -2"):
        sweep_of("jawOpen=-2:0:3", relative=True)
    with pytest.raises(ConfigError, match="nothing is to be added"):
        asked_of(relative=True)


def test_two_sweeps_are_a_grid_around_what_else_is_asked() -> None:
    asked = asked_of(Pose(pitch=5), "mouthSmile=0.3")
    found = cells(asked, [sweep_of("jawOpen=0:1:2"), sweep_of("yaw=-10:10:3")])
    assert [name for name, _ in found][:4] == ["jawOpen0_yaw-10", "jawOpen0_yaw0", "jawOpen0_yaw10", "jawOpen1_yaw-10"]
    assert found[-1][1].pose == Pose(yaw=10, pitch=5)
    assert found[-1][1].expression == {"jawOpen": 1.0, "mouthSmileLeft": 0.3, "mouthSmileRight": 0.3}
    yaw = sweep_of("yaw=-10:10:3")
    for wrong in ([yaw, yaw], [yaw, sweep_of("pitch=0:5:2"), sweep_of("roll=0:5:2")]):
        with pytest.raises(ConfigError, match="a strip is one --sweep, and a grid two"):
            cells(None, wrong)
    with pytest.raises(ConfigError, match="at most 64 images, not 81"):
        cells(None, [sweep_of("yaw=-10:10:9"), sweep_of("pitch=-10:10:9")])


def test_a_strip_and_a_loop_are_made_once(crafter: FaceCrafter, portrait: Path, tmp_path: Path) -> None:
    def run(steps: int = 1, overwrite: bool = False) -> Summary:
        settings = Settings(steps=steps)
        found = cells(None, [sweep_of("yaw=-20:20:3")])
        requests = [(name, crafter.request(portrait, settings=settings, asked=asked)) for name, asked in found]
        return generate_sweep(crafter, requests, 3, tmp_path, loop=True, overwrite=overwrite)

    assert run() == Summary(3, 0, 0)
    assert run() == Summary(0, 3, 0)
    strip = inspect(tmp_path / STRIP)
    assert [one["pose"].split(",")[0] for one in strip.made["sheet of"]] == ["yaw -20", "yaw 0", "yaw 20"]
    with Image.open(tmp_path / STRIP) as image:
        assert image.size == (3 * 132 + 4, 136)
        assert watermark.is_marked(np.asarray(image))
    with Image.open(tmp_path / LOOP) as loop:
        assert loop.n_frames == 4 and b"artificial intelligence" in loop.info["comment"]  # type: ignore[attr-defined]


def test_another_sweep_replaces_nothing(crafter: FaceCrafter, portrait: Path, tmp_path: Path) -> None:
    def run(sweep: str, loop: bool = True, overwrite: bool = False) -> Summary:
        found = cells(None, [sweep_of(sweep)])
        requests = [(name, crafter.request(portrait, settings=Settings(steps=1), asked=asked)) for name, asked in found]
        return generate_sweep(crafter, requests, len(found), tmp_path, loop, overwrite)

    run("yaw=-20:20:2")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for other in ("yaw=20:-20:2", "yaw=-20:20:3", "pitch=-20:20:2"):
        with pytest.raises(OutputError, match=r"sweep\.png shows another sweep; .*--overwrite"):
            run(other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run("pitch=-20:20:2", loop=False, overwrite=True)
    assert (tmp_path / STRIP).read_bytes() != before[STRIP]
    with pytest.raises(OutputError, match=r"sweep\.gif exists already and is no loop of this sweep"):
        run("pitch=-20:20:2")  # the loop is still the first one
    assert (tmp_path / LOOP).read_bytes() == before[LOOP]
    (tmp_path / LOOP).unlink()
    assert run("pitch=-20:20:2") == Summary(0, 2, 0) == run("pitch=-20:20:2")


def test_another_programs_file_is_kept(crafter: FaceCrafter, portrait: Path, tmp_path: Path) -> None:
    (tmp_path / STRIP).write_bytes(b"mine")
    requests = [("a", crafter.request(portrait, asked=Asked()))]
    with pytest.raises(OutputError, match=r"sweep\.png exists already"):
        generate_sweep(crafter, requests, 1, tmp_path)
    assert (tmp_path / STRIP).read_bytes() == b"mine"


def test_another_programs_loop_is_kept_beside_an_own_strip(
    crafter: FaceCrafter, portrait: Path, tmp_path: Path
) -> None:
    requests = [("a", crafter.request(portrait, settings=Settings(steps=1), asked=Asked()))]
    generate_sweep(crafter, requests, 1, tmp_path)
    (tmp_path / LOOP).write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"sweep\.gif exists already"):
        generate_sweep(crafter, requests, 1, tmp_path, loop=True)
    assert (tmp_path / LOOP).read_bytes() == b"mine"
