"""face-api's expression network: its files, its forward pass against plain loops, its crop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facecrafter.errors import NoFaceError, PhotoError, WeightsError
from facecrafter.estimators.emonet import BROWS, OUTLINE
from facecrafter.estimators.face_api import CLASSES, FaceApi, FaceApiReader, crop, load, read_stored
from facecrafter.faces.face import Face

Array = NDArray[np.float64]
Entry = dict[str, Any]


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published manifest, channels last, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for block, width in enumerate((32, 64, 128, 256)):
        for layer in range(4):
            name = f"dense{block}/conv{layer}"
            if block == layer == 0:
                shapes[f"{name}/filters"] = (3, 3, 3, width)
            else:
                shapes[f"{name}/depthwise_filter"] = (3, 3, inputs, 1)
                shapes[f"{name}/pointwise_filter"] = (1, 1, inputs, width)
            shapes[f"{name}/bias"] = (width,)
            inputs = width
    return {**shapes, "fc/weights": (256, 7), "fc/bias": (7,)}


def made(entries: list[Entry], folder: Path, content: bytes) -> tuple[Path, Path]:
    """A manifest and its numbers as files."""
    manifest, binary = folder / "manifest.json", folder / "weights.bin"
    manifest.write_text(json.dumps([{"weights": entries, "paths": ["weights.bin"]}]))
    binary.write_bytes(content)
    return manifest, binary


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Path, Path], dict[str, Array]]:
    """Random weights of the published shapes, filters in 8 bits and biases in floats, and what they stand for."""
    random = np.random.default_rng(0)
    entries: list[Entry] = []
    content, values = b"", {}
    for name, shape in published().items():
        entry: Entry = {"name": name, "shape": shape, "dtype": "float32"}
        if name.endswith("bias"):
            floats = random.normal(0, 0.1, shape).astype("<f4")
            content, values[name] = content + floats.tobytes(), floats.astype(np.float64)
        else:
            reach = math.sqrt(6 / math.prod(shape[:3]) if name != "fc/weights" else 0.1)
            entry["quantization"] = {"dtype": "uint8", "scale": 2 * reach / 255, "min": -reach}
            steps = random.integers(0, 256, shape, np.uint8)
            content, values[name] = content + steps.tobytes(), steps * (2 * reach / 255) - reach
        entries.append(entry)
    return made(entries, tmp_path_factory.mktemp("face-api"), content), values


# --- the forward pass -------------------------------------------------------------------------------------------------


def padded_places(side: int, stride: int) -> tuple[int, int]:
    """How many places a "same" convolution has, and how many zeros stand before the first of an image's."""
    places = -(-side // stride)
    return places, max((places - 1) * stride + 3 - side, 0) // 2


def loops(image: Array, stride: int, step: Callable[[Array, int, int], Array], width: int) -> Array:
    """A 3x3 "same" convolution, place by place; what is beyond the image adds nothing."""
    side = len(image)
    places, before = padded_places(side, stride)
    result = np.zeros((places, places, width))
    for row in range(places):
        for column in range(places):
            for i in range(3):
                for j in range(3):
                    y, x = row * stride + i - before, column * stride + j - before
                    if 0 <= y < side and 0 <= x < side:
                        result[row, column] += step(image[y, x], i, j)
    return result


def reference(weights: dict[str, Array], image: Array) -> Array:
    """Probabilities ``(7,)`` of one crop ``(112, 112, 3)``, by loops over places."""

    def layer(name: str, x: Array, stride: int) -> Array:
        bias = weights[f"{name}/bias"]
        if f"{name}/filters" in weights:
            filters = weights[f"{name}/filters"]
            return loops(x, stride, lambda pixel, i, j: pixel @ filters[i, j], len(bias)) + bias
        depthwise = weights[f"{name}/depthwise_filter"][..., 0]
        each = loops(x, stride, lambda pixel, i, j: pixel * depthwise[i, j], x.shape[2])
        return each @ weights[f"{name}/pointwise_filter"][0, 0] + bias

    def relu(x: Array) -> Array:
        return np.maximum(x, 0)

    x = (image - (122.782, 117.001, 104.298)) / 255
    for block in range(4):
        first = relu(layer(f"dense{block}/conv0", x, 2))
        second = layer(f"dense{block}/conv1", first, 1)
        third = layer(f"dense{block}/conv2", relu(first + second), 1)
        fourth = layer(f"dense{block}/conv3", relu(first + second + third), 1)
        x = relu(first + second + third + fourth)
    assert x.shape == (7, 7, 256)
    logits = x.mean((0, 1)) @ weights["fc/weights"] + weights["fc/bias"]
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum())


