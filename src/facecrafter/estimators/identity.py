"""Aligned face to identity embedding: one protocol, three recognisers.

The condition and the judge are never the same network: dlib's conditions the mini scale, SFace judges it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.errors import WeightsError
from facecrafter.faces.face import (
    LEFT_EYE,
    LEFT_EYE_CORNERS,
    MOUTH_CORNERS,
    NOSE_BASE,
    NOSE_TIP,
    RIGHT_EYE,
    RIGHT_EYE_CORNERS,
    Face,
)

# Where ArcFace's 112 px template has the right eye, left eye, nose tip and mouth corners (Deng et al., 2019).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112


class Recogniser(Protocol):
    """Turns faces into unit vectors whose dot product says how alike two people are."""

    name: str
    dimension: int

    def embed(self, faces: Sequence[Face]) -> NDArray[np.float32]:
        """``N`` faces of any size to ``(N, dimension)`` embeddings of unit length."""
        ...


def arcface_crop(face: Face, side: int = ARCFACE_SIZE) -> NDArray[np.uint8]:
    """The RGB crop that ArcFace and SFace were trained on, at 112 px: a least-squares similarity of five points.

    Args:
        face: the face.
        side: of the crop in pixels; the template grows with it.
    """
    import cv2

    matrix = similarity(five_points(face.points), ARCFACE_TEMPLATE * (side / ARCFACE_SIZE))
    crop = cv2.warpAffine(face.image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, np.uint8)


def five_points(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The five points of ArcFace's template, ``(..., 5, 2)``, among landmarks ``(..., 478, 2 or 3)``."""
    right, left, others = (
        points[..., list(places), :2].astype(np.float64)
        for places in (RIGHT_EYE, LEFT_EYE, (NOSE_TIP, MOUTH_CORNERS[0], MOUTH_CORNERS[1]))
    )
    return np.concatenate([right.mean(-2, keepdims=True), left.mean(-2, keepdims=True), others], axis=-2)


