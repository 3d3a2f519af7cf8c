"""Recognisers tell people apart on real photos, see what they were trained to see, and refuse wrong files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facecrafter.errors import WeightsError
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import (
    ARCFACE_TEMPLATE,
    SAME_PERSON,
    DlibRecogniser,
    Recogniser,
    arcface_crop,
    people_in,
    published,
    recogniser,
    similarity,
    unit,
    without_prelu,
    without_weight_inputs,
)
from facecrafter.faces.face import (
    LEFT_EYE,
    LEFT_EYE_CORNERS,
    MOUTH_CORNERS,
    NOSE_BASE,
    NOSE_TIP,
    RIGHT_EYE,
    RIGHT_EYE_CORNERS,
    Face,
    load_photo,
)


@pytest.fixture(scope="module")
def people(lfw: Path, finder: FaceFinder) -> dict[str, list[Face]]:
    """Three aligned faces of each of eight people."""
    return {
        folder.name: [finder.find(load_photo(path), 256, "centre", path) for path in sorted(folder.iterdir())]
        for folder in sorted(lfw.iterdir())
    }


@pytest.fixture(scope="module", params=["sface", "dlib"])
def network(request: pytest.FixtureRequest) -> Recogniser:
    return recogniser(request.param)


# Of the cosines of all 24 same-person and 252 other-person pairs: least mean, largest mean, least AUC. Reached are
# 0.744, 0.107 and 1 with SFace, 0.963, 0.826 and 1 with dlib, whose vectors all lie in one corner of the sphere.
LIMITS = {"sface": (0.60, 0.25, 0.99), "dlib": (0.92, 0.85, 0.99)}


def test_same_and_other_people_are_told_apart(network: Recogniser, people: dict[str, list[Face]]) -> None:
    rows = [(name, row) for name, faces in people.items() for row in network.embed(faces)]
    same = np.array([a @ b for (one, a), (two, b) in combinations(rows, 2) if one == two])
    other = np.array([a @ b for (one, a), (two, b) in combinations(rows, 2) if one != two])
    assert len(same) == 24 and len(other) == 252
    at_least, at_most, auc = LIMITS[network.name]
    assert same.mean() > at_least and other.mean() < at_most
    assert (same[:, None] > other).mean() >= auc


def test_dlibs_threshold_separates_people(people: dict[str, list[Face]]) -> None:
    recogniser_of_mini, alike = recogniser("dlib"), SAME_PERSON["dlib"]
    rows = [(name, row) for name, faces in people.items() for row in recogniser_of_mini.embed(faces)]
    pairs = [(one == two, float(a @ b)) for (one, a), (two, b) in combinations(rows, 2)]
    assert all(likeness >= alike for same, likeness in pairs if same)
    assert np.mean([likeness >= alike for same, likeness in pairs if not same]) < 0.03


def test_people_are_divided_by_average_linkage() -> None:
    turns = np.radians([0, 5, 10, 60, 65, 120])
    photos = np.stack([np.cos(turns), np.sin(turns)], 1).astype(np.float32)
    first, second, third = np.split(people_in(photos, 0.9), [3, 5])
    assert len(set(first)) == len(set(second)) == 1 and len({first[0], second[0], third[0]}) == 3
    assert people_in(photos[:3], 0.9).tolist() == [0, 0, 0]
    assert people_in(photos[:1], 0.9).tolist() == [0] and people_in(photos[:0], 0.9).tolist() == []
    assert people_in(photos[[0, 1]], 0.999).tolist() in ([0, 1], [1, 0])


def test_embeddings_are_unit_rows(network: Recogniser, face: Face) -> None:
    rows = network.embed([face, face.resized(128)])
    assert rows.shape == (2, network.dimension) == (2, 128) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert network.embed([]).shape == (0, 128)


def test_size_and_light_hardly_matter_but_the_person_does(
    network: Recogniser, face: Face, people: dict[str, list[Face]]
) -> None:
    darker = replace(face, image=(face.image * 0.7).astype(np.uint8))
    astronaut, small, dark, other = network.embed([face, face.resized(128), darker, people["Adam_Sandler"][0]])
    assert min(astronaut @ small, astronaut @ dark) > astronaut @ other + 0.05


def test_the_astronaut_is_herself_in_a_mirror(
    network: Recogniser, astronaut: NDArray[np.uint8], finder: FaceFinder
) -> None:
    """Needs no data: the same person, mirrored, and a face that is only skin."""
    plain = finder.find(astronaut, 256)
    mirrored = finder.find(astronaut[:, ::-1].copy(), 256)
    skin = replace(plain, image=np.full_like(plain.image, (200, 160, 140)))
    one, two, nobody = network.embed([plain, mirrored, skin])
    assert one @ two > one @ nobody + 0.1


def test_a_batch_changes_nothing(network: Recogniser, face: Face) -> None:
    mirrored = replace(face, image=face.image[:, ::-1].copy())
    together = network.embed([face, mirrored])
    np.testing.assert_array_equal(together, np.concatenate([network.embed([face]), network.embed([mirrored])]))


def test_dlib_reads_several_faces_in_one_call_and_each_by_itself(face: Face) -> None:
    mirrored = replace(face, image=face.image[:, ::-1].copy())
    one_by_one, by_three = recogniser("dlib"), recogniser("dlib", batch=3)
    rows = by_three.embed([mirrored, face, mirrored, face, mirrored])
    assert rows.shape == (5, 128) and not np.allclose(rows[0], rows[1])
    for row, one in zip(rows, [mirrored, face, mirrored, face, mirrored], strict=True):
        np.testing.assert_array_equal(row, by_three.embed([one])[0])
        np.testing.assert_allclose(row, one_by_one.embed([one])[0], atol=1e-5)
    assert by_three.embed([]).shape == (0, 128)


def test_without_prelu_the_numbers_are_the_same_to_the_bit(face: Face) -> None:
    import onnxruntime

    path, _, _ = published("sface")
    before = without_weight_inputs(path)
    after = without_prelu(before)
    assert "PRelu" in {node.op_type for node in onnx.load_from_string(before).graph.node}
    assert "PRelu" not in {node.op_type for node in onnx.load_from_string(after).graph.node}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    crops = [arcface_crop(face), np.random.default_rng(0).integers(0, 256, (112, 112, 3))]
    found = []
    for content in (before, after):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feeds = [{session.get_inputs()[0].name: crop.transpose(2, 0, 1)[None].astype(np.float32)} for crop in crops]
        found.append(np.stack([session.run(None, feed)[0] for feed in feeds]))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("slopes", [(0.25, -0.5, 1.5), (0.0, 1.0, -2.0)])
def test_prelu_is_written_out_for_every_slope(slopes: tuple[float, ...]) -> None:
    import onnxruntime

    values = np.array([-3.7, -1e-30, 0.0, 1e-30, 5.1], np.float32).repeat(3).reshape(1, 5, 1, 3).transpose(0, 3, 2, 1)
    slope = np.array(slopes, np.float32).reshape(3, 1, 1)
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 1, 5])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 5])
    node = helper.make_node("PRelu", ["x", "slope"], ["y"])
    graph = helper.make_graph([node], "prelu", [tensor], [made], [numpy_helper.from_array(slope, "slope")])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(without_prelu(content), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": values})[0], np.where(values > 0, values, values * slope))


def spot_on(face: Face, point: NDArray[np.float32]) -> Face:
    """The face with a black image that has one white spot."""
    rows, columns = np.mgrid[:256, :256] + 0.5
    spot = np.exp(-((columns - point[0]) ** 2 + (rows - point[1]) ** 2) / 30)
    return replace(face, image=np.repeat((255 * spot).round().astype(np.uint8)[..., None], 3, axis=2))


def brightest(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """x and y of the middle of an image's light."""
    light = image[..., 0].astype(float) ** 2
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