def test_the_network_is_what_plain_loops_compute(files: tuple[tuple[Path, Path], dict[str, Array]]) -> None:
    paths, weights = files
    network = load(*paths)
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    with torch.inference_mode():
        found = network(torch.from_numpy(image).permute(2, 0, 1)[None].float()).softmax(1)[0]
    expected = reference(weights, image.astype(np.float64))
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=1e-6)
    assert 0.01 < expected.max() < 0.99  # no softmax that hides what comes before it


def test_the_network_has_no_other_weights() -> None:
    with torch.device("meta"):
        network = FaceApi()
    numbers = sum(value.numel() for value in network.state_dict().values())
    assert numbers == sum(math.prod(shape) for shape in published().values())
    # The published file is so long: a byte a number, and four for each of a bias.
    biases = sum(math.prod(shape) for name, shape in published().items() if name.endswith("bias"))
    assert numbers + 3 * biases == 329_468


# --- files ------------------------------------------------------------------------------------------------------------


def test_bytes_stand_for_steps_from_the_least(tmp_path: Path) -> None:
    entries = [
        {"name": "a", "shape": [2, 2], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}},
        {"name": "b", "shape": [1], "dtype": "float32"},
        {"name": "c", "shape": [1], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.1, "min": 0}},
    ]
    content = bytes([0, 1, 2, 255]) + np.array([-7.25], "<f4").tobytes() + bytes([10])
    found = read_stored(*made(entries, tmp_path, content))
    assert {name: values.tolist() for name, values in found.items()} == {
        "a": [[-1, -0.5], [0, 126.5]],
        "b": [-7.25],
        "c": [1],
    }
    assert all(values.dtype == np.float32 for values in found.values())


