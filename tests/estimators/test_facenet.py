"""FaceNet: names and shapes as published, its forward pass and its crop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from facecrafter.errors import WeightsError
from facecrafter.estimators import facenet
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.facenet import FaceNet, crop, load
from facecrafter.evaluation.judges import detect
from facecrafter.faces.face import load_photo

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, inputs: int, outputs: int, height: int = 1, width: int = 0) -> Shapes:
    norm = {f"{name}.bn.{line}": (outputs,) for line in ("weight", "bias", "running_mean", "running_var")}
    weight = {f"{name}.conv.weight": (outputs, inputs, height, width or height)}
    return {**weight, **norm, f"{name}.bn.num_batches_tracked": ()}


def chain(name: str, inputs: int, *layers: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for index, (outputs, *kernel) in enumerate(layers):
        shapes |= conv(f"{name}.{index}", inputs, outputs, *kernel)
        inputs = outputs
    return shapes


def joined(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.conv2d.weight": (outputs, inputs, 1, 1), f"{name}.conv2d.bias": (outputs,)}


def block8(name: str) -> Shapes:
    shapes = conv(f"{name}.branch0", 1792, 192) | joined(name, 384, 1792)
    return shapes | chain(f"{name}.branch1", 1792, (192, 1), (192, 1, 3), (192, 3, 1))


def published() -> Shapes:
    shapes = conv("conv2d_1a", 3, 32, 3) | conv("conv2d_2a", 32, 32, 3) | conv("conv2d_2b", 32, 64, 3)
    shapes |= conv("conv2d_3b", 64, 80) | conv("conv2d_4a", 80, 192, 3) | conv("conv2d_4b", 192, 256, 3)
    for index in range(5):
        name = f"repeat_1.{index}"
        shapes |= conv(f"{name}.branch0", 256, 32) | chain(f"{name}.branch1", 256, (32, 1), (32, 3))
        shapes |= chain(f"{name}.branch2", 256, (32, 1), (32, 3), (32, 3)) | joined(name, 96, 256)
    shapes |= conv("mixed_6a.branch0", 256, 384, 3) | chain("mixed_6a.branch1", 256, (192, 1), (192, 3), (256, 3))
    for index in range(10):
        name = f"repeat_2.{index}"
        shapes |= conv(f"{name}.branch0", 896, 128) | joined(name, 256, 896)
        shapes |= chain(f"{name}.branch1", 896, (128, 1), (128, 1, 7), (128, 7, 1))
    shapes |= chain("mixed_7a.branch0", 896, (256, 1), (384, 3)) | chain("mixed_7a.branch1", 896, (256, 1), (256, 3))
    shapes |= chain("mixed_7a.branch2", 896, (256, 1), (256, 3), (256, 3))
    for name in (*(f"repeat_3.{index}" for index in range(5)), "block8"):
        shapes |= block8(name)
    shapes |= {"last_linear.weight": (512, 1792), "last_bn.num_batches_tracked": ()}
    return shapes | {f"last_bn.{line}": (512,) for line in ("weight", "bias", "running_mean", "running_var")}


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = FaceNet()
    state = network.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published()
    assert sum(value.numel() for value in network.parameters()) == 23_482_624
    # The published file is 111,898,327 bytes long: the numbers in float32, the layer of 8,631 people, and names.
    numbers = sum(value.numel() for value in state.values() if value.is_floating_point())
    assert 0 < 111_898_327 - 4 * (numbers + 8631 * 513) < 160_000


def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The published forward pass, function by function from the names of the weights."""

    def conv(name: str, x: Tensor, stride: int = 1, padding: bool = True) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        same = (weight.shape[2] // 2, weight.shape[3] // 2) if padding and stride == 1 else 0
        x = F.conv2d(x, weight, stride=stride, padding=same)
        lines = [f"{name}.bn.{line}" for line in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *(state[line] for line in lines), eps=1e-3))

    def through(name: str, count: int, x: Tensor, last_stride: int = 1) -> Tensor:
        for index in range(count):
            x = conv(f"{name}.{index}", x, last_stride if index == count - 1 else 1)
        return x

    def added(name: str, parts: list[Tensor], scale: float, x: Tensor) -> Tensor:
        return x + scale * F.conv2d(torch.cat(parts, 1), state[f"{name}.conv2d.weight"], state[f"{name}.conv2d.bias"])

    x = conv("conv2d_2b", conv("conv2d_2a", conv("conv2d_1a", pixels, 2), padding=False))
    x = conv("conv2d_4b", conv("conv2d_4a", conv("conv2d_3b", F.max_pool2d(x, 3, 2)), padding=False), 2)
    for index in range(5):
        name = f"repeat_1.{index}"
        parts = [conv(f"{name}.branch0", x), through(f"{name}.branch1", 2, x), through(f"{name}.branch2", 3, x)]
        x = F.relu(added(name, parts, 0.17, x))
    x = torch.cat([conv("mixed_6a.branch0", x, 2), through("mixed_6a.branch1", 3, x, 2), F.max_pool2d(x, 3, 2)], 1)
    for index in range(10):
        name = f"repeat_2.{index}"
        x = F.relu(added(name, [conv(f"{name}.branch0", x), through(f"{name}.branch1", 3, x)], 0.10, x))
    parts = [through(f"mixed_7a.branch{index}", count, x, 2) for index, count in enumerate((2, 2, 3))]
    x = torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
    for index in range(5):
        name = f"repeat_3.{index}"
        x = F.relu(added(name, [conv(f"{name}.branch0", x), through(f"{name}.branch1", 3, x)], 0.20, x))
    x = added("block8", [conv("block8.branch0", x), through("block8.branch1", 3, x)], 1.0, x)
    x = F.linear(x.mean((2, 3)), state["last_linear.weight"])
    lines = [f"last_bn.{line}" for line in ("running_mean", "running_var", "weight", "bias")]
    x = F.batch_norm(x, *(state[line] for line in lines), eps=1e-3)
    return x / x.square().sum(1, keepdim=True).sqrt()