def test_the_arcface_crop_puts_the_face_on_the_template(face: Face) -> None:
    five = [face.points[list(eye), :2].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
    five += [face.points[point, :2] for point in (NOSE_TIP, *MOUTH_CORNERS)]
    found = np.array([brightest(arcface_crop(spot_on(face, point))) for point in five])
    assert arcface_crop(face).shape == (112, 112, 3)
    # No face is the template, but least squares leaves no common shift and only little of the rest.
    np.testing.assert_allclose(found.mean(0), ARCFACE_TEMPLATE.mean(0), atol=1)
    assert np.linalg.norm(found - ARCFACE_TEMPLATE, axis=1).max() < 9


def test_similarity_recovers_turn_scale_and_shift() -> None:
    source = np.random.default_rng(0).normal(size=(5, 2))
    angle, scale, shift = 0.4, 3.0, np.array([5.0, -2.0])
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = similarity(source, source @ matrix.T + shift)
    np.testing.assert_allclose(found, np.column_stack([matrix, shift]), atol=1e-12)


def test_similarity_never_mirrors() -> None:
    found = similarity(ARCFACE_TEMPLATE, ARCFACE_TEMPLATE * (-1, 1))
    assert np.linalg.det(found[:, :2]) >= 0


def test_unit_of_nothing_is_nothing() -> None:
    np.testing.assert_array_equal(unit(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


# Where dlib's own code puts the outer and inner corner of either eye and the base of the nose, in shares of the face.
DLIB_TEMPLATE = np.array([[0.8596, 0.2135], [0.6461, 0.2290], [0.1206, 0.2137], [0.3341, 0.2291], [0.4901, 0.6278]])


def test_dlib_sees_a_chip_of_150_pixels(face: Face) -> None:
    network = DlibRecogniser()
    red = replace(face, image=np.full_like(face.image, (255, 0, 0)))
    corners = (*LEFT_EYE_CORNERS, *RIGHT_EYE_CORNERS, NOSE_BASE)
    spots = [spot_on(face, face.points[corner]) for corner in corners]
    chips = [network.chip(one) for one in (face.resized(512), red, *spots)]
    assert {(chip.shape, chip.dtype.name) for chip in chips} == {((150, 150, 3), "uint8")}
    assert chips[1].reshape(-1, 3).mean(0).tolist() == [255, 0, 0]
    found = np.array([brightest(chip) for chip in chips[2:]])
    template = (0.25 + DLIB_TEMPLATE) / 1.5 * 150
    assert np.linalg.norm(found - template, axis=1).max() < 9


# ArcFace's published file is not to be had here; models of its shape are made on the spot.


def tiny_recogniser(path: Path, batch: int | str = 1, dimension: int = 512, side: int = 112, channels: int = 3) -> Path:
    """An ONNX model that turns an image into a random mixture of its 8 x 8 mean colours."""
    values = np.random.default_rng(0).normal(size=(channels * 64, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["small"], kernel_shape=[side // 8] * 2, strides=[side // 8] * 2),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mixture"], ["embedding"]),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, channels, side, side])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, dimension])
    graph = helper.make_graph(nodes, "tiny", [data], [embedding], [numpy_helper.from_array(values, "mixture")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("batch", [1, "None", "batch"])
def test_arcface_runs_files_of_fixed_and_open_batch(tmp_path: Path, face: Face, batch: int | str) -> None:
    network = recogniser("arcface", tiny_recogniser(tmp_path / "arcface.onnx", batch))
    mirrored = replace(face, image=face.image[:, ::-1].copy())
    rows = network.embed([face, mirrored])
    assert network.name == "arcface" and network.dimension == 512
    assert rows.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows[1:], network.embed([mirrored]))


def test_arcface_sees_rgb_from_minus_one_to_one(tmp_path: Path, face: Face) -> None:
    """What the network is given, read off a model that answers with its mean colours."""
    path = tiny_recogniser(tmp_path / "arcface.onnx")
    model = onnx.load(str(path))
    pick = np.zeros((192, 512), np.float32)
    pick[np.arange(192), np.arange(192)] = 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(pick, "mixture"))
    onnx.save(model, str(path))
    (row,) = recogniser("arcface", path).embed([face])
    crop = arcface_crop(face).astype(float) / 127.5 - 1
    means = crop.reshape(8, 14, 8, 14, 3).mean((1, 3)).transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(row[:192], means / np.linalg.norm(means), atol=1e-5)


def test_weights_declared_as_inputs_are_no_obstacle(tmp_path: Path, face: Face) -> None:
    """Old exporters list every weight among the inputs, SFace's even ones that nothing reads."""
    path = tiny_recogniser(tmp_path / "arcface.onnx")
    expected = recogniser("arcface", path).embed([face])
    model = onnx.load(str(path))
    for name, shape in (("mixture", [192, 512]), ("unread", [3])):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, str(path))
    np.testing.assert_array_equal(recogniser("arcface", path).embed([face]), expected)


def text(path: Path) -> None:
    path.write_text("not a network")


WRONG_FILES = {
    "missing": (lambda path: None, "there is no ArcFace file"),
    "folder": (lambda path: path.mkdir(), "there is no ArcFace file"),
    "empty": (lambda path: path.write_bytes(b""), "is not a recogniser"),
    "text": (text, "is not a recogniser"),
    "truncated": (lambda path: path.write_bytes(tiny_recogniser(path).read_bytes()[:5000]), "is not a recogniser"),
    "128 numbers": (lambda path: tiny_recogniser(path, dimension=128), "gives 128 numbers a face, not ArcFace's 512"),
    "another image size": (lambda path: tiny_recogniser(path, side=224), "is not a recogniser"),
    "grey": (lambda path: tiny_recogniser(path, channels=1), "is not a recogniser"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_wrong_arcface_file_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    make, reason = WRONG_FILES[kind]
    path = tmp_path / "arcface.onnx"
    make(path)
    with pytest.raises(WeightsError) as caught:
        recogniser("arcface", path)
    assert str(path) in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("arcface", "needs the path of arcface.onnx"), ("facenet", "unknown recogniser 'facenet'; there are sface, dlib")],
)
def test_a_wrong_name_is_refused_with_the_way_out(name: str, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        recogniser(name)