def chip_points(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The five points of dlib's chip, ``(..., 5, 2)``, among landmarks ``(..., 478, 2 or 3)``: the eye on the image's
    right first, outer corner before inner, then the base of the nose."""
    return points[..., [*LEFT_EYE_CORNERS, *RIGHT_EYE_CORNERS, NOSE_BASE], :2].astype(np.float64)


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ``(..., 2, 3)`` similarity (turn, scale, shift; no mirror) that maps ``(..., N, 2)`` points onto others best.

    Best in the least-squares sense (Umeyama, 1991).
    """
    centre, target_centre = source.mean(-2), target.mean(-2)
    a, b = source - centre[..., None, :], target - target_centre[..., None, :]
    # In the plane a similarity is one complex number, and least squares gives it in closed form.
    a_complex, b_complex = a[..., 0] + 1j * a[..., 1], b[..., 0] + 1j * b[..., 1]
    turn = (np.conj(a_complex) * b_complex).sum(-1) / np.maximum((np.abs(a_complex) ** 2).sum(-1), 1e-12)
    matrix = np.stack([np.stack([turn.real, -turn.imag], -1), np.stack([turn.imag, turn.real], -1)], -2)
    shift = target_centre - (matrix @ centre[..., None])[..., 0]
    return np.concatenate([matrix, shift[..., None]], axis=-1)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors ``(..., D)`` scaled to unit length."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


class OnnxRecogniser:
    """A recogniser that takes ArcFace crops through onnxruntime.

    Args:
        path: the ONNX file.
        name: what to call it in result files.
        mean, scale: pixels 0-255 become ``(pixel - mean) * scale``.

    Raises:
        WeightsError: the file is not an ONNX model that turns one 112 px RGB crop into one vector.
    """

    def __init__(self, path: Path, name: str, mean: float, scale: float) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # int8 weights are widened once, at the start, not again for every face: half the time, the same result.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.intra_op_num_threads = 1 if os.environ.get("FACECRAFTER_WORKER") else 0
        try:
            model = without_prelu(without_weight_inputs(path))
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name
            # Some files leave their shapes open, so a trial says what a shape would promise.
            trial = self._run(np.zeros((3, ARCFACE_SIZE, ARCFACE_SIZE), np.float32))
        except Exception as error:  # onnx and onnxruntime raise types of their own
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} is not a recogniser in ONNX for 112 px images ({reason})") from None
        self.name, self._mean, self._scale = name, mean, scale
        self.dimension = len(trial)

    def embed(self, faces: Sequence[Face]) -> NDArray[np.float32]:
        """Unit embeddings ``(N, D)``. Faces go one at a time: the published file has a fixed batch of one."""
        rows = []
        for face in faces:
            crop = (arcface_crop(face).astype(np.float32) - self._mean) * self._scale
            rows.append(self._run(crop.transpose(2, 0, 1)))
        return unit(np.array(rows, np.float32).reshape(len(rows), self.dimension))

    def _run(self, crop: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw embedding ``(D,)`` of one crop ``(3, 112, 112)`` as the network wants it."""
        return np.asarray(self._session.run(None, {self._input: crop[None]})[0], np.float32).reshape(-1)


def without_weight_inputs(path: Path) -> bytes:
    """An ONNX model that asks for images only. SFace's file declares its weights as inputs too, some of them read by
    no node at all, and onnxruntime then refuses to run without them."""
    import onnx

    model = onnx.load(str(path))
    stored = {tensor.name for tensor in model.graph.initializer}
    read = {name for node in model.graph.node for name in node.input}
    inputs = [value for value in model.graph.input if value.name in read - stored]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return bytes(model.SerializeToString())


def without_prelu(content: bytes) -> bytes:
    """An ONNX model in which ``max(x, 0) + slope * (x - max(x, 0))`` stands for every PReLU.

    The numbers are the same to the bit. onnxruntime spends two thirds of SFace's time in its own PReLU, which takes
    the values one by one.
    """
    import onnx

    model = onnx.load_from_string(content)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        (x, slope), (y,) = node.input, node.output
        above, below, scaled = (f"{y} {part}" for part in ("above", "below", "scaled"))
        for kind, inputs, output in (
            ("Relu", [x], above),
            ("Sub", [x, above], below),
            ("Mul", [below, slope], scaled),
            ("Add", [above, scaled], y),
        ):
            nodes.append(onnx.helper.make_node(kind, inputs, [output]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


class DlibRecogniser:
    """dlib's 128-d ResNet (King, 2017) on its own 150 px chip, from five mesh points in place of dlib's landmarks.

    The chip is cut by dlib; the network runs in torch, which gives the same numbers in a fifth of the time.

    Args:
        batch: faces that the network reads in one call. A call is always of so many, with empty chips where faces are
            missing: the last digits depend on how many there are, not on what the others show. In fours a face takes
            half the time.

    Raises:
        WeightsError: its file is missing or another one.
    """

    name = "dlib"
    dimension = 128

    def __init__(self, batch: int = 1) -> None:
        import dlib

        from facecrafter.estimators.dlib_network import CHIP_SIZE, DlibNetwork

        self._dlib, self._batch, self._side = dlib, batch, CHIP_SIZE
        self._network = DlibNetwork(weights.locate("dlib"))

    def embed(self, faces: Sequence[Face]) -> NDArray[np.float32]:
        """Unit embeddings ``(N, D)``. A face gives the same numbers to the bit, alone or among others."""
        import torch

        rows = np.zeros((len(faces), self.dimension), np.float32)
        with torch.inference_mode():
            for first in range(0, len(faces), self._batch):
                chips = torch.zeros(self._batch, 3, self._side, self._side)
                some = faces[first : first + self._batch]
                for chip, face in zip(chips, some, strict=False):
                    chip.copy_(torch.from_numpy(self.chip(face)).permute(2, 0, 1))
                rows[first : first + len(some)] = self._network(chips)[: len(some)].numpy()
        return rows

    def chip(self, face: Face) -> NDArray[np.uint8]:
        """The ``(150, 150, 3)`` uint8 RGB chip that the network was trained on."""
        dlib, side = self._dlib, len(face.image)
        parts = [dlib.point(round(x), round(y)) for x, y in chip_points(face.points).tolist()]
        shape = dlib.full_object_detection(dlib.rectangle(0, 0, side, side), parts)
        chip = dlib.get_face_chip(np.ascontiguousarray(face.image), shape, size=self._side, padding=0.25)
        return np.asarray(chip, np.uint8)


def sface() -> OnnxRecogniser:
    """SFace (Zhong et al., 2021), 128-d, from its package."""
    path, mean, scale = published("sface")
    return OnnxRecogniser(path, "sface", mean, scale)


def published(name: str, path: Path | None = None) -> tuple[Path, float, float]:
    """The ONNX file of ``sface`` or ``arcface``, and the mean and scale of its pixels.

    Raises:
        WeightsError: the file is missing, or the recogniser has none in ONNX.
    """
    if name == "sface":
        return weights.locate("sface"), 0.0, 1.0
    if name != "arcface":
        raise WeightsError(f"the recogniser '{name}' is not an ONNX file; there are sface and arcface")
    if path is None:
        raise WeightsError("the recogniser 'arcface' needs the path of arcface.onnx; see docs/weights.md")
    if not path.is_file():
        raise WeightsError(f"there is no ArcFace file {path}; see docs/weights.md for where to get arcface.onnx")
    other = weights.OTHER_RECOGNISERS.get(weights.sha256(path))
    if other:
        raise WeightsError(f"{path} is {other}, which gives other people; see docs/weights.md for arcface.onnx")
    return path, 127.5, 1 / 127.5


def arcface(path: Path) -> OnnxRecogniser:
    """ArcFace (Deng et al., 2019), 512-d: the ``arcface.onnx`` of Arc2Face, from a file the user has.

    Raises:
        WeightsError: there is no such file, or it is not a recogniser of 512 numbers.
    """
    path, mean, scale = published("arcface", Path(path))
    recogniser = OnnxRecogniser(path, "arcface", mean, scale)
    if recogniser.dimension != DIMENSIONS["arcface"]:
        raise WeightsError(f"{path} gives {recogniser.dimension} numbers a face, not ArcFace's 512; give arcface.onnx")
    return recogniser


RECOGNISERS: dict[str, Callable[[], Recogniser]] = {"sface": sface, "dlib": DlibRecogniser}
DIMENSIONS = {"sface": 128, "dlib": 128, "arcface": 512}  # how many numbers an embedding has


# How alike one person's photos are at least, by recognisers for which that was measured. dlib's embeddings of Labeled
# Faces in the Wild (12,459 photos of 5,449 people, `data prepare`): of all 240,638 pairs of photos of one person 0.35 %
# are less alike than 0.90, of all 77,366,473 pairs of two people 2.0 % are as alike or more. (At 0.89 these are 0.14 %
# and 4.7 %, at 0.91 1.0 % and 0.7 %.)
SAME_PERSON = {"dlib": 0.90}


def people_in(embeddings: NDArray[np.float32], alike: float) -> NDArray[np.int64]:
    """Which photos show the same person, by average linkage.

    At :data:`SAME_PERSON` it divides, of people of Labeled Faces in the Wild, 0.7 % by two photos, 1.1 % by five and
    2.0 % by ten, and takes 2.4 % of two people for one by a photo each, 0.7 % by five each (random choices of photos).

    Args:
        embeddings: ``(N, D)`` of unit length.
        alike: how alike the photos of one person are at least.

    Returns:
        ``(N,)``, a number for each person, from 0.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(embeddings) < 2:
        return np.zeros(len(embeddings), np.int64)
    tree = linkage(embeddings.astype(np.float64), "average", "cosine")
    return np.asarray(fcluster(tree, 1 - alike, "distance") - 1, np.int64)


def recogniser(name: str, path: Path | None = None, batch: int = 1) -> Recogniser:
    """A recogniser by name: ``sface``, ``dlib``, or ``arcface`` with the path of its file.

    Args:
        name: of the recogniser.
        path: ``arcface.onnx``, for that one.
        batch: faces in one call of a network that takes several; see :class:`DlibRecogniser`.

    Raises:
        WeightsError: the name is unknown, or its file is missing or another one.
    """
    if name == "arcface":
        return arcface(published(name, path)[0])
    if name not in RECOGNISERS:
        raise WeightsError(f"unknown recogniser '{name}'; there are {', '.join([*RECOGNISERS, 'arcface'])}")
    return DlibRecogniser(batch) if name == DlibRecogniser.name else RECOGNISERS[name]()