A = {"name": "fc/bias", "shape": [7], "dtype": "float32"}
QUANTISED = {"dtype": "uint8", "scale": 0.5, "min": -1}
BAD_MANIFESTS: dict[str, tuple[Any, str]] = {
    "not JSON": ("[{", "is no manifest of weights"),
    "not UTF-8": (b"\xff\xfe", "is no manifest of weights"),
    "nothing": ("", "is no manifest of weights"),
    "no list": ({"weights": []}, "is no manifest of weights"),
    "too deep": ("[" * 100_000, "is no manifest of weights"),
    "no weights": ([{"paths": []}], r"0\.weights"),
    "no name": ([{"weights": [{"shape": [7], "dtype": "float32"}]}], r"0\.weights\.0\.name"),
    "a negative side": ([{"weights": [{**A, "shape": [-1, -7]}]}], r"0\.weights\.0\.shape\.0"),
    "other numbers": ([{"weights": [{**A, "dtype": "int32"}]}], r"0\.weights\.0\.dtype"),
    "16 bits": ([{"weights": [{**A, "quantization": {**QUANTISED, "dtype": "uint16"}}]}], r"quantization\.dtype"),
    "an endless scale": ('[{"weights": [{"name": "a", "shape": [1], "dtype": "float32", "quantization": '
                         '{"dtype": "uint8", "scale": 1e999, "min": 0}}]}]', r"quantization\.scale"),
    "more than there is": ([{"weights": [{**A, "shape": [10**9, 10**9]}]}], "has 28 bytes, and its manifest asks for"),
    "less than there is": ([{"weights": [{**A, "shape": [6]}]}], "has 28 bytes, and its manifest asks for 24"),
    "none of the weights": ([{"weights": [A]}], "weights are missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_a_bad_manifest_is_one_error(tmp_path: Path, kind: str) -> None:
    content, message = BAD_MANIFESTS[kind]
    manifest, binary = tmp_path / "manifest.json", tmp_path / "weights.bin"
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    binary.write_bytes(bytes(28))
    with pytest.raises(WeightsError, match=message) as caught:
        load(manifest, binary)
    assert str(caught.value).endswith("give the published face_expression_model.bin of the npm package "
                                      "@vladmandic/face-api 1.7.15")  # fmt: skip


def test_bad_numbers_are_one_error(files: tuple[tuple[Path, Path], dict[str, Array]], tmp_path: Path) -> None:
    (manifest, binary), _ = files
    content = binary.read_bytes()
    changed = tmp_path / "weights.bin"
    for bad, message in (
        (content[:-1], rf"has {len(content) - 1} bytes, and its manifest asks for {len(content)}"),
        (content + b"\0", "bytes, and its manifest asks for"),
        (b"", "has 0 bytes"),
        (content[:-4] + np.array([np.nan], "<f4").tobytes(), r"fc\.bias has values that are not finite"),
    ):
        changed.write_bytes(bad)
        with pytest.raises(WeightsError, match=message):
            load(manifest, changed)
    for missing in ((tmp_path / "none.json", binary), (manifest, tmp_path / "none.bin"), (tmp_path, binary)):
        with pytest.raises(WeightsError, match=r"cannot be read .*; give the published face_expression_model\.bin"):
            load(*missing)


def test_another_shape_is_one_error(files: tuple[tuple[Path, Path], dict[str, Array]], tmp_path: Path) -> None:
    (manifest, binary), _ = files
    content = json.loads(manifest.read_text())
    for shape in ([7, 256], [1792]):  # as many numbers
        content[0]["weights"][-2]["shape"] = shape
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(WeightsError, match=r"fc\.weight has the shape .* in place of \(7, 256\)"):
            load(tmp_path / "manifest.json", binary)


def test_weights_that_are_not_installed_are_one_error() -> None:
    with pytest.raises(WeightsError, match=r"facecrafter weights fetch face_expression$"):
        load()


# --- crops ------------------------------------------------------------------------------------------------------------


def points(left: float, top: float, right: float, bottom: float) -> NDArray[np.float32]:
    """Landmarks of a face in a box, with a forehead far above it."""
    marks = np.full((478, 3), ((left + right) / 2, (top + bottom) / 2, 0), np.float32)
    marks[10] = (left, top - 1000, 0)
    marks[[OUTLINE[0], OUTLINE[-1]], :2] = (left, bottom), (right, bottom)
    marks[BROWS[0], 1] = top
    return marks


def filled(box: tuple[int, int, int, int], size: int = 200) -> NDArray[np.uint8]:
    """A grey image with a white box (left, top, right, bottom)."""
    image = np.full((size, size, 3), 90, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def test_the_crop_is_the_box_and_a_tenth_in_the_middle_of_black() -> None:
    """A box of 50 x 100 becomes 60 x 120, which is 56 x 112."""
    found = crop(filled((70, 40, 130, 160)), points(75, 50, 125, 150))
    assert found.shape == (112, 112, 3) and found.dtype == np.uint8
    assert (found[:, 28:84] == 255).all()
    assert not found[:, :28].any() and not found[:, 84:].any()
    wide = crop(filled((40, 70, 160, 130)), points(50, 75, 150, 125))
    assert (wide[28:84] == 255).all() and not wide[:28].any() and not wide[84:].any()


def test_the_crop_ends_where_the_image_does() -> None:
    """Of a box of 120 x 120 with its margin, the left half is outside: 60 x 120 is left."""
    found = crop(filled((0, 40, 60, 160)), points(-50, 50, 50, 150))
    assert (found[:, 28:84] == 255).all() and not found[:, :28].any()


def test_colours_keep_their_order() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[..., 0] = 200
    assert crop(image, points(50, 50, 150, 150))[56, 56].tolist() == [200, 0, 0]


GREY = np.zeros((50, 50), np.uint8)
WHOLE = np.zeros((50, 50, 3), np.uint8)
NOT_A_NUMBER = points(5, 5, 45, 45)
NOT_A_NUMBER[OUTLINE[3]] = np.nan


@pytest.mark.parametrize(
    ("image", "marks", "error"),
    [
        (GREY, points(5, 5, 45, 45), PhotoError),
        (WHOLE.astype(np.float32), points(5, 5, 45, 45), PhotoError),
        (WHOLE, NOT_A_NUMBER, NoFaceError),
        (WHOLE, points(20, 20, 20, 20), NoFaceError),
        (WHOLE, points(100, 100, 140, 140), NoFaceError),
        (WHOLE[:0], points(5, 5, 45, 45), NoFaceError),
    ],
)
def test_what_is_no_face_is_one_error(image: NDArray[np.uint8], marks: NDArray[np.float32], error: type) -> None:
    with pytest.raises(error):
        crop(image, marks)


def test_a_batch_reads_what_single_faces_do(files: tuple[tuple[Path, Path], dict[str, Array]]) -> None:
    paths, _ = files
    random = np.random.default_rng(2)
    images = [random.integers(0, 256, (size, size, 3), np.uint8) for size in (60, 128, 300, 90, 200)]
    marks = [points(0.2 * len(one), 0.2 * len(one), 0.8 * len(one), 0.9 * len(one)) for one in images]
    found = FaceApiReader(load(*paths), batch=2).read(images, marks)
    assert found.shape == (5, len(CLASSES)) and found.dtype == np.float64
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    alone = FaceApiReader(load(*paths)).read(images[3:4], marks[3:4])
    np.testing.assert_allclose(found[3], alone[0], rtol=1e-4)
    assert np.ptp(found, axis=0).max() > 1e-4
    assert FaceApiReader(load(*paths)).read([], []).shape == (0, len(CLASSES))
    with pytest.raises(ValueError, match="shorter"):
        FaceApiReader(load(*paths)).read(images, marks[:2])


def test_the_published_network_reads_a_smile(fetched: Callable[[str], Path], face: Face) -> None:
    """The astronaut smiles."""
    reader = FaceApiReader(load(fetched("face_expression_manifest"), fetched("face_expression")))
    read = reader.read([face.image], [face.points])[0]
    assert CLASSES[int(read.argmax())] == "happy" and read.max() > 0.9
