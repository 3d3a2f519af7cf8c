"""Images that many tests look at: a photo that a package brings, and a few of Labeled Faces in the Wild."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.face import Face

if TYPE_CHECKING:
    from facecrafter.data.shards import Prepared
    from facecrafter.models.checkpoint import FaceModel
    from facecrafter.models.scales import Scale

sys.path.insert(0, str(Path(__file__).parent))  # for tiny_arc2face, in worker processes too

# Before any test module is imported: what this machine has fetched or set for itself decides no test.
USERS_CACHE = Path(os.environ.get("FACECRAFTER_CACHE", Path.home() / ".cache" / "facecrafter"))
EMPTY_CACHE = tempfile.mkdtemp(prefix="facecrafter-tests-")
os.environ["FACECRAFTER_CACHE"] = EMPTY_CACHE
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
for setting in ("FACECRAFTER_WORKER", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
    os.environ.pop(setting, None)


def pytest_unconfigure() -> None:
    """Remove the empty cache."""
    shutil.rmtree(EMPTY_CACHE, ignore_errors=True)


LFW = Path(__file__).parents[2] / "shared" / "data" / "lfw-deepfunneled.tar.gz"

# Three photos each of eight people. The archive is in alphabetical order, so reading stops after its first hundredth.
LFW_PEOPLE = (
    "Aaron_Peirsol",
    "Abdoulaye_Wade",
    "Abdullah",
    "Abel_Pacheco",
    "Adam_Sandler",
    "Adrien_Brody",
    "Ai_Sugiyama",
    "Al_Sharpton",
)
LFW_PHOTOS = tuple(f"{name}/{name}_{number:04}.jpg" for name in LFW_PEOPLE for number in (1, 2, 3))


Interrupted = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def interrupted() -> Interrupted:
    """Runs a command that sends itself signals at chosen moments: see interrupted.py."""
    program = Path(__file__).with_name("interrupted.py")

    def run(moments: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), moments, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture(scope="session")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of people, ``Name/Name_0001.jpg`` to ``Name_0003.jpg``: those of LFW_PEOPLE, 250 px photos."""
    if not LFW.is_file():
        pytest.skip(f"needs {LFW}, which only the project's own machines have")
    folder = tmp_path_factory.mktemp("lfw")
    missing = set(LFW_PHOTOS)
    with tarfile.open(LFW, "r|gz") as archive:
        for member in archive:
            photo = member.name.partition("/")[2]
            if photo not in missing:
                continue
            content = archive.extractfile(member)
            assert content is not None
            (folder / photo).parent.mkdir(exist_ok=True)
            (folder / photo).write_bytes(content.read())
            missing.remove(photo)
            if not missing:
                return folder
    raise AssertionError(f"{LFW} has no {sorted(missing)}")


@pytest.fixture
def notes() -> Iterator[Callable[[], list[str]]]:
    """What the package has logged since the last call."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    def read() -> list[str]:
        new = said.copy()
        said.clear()
        return new

    listener, package = Listener(), logging.getLogger("facecrafter")
    package.addHandler(listener)
    yield read
    package.removeHandler(listener)


@pytest.fixture(scope="session")
def fetched() -> Callable[[str], Path]:
    """A published file of weights by its name, from where `facecrafter weights fetch` put it for the user."""
    from facecrafter import weights

    def path(name: str) -> Path:
        entry = weights.entry(name)
        file = USERS_CACHE / entry.module / entry.path
        if not file.is_file():
            pytest.skip(f"needs {entry.package}, which `facecrafter weights fetch {name}` brings")
        assert weights.sha256(file) == entry.sha256
        return file

    return path


@pytest.fixture(scope="session")
def finder() -> Iterator[FaceFinder]:
    """One face finder for all tests."""
    with FaceFinder() as finder:
        yield finder


@pytest.fixture(scope="session")
def astronaut() -> NDArray[np.uint8]:
    """A real photo, ``(512, 512, 3)``, with one face of about 90 x 106 px at (225, 124)."""
    from skimage.data import astronaut

    return np.asarray(astronaut(), np.uint8)


@pytest.fixture(scope="session")
def face(finder: FaceFinder, astronaut: NDArray[np.uint8]) -> Face:
    """The astronaut's face, aligned at 256 px."""
    return finder.find(astronaut, 256)


@pytest.fixture(scope="session")
def small_scale() -> Scale:
    """The mini scale with narrow networks: the same classes, blocks and conditions at a twentieth of the cost."""
    from facecrafter.models import scales

    return dataclasses.replace(
        scales.MINI,
        unet={
            **scales.MINI.unet,
            "block_out_channels": (32, 32),
            "norm_num_groups": 8,
            "attention_head_dim": 2,
            "cross_attention_dim": 128,
        },
        text={**scales.MINI.text, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2},
        controls={
            **scales.MINI.controls,
            "context_width": 64,
            "landmark_channels": (3, 16, 16, 16, 16, 64),
            "emotion_hidden": 32,
        },
    )


def fresh_model(scale: Scale, seed: int = 0, live_controls: bool = True) -> FaceModel:
    """A random whole model in evaluation mode; its value projections are made non-zero, so that its controls act."""
    import torch

    from facecrafter.models import scales
    from facecrafter.models.checkpoint import FaceModel

    torch.manual_seed(seed)
    unet = scales.build_unet(scale)
    controls = scales.build_controls(scale, unet)
    if live_controls:
        for values in (controls.landmark_values, controls.emotion_values):
            for layer in values:
                torch.nn.init.normal_(layer.weight, std=0.1)
    model = FaceModel(scale, unet, scales.build_encoder(scale), scales.build_autoencoder(scale), controls)
    for part in (*model.modules.values(), model.encoder):
        part.requires_grad_(False).eval()
    return model


@pytest.fixture(scope="session")
def tiny_model() -> FaceModel:
    """A whole random model of the mini scale at its real widths, its controls acting. Not to be changed by tests."""
    from facecrafter.models import scales

    return fresh_model(scales.MINI)


@pytest.fixture(scope="session")
def small_model(small_scale: Scale) -> FaceModel:
    """The same at the small scale. Not to be changed by tests."""
    return fresh_model(small_scale)


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """Eight made-up samples of 128 px: Ann and Bob three each, Cid one, and Ida, who is held out of training."""
    from facecrafter.data.shards import Prepared

    rng = np.random.default_rng(0)
    count, size = 8, 128
    smooth = rng.integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(size // 8, 1).repeat(size // 8, 2)
    identity = rng.normal(size=(count, 128)).astype(np.float32)
    return Prepared(
        images=smooth,
        points=rng.uniform(0, size, (count, 478, 3)).astype(np.float32),
        blendshapes=rng.random((count, 52), np.float32),
        angles=rng.uniform(-40, 40, (count, 3)).astype(np.float32),
        identity=identity / np.linalg.norm(identity, axis=1, keepdims=True),
        emotion=rng.random((count, 10), np.float32),
        masks=rng.integers(0, 256, (count, 64, 64), np.uint8),
        persons=["Ann", "Ann", "Bob", "Ida", "Bob", "Ann", "Bob", "Cid"],
        files=[f"{index}.jpg" for index in range(count)],
    )


@pytest.fixture(scope="session")
def model_folder(small_model: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as a folder, which ``--model`` takes."""
    from facecrafter.models.checkpoint import save_model

    folder = tmp_path_factory.mktemp("models") / "small"
    save_model(small_model, folder)
    return folder


@pytest.fixture(scope="session")
def portrait(astronaut: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The astronaut as a file."""
    from PIL import Image

    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path