def test_the_forward_pass_is_the_published_one(enliven) -> None:
    network = enliven(FaceNet())
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 160, 160)).astype(np.float32))
    with torch.inference_mode():
        found = network(crops)
        expected = reference(network.state_dict(), (crops - 127.5) / 128)
        assert torch.equal(network(crops), found)
        alone = network(crops[2:])
    assert found.shape == (3, 512)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[2:], alone, rtol=1e-3, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3


def hollow() -> dict[str, Tensor]:
    """A state of the right names and shapes that is small on disk: each tensor is one number, repeated."""
    return {name: torch.full((), 0.5).expand(shape) for name, shape in published().items()}


def test_a_file_is_checked_by_shapes_and_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facenet.pt"
    torch.save({name: value for name, value in hollow().items() if not name.startswith("block8.")}, path)
    with pytest.raises(
        WeightsError, match=r"block8\.branch0\.conv\.weight the first of them; give the published 20180402"
    ):
        load(path)
    torch.save(hollow() | {"logits.weight": torch.zeros(10575, 1)}, path)  # as of the network for CASIA-WebFace
    with pytest.raises(
        WeightsError, match=r"is not the FaceNet file: .* by its sha256; give the published 20180402-114759"
    ):
        load(path)
    monkeypatch.setattr(facenet, "PUBLISHED", dataclasses.replace(facenet.PUBLISHED, sha256=None))
    assert load(path).last_bn.bias[0] == 0.5


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose colours say where they are."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([columns, rows, np.zeros_like(rows)], 2)


def points(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    inside = rng.uniform((left, top, -9), (right, bottom, 9), (476, 3))
    return np.concatenate([[[left, top, 0], [right, bottom, 0]], inside]).astype(np.float32)


# The box that the MTCNN of facenet-pytorch 2.6.0 finds in some photos (of LFW: Name_0001.jpg).
MTCNN_BOXES = {
    "Aaron_Peirsol": (75.9, 66.2, 167.8, 188.3),
    "Abdoulaye_Wade": (87.1, 63.6, 186.4, 196.3),
    "Abdullah": (76.0, 65.4, 170.2, 184.6),
    "Abel_Pacheco": (88.7, 64.1, 181.7, 189.1),
    "Adam_Sandler": (82.1, 63.3, 171.3, 194.3),
    "Adrien_Brody": (79.0, 63.7, 163.5, 182.8),
    "Ai_Sugiyama": (86.7, 61.7, 183.2, 194.8),
    "Al_Sharpton": (79.5, 57.9, 185.4, 204.6),
}
ASTRONAUT_BOX = (181.1, 62.2, 267.7, 172.1)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    inside = float(sides.clip(0).prod())
    return inside / (float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - inside)


def test_the_box_is_nearer_to_mtcnns_than_the_landmarks_own(
    lfw: Path, finder: FaceFinder, astronaut: np.ndarray
) -> None:
    photos = {name: load_photo(lfw / name / f"{name}_0001.jpg") for name in MTCNN_BOXES}
    boxes = {**MTCNN_BOXES, "astronaut": ASTRONAUT_BOX}
    own, expected = [], []
    for name, photo in {**photos, "astronaut": astronaut}.items():
        sight = detect(finder, photo)
        assert sight is not None
        corners = sight.points[:, :2]
        own.append(overlap(np.concatenate([corners.min(0), corners.max(0)]), np.array(boxes[name])))
        expected.append(overlap(np.concatenate(facenet.mtcnn_box(sight.points)), np.array(boxes[name])))
    assert np.mean(own) < 0.85 and np.mean(expected) > 0.89
    assert sum(after > before for after, before in zip(expected, own, strict=True)) >= 8


def test_a_known_box_is_moved_by_its_shares() -> None:
    low, high = facenet.mtcnn_box(points(100, 200, 200, 400))
    assert low.tolist() == pytest.approx([100.7, 176]) and high.tolist() == pytest.approx([197.4, 396.8])


def landmarks_within(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Landmarks for which :func:`facenet.mtcnn_box` is this box."""
    edges, low, high = np.array(facenet.MTCNN_EDGES), np.array([left, top]), np.array([right, bottom])
    side = (high - low) / (1 + edges[2:] - edges[:2])
    first = low - edges[:2] * side
    return points(*first, *(first + side))


def test_the_crop_is_the_box_with_a_margin_stretched() -> None:
    """A box of 73 x 146 gets a margin of 3.5 and 7 a side, that is 80 x 160 pixels of the image."""
    cut = crop(coordinates(250, 200), landmarks_within(60.6, 40.6, 133.6, 186.6)).astype(int)
    assert cut.shape == (160, 160, 3)
    assert np.array_equal(cut[:, 0, 1], np.arange(33, 193))  # one row a row
    assert cut[0, 0, 0] == 57 and cut[0, 159, 0] == 136  # half a column a column
    assert np.abs(cut[0, :, 0] - (56.75 + np.arange(160) / 2)).max() <= 1


@pytest.mark.parametrize("box", [(-30, -20, 60, 90), (150, 200, 300, 400), (-50, -50, -10, -10), (300, 300, 400, 400)])
def test_a_box_beyond_the_image_is_cut_at_its_edge(box: tuple[float, ...]) -> None:
    cut = crop(coordinates(250, 200), points(*box))
    assert cut.shape == (160, 160, 3) and cut.dtype == np.uint8
