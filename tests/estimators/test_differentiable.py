"""The recogniser in torch is the recogniser in onnxruntime, and its gradients are right."""

from __future__ import annotations

from pathlib import Path

import dlib
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from facecrafter import weights
from facecrafter.errors import WeightsError
from facecrafter.estimators.differentiable import (
    ARCFACE_CROP,
    DLIB_CHIP,
    DifferentiableRecogniser,
    differentiable,
)
from facecrafter.estimators.dlib_network import DlibNetwork
from facecrafter.estimators.identity import DlibRecogniser, OnnxRecogniser, arcface_crop, five_points, published, unit
from facecrafter.faces.face import Face


@pytest.fixture(scope="module")
def sface() -> DifferentiableRecogniser:
    return DifferentiableRecogniser(*published("sface"))


def crops_of(face: Face) -> torch.Tensor:
    return torch.from_numpy(arcface_crop(face).copy()).permute(2, 0, 1)[None].float()


def test_sface_says_what_onnxruntime_says(sface: DifferentiableRecogniser, face: Face) -> None:
    path, mean, scale = published("sface")
    expected = OnnxRecogniser(path, "sface", mean, scale).embed([face])
    np.testing.assert_allclose(sface(crops_of(face)).numpy(), expected, atol=1e-4)


def test_a_face_in_a_batch_is_the_same_face(sface: DifferentiableRecogniser, face: Face) -> None:
    crops = torch.cat([crops_of(face), 255 - crops_of(face)])
    torch.testing.assert_close(sface(crops)[0], sface(crops[:1])[0], rtol=0, atol=1e-5)


def test_the_grid_cuts_the_recognisers_own_crop(face: Face) -> None:
    image = torch.from_numpy(face.image.copy()).permute(2, 0, 1)[None].float()
    grid = torch.from_numpy(ARCFACE_CROP.grid(five_points(face.points), len(face.image)))[None]
    difference = (ARCFACE_CROP.cut(image, grid) - crops_of(face)).abs()
    assert difference.mean() < 0.5  # of 255: OpenCV rounds its weights to 1/32 of a pixel
    assert difference.max() < 24


def test_dlibs_network_says_what_dlib_says(face: Face) -> None:
    """From dlib's own chip to the bit of a float, and from the crop out of the image nearly."""
    network, crop = differentiable("dlib")
    own = DlibRecogniser()
    chip = torch.from_numpy(own.chip(face)).permute(2, 0, 1)[None].float()
    theirs = dlib.face_recognition_model_v1(str(weights.locate("dlib"))).compute_face_descriptor(own.chip(face))
    np.testing.assert_allclose(network(chip)[0].numpy(), unit(np.array(theirs, np.float32)), atol=1e-5)
    np.testing.assert_allclose(network(chip).numpy(), own.embed([face]), atol=1e-6)
    image = torch.from_numpy(face.image.copy()).permute(2, 0, 1)[None].float()
    assert crop is DLIB_CHIP
    whole_pixels = crop.points(face.points).round()
    cut = crop.cut(image, torch.from_numpy(crop.grid(whole_pixels, len(face.image)))[None])
    assert (cut - chip).abs().mean() < 1.0  # of 255
    assert float((network(cut) * network(chip)).sum()) > 0.9998


def test_a_file_that_is_not_dlibs_network_is_refused(tmp_path: Path) -> None:
    content = weights.locate("dlib").read_bytes()
    for name, damaged in (("cut.dat", content[:-1000]), ("other.dat", bytes(5000))):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(WeightsError, match=f"{name} is not dlib's face recognition network"):
            DlibNetwork(tmp_path / name)


def test_the_points_of_a_twin_are_the_mirrored_points(face: Face) -> None:
    """Mirroring an image that is already symmetric in its points gives them back, whichever crop."""
    side = len(face.image)
    for crop in (ARCFACE_CROP, DLIB_CHIP):
        five = crop.points(face.points)
        assert np.array_equal(crop.mirrored(crop.mirrored(five, side), side), five)
        symmetric = (five + crop.mirrored(five, side)) / 2
        np.testing.assert_allclose(crop.mirrored(symmetric, side), symmetric, atol=1e-9)
        assert len(set(map(tuple, symmetric))) == 5


def test_the_gradient_is_the_slope(sface: DifferentiableRecogniser, face: Face) -> None:
    crop = crops_of(face).requires_grad_(True)
    towards = F.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)
    (sface(crop)[0] @ towards).backward()
    gradient = crop.grad
    assert gradient is not None
    step = 0.5 * gradient / gradient.abs().max()
    with torch.no_grad():
        slope = sface(crop + step)[0] @ towards - sface(crop - step)[0] @ towards
    assert slope.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=0.05)
    assert slope > 0


def chain(tmp_path: Path, last: str = "Gemm") -> Path:
    """A network of every kind of node in an ArcFace file: a block with a straight path beside it."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(4, 3, 3, 3)) / 5, "b1": rng.normal(size=4), "slope": rng.random((4, 1, 1)),
        "gamma": rng.random(4), "beta": rng.normal(size=4), "mean": rng.normal(size=4), "var": 1 + rng.random(4),
        "w2": rng.normal(size=(4, 4, 3, 3)) / 6, "fc": rng.normal(size=(8, 4 * 28 * 28)) / 50, "fb": rng.normal(size=8),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["data", "w1", "b1"], ["c1"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c1", "slope"], ["p1"]),
        helper.make_node("BatchNormalization", ["p1", "gamma", "beta", "mean", "var"], ["n1"], epsilon=1e-3),
        helper.make_node("Conv", ["n1", "w2"], ["c2"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Add", ["c2", "p1"], ["sum"]),
        helper.make_node("Flatten", ["sum"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "fb"], ["out" if last == "Gemm" else "raw"], transB=1),
    ]
    if last != "Gemm":
        nodes.append(helper.make_node(last, ["raw"], ["out"]))
    shapes = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])]
    output = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8])]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", shapes, output, stored), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    path = tmp_path / "chain.onnx"
    onnx.save(model, str(path))
    return path


def test_an_arcface_like_file(tmp_path: Path, face: Face) -> None:
    path = chain(tmp_path)
    expected = OnnxRecogniser(path, "chain", 127.5, 1 / 127.5).embed([face])
    got = DifferentiableRecogniser(path, 127.5, 1 / 127.5)(crops_of(face))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_a_node_that_has_no_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"chain\.onnx has nodes that .* cannot differentiate: Erf"):
        DifferentiableRecogniser(chain(tmp_path, last="Erf"), 0.0, 1.0)


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "arcface.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(WeightsError, match="is not a recogniser in ONNX"):
        DifferentiableRecogniser(path, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("dlib", None, "not an ONNX file"),
        ("arcface", None, "needs the path"),
        ("arcface", Path("nowhere.onnx"), "no ArcFace file nowhere.onnx"),
    ],
)
def test_recognisers_without_a_file(name: str, path: Path | None, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        published(name, path)


def test_a_recogniser_that_gives_other_people_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chain(tmp_path)
    assert published("arcface", path)[0] == path
    monkeypatch.setitem(weights.OTHER_RECOGNISERS, weights.sha256(path), "glintr100.onnx of somebody")
    with pytest.raises(WeightsError, match=r"chain\.onnx is glintr100\.onnx of somebody, which gives other people"):
        published("arcface", path)
