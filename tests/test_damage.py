"""Every reader of files from outside, given files with a few bytes changed, cut or repeated: it reads them, or says in
one of the project's own errors what is wrong, and raises nothing else.

``FACECRAFTER_MUTATIONS=5000 pytest tests/test_damage.py`` goes on for longer.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from facecrafter import config as config_file
from facecrafter.data import fer2013, shards, video
from facecrafter.data.prepare.source import photos_of
from facecrafter.errors import FaceCrafterError
from facecrafter.estimators import weights_file
from facecrafter.evaluation.config import DiversityConfig
from facecrafter.faces import photo
from facecrafter.faces.face import Face
from facecrafter.models import checkpoint
from facecrafter.models.controls import FaceControls
from facecrafter.pipelines.batch import read_pairs
from facecrafter.pipelines.images import inspect, save, signed
from facecrafter.training import stages as training

MUTATIONS = int(os.environ.get("FACECRAFTER_MUTATIONS", "40"))

Reader = Callable[[Path], object]


def mutated(content: bytes, dice: np.random.Generator) -> bytes:
    """Some bytes with one to eight of them changed, a piece of them repeated or left out, or cut short."""
    changed = bytearray(content)
    kind = dice.integers(8)
    # Half of the changes are near the beginning, where the header is.
    reach = len(content) if dice.integers(2) else min(len(content), 600)
    if kind == 0:
        return bytes(changed[: dice.integers(len(content))])
    start, length = int(dice.integers(reach)), int(dice.integers(1, 65))
    if kind == 1:
        return bytes(changed[:start] + changed[start : start + length] * int(dice.integers(2, 40)) + changed[start:])
    if kind == 2:
        del changed[start : start + length]
        return bytes(changed)
    if kind == 3:
        changed[start : start + 4] = bytes([[0xFF, 0x7F, 0x80, 0][dice.integers(4)]] * 4)
        return bytes(changed)
    for place in dice.integers(0, reach, dice.integers(1, 9)):
        changed[place] = dice.integers(256)
    return bytes(changed)


def survive(path: Path, read: Reader, seed: int) -> tuple[int, int]:
    """Read a file, and mutations of it in its place: how many were read, and how many refused in one sentence.

    The file is as it was when this returns.
    """
    content, dice = path.read_bytes(), np.random.default_rng(seed)
    read(path)  # the whole file is fine
    counts = [0, 0]
    for number in range(MUTATIONS):
        path.write_bytes(mutated(content, dice))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            counts[0] += 1
        except FaceCrafterError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, error
            assert path.name in str(error) or path.parent.name in str(error)
            counts[1] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of {path.name} raised {error!r}") from error
    path.write_bytes(content)
    return counts[0], counts[1]


# --- photos -----------------------------------------------------------------------------------------------------------


def image() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


PHOTOS: dict[str, tuple[str, dict[str, Any]]] = {
    "avif": ("AVIF", {}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}),
    "jp2": ("JPEG2000", {}),
    "jpg": ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "interlaced.tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff": ("TIFF", {}),
    "ppm": ("PPM", {}),
    "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "heic": ("HEIF", {}),
}


@pytest.mark.parametrize("ending", PHOTOS)
def test_photos(tmp_path: Path, ending: str) -> None:
    kind, options = PHOTOS[ending]
    path = tmp_path / f"a.{ending}"
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(image()).save(path)
    else:
        image().save(path, kind, **options)
    read, refused = survive(path, photo.load_photo, 1)
    assert refused and read + refused == MUTATIONS


def test_our_own_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save(signed(np.asarray(image()), {"seed": 1, "identity": "a.jpg", "nested": [{"a": 1}]}), path)
    assert survive(path, inspect, 2)[1]


@pytest.mark.parametrize(
    "outcome", ["[" * 100_000, "1" * 5000, '{"a": 1' + "0" * 5000 + "}", '"\\ud800"', "{" * 10, "NaN"]
)
def test_our_own_name_over_other_words(tmp_path: Path, outcome: str) -> None:
    stranger = image()
    stranger.info["facecrafter"] = outcome
    save(stranger, tmp_path / "a.png")
    assert inspect(tmp_path / "a.png").made == {}


# --- tables and settings ----------------------------------------------------------------------------------------------


def test_tables_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('identity,target,emotion,seed\n"a.jpg","b, c.jpg",happy,1\na.jpg,,"sad:0.5",\n' * 1)
    assert survive(path, read_pairs, 3)[1]


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('image,emotion\n"a.jpg",happy\nb.jpg,"sad"\n')
    assert survive(path, fer2013._labels, 4)[1]


CONFIGS = Path(__file__).parents[1] / "configs"


def test_training_configs(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    path.write_bytes((CONFIGS / "mini" / "base.yaml").read_bytes())
    assert survive(path, training.load, 5)[1]


def nested_aliases() -> str:
    """Nine levels of lists of ten of the one before: a few hundred bytes that mean a billion words."""
    levels = ["l0: &l0 word"] + [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(levels)


IMPOSSIBLE = {
    "brackets in brackets": "[" * 20_000,
    "date": "a: 2001-99-99",
    "number of 5,000 digits": "a: " + "1" * 5000,
    "list as a name": "? [a]\n: b",
    "word as a number": "a: !!int x",
    "object": "a: !!python/object:os.system x",
    "list in itself": "a: &a [*a]",
    "zero byte": "\x00",
    "no number": "a: 0b",
    "a million letters": "a: " + "x" * 1_000_001,
    "a billion words": nested_aliases(),
}


@pytest.mark.parametrize("text", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FaceCrafterError, match=r"a\.yaml") as caught:
        config_file.check(tmp_path / "a.yaml", config_file.read(tmp_path / "a.yaml"), DiversityConfig)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


# --- weights ----------------------------------------------------------------------------------------------------------


def test_checkpoints(tmp_path: Path) -> None:
    narrow = {"landmark_size": 32, "context_width": 8, "landmark_channels": (3, 4, 8)}
    controls = FaceControls(block_widths=(8,), landmark_strides=(2, 2), emotion_hidden=4, **narrow)
    path = tmp_path / "controls.safetensors"
    checkpoint.save_part(controls, path, "controls", "mini")
    assert survive(path, lambda path: checkpoint.load_part(path, "controls", "mini"), 6)[1]


def test_a_config_that_asks_for_too_much_is_refused_before_it_is_built(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    config = {"block_widths": [10**9], "context_width": 10**6, "landmark_channels": [3, 10**6], "landmark_strides": [2]}
    metadata = {"format": checkpoint.FORMAT, "kind": "controls", "scale": "mini", "config": json.dumps(config)}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(FaceCrafterError, match=r"a\.safetensors does not hold the tensors its config asks for"):
        checkpoint.load_part(tmp_path / "a.safetensors", "controls", "mini")


@pytest.mark.parametrize("config", ["[" * 100_000, json.dumps({"controls": [1, "a"]})])
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, config: str) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "autoencoder.safetensors"
    metadata = {"format": checkpoint.FORMAT, "kind": "controls", "scale": "mini", "config": config}
    save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(FaceCrafterError, match=r"carries no config|has the control '1', which this version does not"):
        checkpoint.load_part(path, "controls", "mini")
    assert checkpoint.image_size(tmp_path) is None


def test_a_name_in_a_file_does_not_break_the_line_of_an_error(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "controls.safetensors"
    narrow = {"landmark_size": 32, "context_width": 8, "landmark_channels": (3, 4, 8)}
    controls = FaceControls(block_widths=(8,), landmark_strides=(2, 2), emotion_hidden=4, **narrow)
    checkpoint.save_part(controls, path, "controls", "mini")
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({name.replace("landmark", "a\nb\x1b[2J"): value for name, value in tensors.items()}, path, metadata)
    with pytest.raises(FaceCrafterError) as caught:
        checkpoint.load_part(path, "controls", "mini")
    assert r"a\nb\x1b[2J" in str(caught.value) and str(caught.value).isprintable()


def test_small_networks(tmp_path: Path) -> None:
    import torch

    own = weights_file.Own("test 1", "test network", "test")
    path = tmp_path / "own.safetensors"
    weights_file.write_own(torch.nn.Linear(4, 2), {"in_features": 4, "out_features": 2}, path, own)
    assert survive(path, lambda path: weights_file.read_own(path, own, torch.nn.Linear), 7)[1]


def test_pytorch_files(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"a": torch.zeros(4, 4)}}, path)
    published = weights_file.Published("test", "weights.pth")
    assert survive(path, lambda path: weights_file.read(path, published), 8)[1]


# --- prepared folders -------------------------------------------------------------------------------------------------

SIZE = 32


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prepared folder of two samples."""
    folder, rows, samples = tmp_path / "prepared", [], []
    folder.mkdir()
    dice = np.random.default_rng(0)
    image = dice.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    face = Face(
        image, np.zeros((478, 3), np.float32), np.zeros(52, np.float32), np.eye(4, dtype=np.float32), (0, 1, 2, 3)
    )
    for number in (0, 1):
        key, mask = f"{number:08d}", np.zeros((64, 64), np.uint8)
        png, npz = shards.encode(face, {"sface": np.ones(8, np.float32)}, np.zeros(10, np.float32), mask)
        samples.append((key, {"png": png, "npz": npz, "json": b'{"box": [0, 1, 2, 3], "others": 0}'}))
        rows.append({"key": key, "shard": 0, "person": "Ann", "file": f"Ann/{number}.jpg", "emotion": "happy"})
        rows[-1] |= {"yaw": 1.0, "pitch": 2.0, "roll": 0.5, "valence": 0.1, "arousal": 0.2, "others": 0}
    recognisers, emotion = {"sface": {"dimension": 8}}, {"name": "pixels"}
    about = {"format": shards.FORMAT, "size": SIZE, "recognisers": recognisers, "emotion": emotion}
    (folder / "meta.json").write_text(json.dumps(about))
    shards.shard_path(folder, 0).write_bytes(shards.pack(samples))
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in shards.INDEX_COLUMNS.items()])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), folder / "index.parquet")
    return folder


@pytest.mark.parametrize("name", ["shard-00000.tar", "index.parquet", "meta.json"])
def test_prepared_folders(prepared: Path, name: str) -> None:
    assert survive(prepared / name, lambda path: shards.load(path.parent), 9)[1]


def test_a_shards_samples(prepared: Path) -> None:
    """Behind the tar, whose own sums protect nothing of what is in it."""
    key, parts = next(shards.read_shard(shards.shard_path(prepared, 0)))
    for name in ("png", "npz", "json"):

        def read(path: Path, name: str = name) -> object:
            content = shards.pack([(key, {**parts, name: path.read_bytes()})])
            shards.shard_path(prepared, 0).write_bytes(content)
            try:
                return [shards.decode(sample) for _, sample in shards.read_shard(shards.shard_path(prepared, 0))]
            except shards.DAMAGE as error:
                raise FaceCrafterError(f"{path.name} is damaged: {type(error).__name__}") from None

        (prepared / f"part.{name}").write_bytes(parts[name])
        assert survive(prepared / f"part.{name}", read, 10)[1]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
def test_archives_of_photos(tmp_path: Path, ending: str) -> None:
    import shutil

    folder = tmp_path / "photos" / "Ann"
    folder.mkdir(parents=True)
    image().save(folder / "a.jpg")
    kind = {"tar": "tar", "tar.gz": "gztar", "zip": "zip"}[ending]
    path = Path(shutil.make_archive(str(tmp_path / "archive"), kind, tmp_path / "photos"))

    def read(path: Path) -> object:
        with photos_of(path, tmp_path / "out", 1.0) as photos:
            return photos

    assert survive(path, read, 11)[1]


# --- videos -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    folder = tmp_path_factory.mktemp("films")

    def film(ending: str) -> Path:
        path = folder / f"a.{ending}"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264" if ending != "avi" else "mpeg4", rate=5)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(6):
                container.mux(stream.encode(av.VideoFrame.from_image(image())))
            container.mux(stream.encode())
        return path

    yield film


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
def test_videos(films: Callable[[str], Path], ending: str) -> None:
    def read(path: Path) -> object:
        assert video.expected_frames(path, 0.4) >= 1
        return list(video.frames(path, 0.4))

    assert survive(films(ending), read, 12)[1]


def test_mutations_are_of_every_kind() -> None:
    """The tests above would pass if nothing were ever changed."""
    content, dice = bytes(range(256)) * 8, np.random.default_rng(0)
    made = [mutated(content, dice) for _ in range(200)]
    assert all(one != content for one in made) or sum(one == content for one in made) < 5
    assert {(len(one) > len(content)) - (len(one) < len(content)) for one in made} == {-1, 0, 1}
    assert io.BytesIO(made[0]).read() != io.BytesIO(made[1]).read()
