"""The estimators that judge images, behind one protocol, chosen by name.

There are two scales: the paper's (EMOCA v2, FaceNet, EmoNet, Inception-v3), from files that the user has, and what
comes with the project's packages. Names and digests of the weights go into every result, which says whether two
results are by the same judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from facecrafter import weights
from facecrafter.config import Strict
from facecrafter.estimators.emotion_estimator import estimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import recogniser
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import ALIGNED_SIZE, BLENDSHAPES, Face, align

if TYPE_CHECKING:
    from torch import Tensor

    from facecrafter.estimators.emoca import Emoca
    from facecrafter.estimators.lpips import LPIPS

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
Array = NDArray[np.float64]
Reading = TypeVar("Reading")

BATCH = 16
CHUNK = 64
# AlexNet's own size: features of images of other sizes are no features of the same things.
ALEXNET_SIZE = 224
ALEXNET_WIDTH = 256

_NEEDS = {
    ("pose", "emoca"): "emoca_file",
    ("expression", "emoca"): "emoca_file",
    ("identity", "facenet"): "facenet_file",
    ("identity", "arcface"): "arcface_file",
    ("emotion", "emonet"): "emonet_file",
    ("frechet", "inception"): "inception_file",
    ("frechet", "pytorch_fid"): "inception_file",
}


class JudgesConfig(Strict):
    """Which estimators judge, and the files of those that the user brings; see docs/weights.md."""

    pose: Literal["mediapipe", "emoca"] = "mediapipe"
    expression: Literal["mediapipe", "emoca"] = "mediapipe"
    identity: Literal["dlib", "sface", "arcface", "facenet"] = "sface"  # another one than the condition's
    emotion: Literal["facecrafter", "emonet"] = "facecrafter"
    # The FID as TensorFlow's original computes it (inception) or as pytorch-fid does, from one file of weights.
    frechet: Literal["alexnet", "inception", "pytorch_fid"] = "alexnet"
    facenet_file: Path | None = None
    emoca_file: Path | None = None
    emonet_file: Path | None = None
    inception_file: Path | None = None
    arcface_file: Path | None = None

    @model_validator(mode="after")
    def _has_its_files(self) -> JudgesConfig:
        for (role, choice), file in _NEEDS.items():
            if getattr(self, role) == choice and getattr(self, file) is None:
                raise ValueError(f"{role}: {choice} needs `{file}`, the path of its published weights")
        return self


@dataclass(frozen=True)
class DetectedFace:
    """A face and the image that it was found in.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        points: ``(478, 3)`` float32 landmarks in pixels of the image.
        face: aligned at :data:`ALIGNED_SIZE`.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    face: Face


@dataclass(frozen=True)
class Judge(Generic[Reading]):
    """One estimator: rows of numbers off faces (:class:`DetectedFace`) or whole images.

    Attributes:
        name: of the estimator and its weights, as result files have it.
        width: numbers a row, K.
        read: N faces or images to ``(N, K)`` float64; a row does not depend on the others.
    """

    name: str
    width: int
    read: Callable[[Sequence[Reading]], Array]


@dataclass(frozen=True)
class Measurements:
    """What P images show. Rows of images in which no face was found are NaN.

    Attributes:
        found: ``(P,)``, whether a face was found.
        faces: the face nearest to each image's middle, aligned; None where none was found.
        pose: ``(P, 3)`` radians: yaw, pitch and roll (mediapipe), or the global rotation's axis times angle (emoca).
        expression: ``(P, K)``: 52 blendshapes (mediapipe) or FLAME's 50 coefficients (emoca).
        identity: ``(P, D)`` of unit length.
        emotion: ``(P, 10)``: valence, arousal and the eight probabilities.
    """

    found: NDArray[np.bool_]
    faces: list[Face | None]
    pose: Array
    expression: Array
    identity: Array
    emotion: Array


class Judges:
    """The chosen estimators, loaded.

    Args:
        config: which.
        frechet: load the network of the Frechet distance too.

    Attributes:
        names: the estimator of ``pose``, ``expression``, ``identity``, ``emotion``, ``frechet`` and ``lpips``, each
            with the first eight digits of the sha256 of its weights.

    Raises:
        WeightsError: a file is missing, damaged or another one.
    """

    def __init__(self, config: JudgesConfig, frechet: bool = True) -> None:
        self._faces = {role: make[getattr(config, role)](config) for role, make in FACE_JUDGES.items()}
        self.names = {role: judge.name for role, judge in self._faces.items()}
        self.names["lpips"] = packaged("alexnet", "lpips_alexnet")
        if frechet:
            self._features = IMAGE_JUDGES[config.frechet](config)
            self.names["frechet"] = self._features.name

    def measure(self, images: Images, progress: bool = False) -> Measurements:
        """What images show ``(P, S, S, 3)`` uint8 RGB.

        Args:
            images: of one face each; of several the one nearest to the middle counts.
            progress: show a bar.
        """
        from tqdm import tqdm

        count = len(images)
        faces: list[Face | None] = []
        rows = {role: np.full((count, judge.width), np.nan) for role, judge in self._faces.items()}
        with FaceFinder() as finder, tqdm(total=count, desc="measuring", disable=not progress) as bar:
            for start in range(0, count, CHUNK):
                detected = [detect(finder, image) for image in images[start : start + CHUNK]]
                found = [one for one in detected if one]
                places = [start + index for index, one in enumerate(detected) if one]
                for role, judge in self._faces.items():
                    rows[role][places] = judge.read(found)
                faces.extend([one.face if one else None for one in detected])
                bar.update(len(detected))
        return Measurements(np.array([face is not None for face in faces], bool), faces, **rows)

    def features(self, images: Images) -> Array:
        """Features ``(P, F)`` of images as in :meth:`measure`, for :mod:`facecrafter.evaluation.frechet`."""
        return self._features.read(list(images))

    def lpips(self, one: Images, other: Images) -> Array:
        """LPIPS ``(P,)`` between the images of two lists, pair by pair, at their own size.

        Raises:
            WeightsError: the weights are not installed.
        """
        pairs = [np.concatenate(pair) for pair in zip(one, other, strict=True)]
        network = self._lpips

        def distances(stacked: Tensor) -> Tensor:
            a, b = (stacked / 127.5 - 1).chunk(2, dim=2)
            return network(a, b)[:, None]

        return _run(distances, pairs, 1)[:, 0]

    @cached_property
    def _lpips(self) -> LPIPS:
        from facecrafter.estimators.lpips import LPIPS

        return LPIPS(weights.locate("lpips_alexnet"))


def detect(finder: FaceFinder, image: NDArray[np.uint8]) -> DetectedFace | None:
    """The face of an image ``(H, W, 3)`` uint8 RGB that is nearest to its middle, or None where there is none."""
    faces = finder.find_all(image)
    if not faces:
        return None
    middle = np.array(image.shape[1::-1]) / 2
    nearest = min(faces, key=lambda face: float(np.linalg.norm(face.points[:, :2].mean(0) - middle)))
    return DetectedFace(image, nearest.points, align(image, nearest, ALIGNED_SIZE, len(faces) - 1))


def _run(network: Callable[[Tensor], Tensor], images: Images, width: int) -> Array:
    """A network on images of one size, given as ``(B, 3, H, W)`` float 0 to 255, to ``(N, width)``."""
    import torch

    made = np.zeros((len(images), width))
    for start in range(0, len(images), BATCH):
        stack = torch.from_numpy(np.stack(list(images[start : start + BATCH]))).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            made[start : start + BATCH] = network(stack).double().numpy()
    return made


def packaged(name: str, file: str) -> str:
    """The name of an estimator whose weights come in a package."""
    return f"{name} ({weights.entry(file).sha256[:8]})"


def _brought(name: str, path: Path) -> str:
    """The name of an estimator whose weights are a file."""
    return f"{name} ({weights.sha256(path)[:8]})"


def _mediapipe_pose(_: JudgesConfig) -> Judge[DetectedFace]:
    def read(detected: Sequence[DetectedFace]) -> Array:
        return np.radians(np.array([one.face.angles for one in detected], np.float64).reshape(-1, 3))

    return Judge(packaged("mediapipe", "face_landmarker"), 3, read)


def _mediapipe_expression(_: JudgesConfig) -> Judge[DetectedFace]:
    def read(detected: Sequence[DetectedFace]) -> Array:
        return np.array([one.face.blendshapes for one in detected], np.float64).reshape(-1, len(BLENDSHAPES))

    return Judge(packaged("mediapipe", "face_landmarker"), len(BLENDSHAPES), read)


@lru_cache(maxsize=1)
def _emoca(path: Path) -> Emoca:
    """The network, once for both that it reads."""
    from facecrafter.estimators import emoca

    return emoca.load(path)


def _emoca_pose(config: JudgesConfig) -> Judge[DetectedFace]:
    return _emoca_judge(config, 3, lambda network, crops: network.code(crops)["pose"][:, :3])


def _emoca_expression(config: JudgesConfig) -> Judge[DetectedFace]:
    from facecrafter.estimators.emoca import EXPRESSION

    return _emoca_judge(config, EXPRESSION, lambda network, crops: network.expression(crops))


def _emoca_judge(config: JudgesConfig, width: int, ask: Callable[[Emoca, Tensor], Tensor]) -> Judge[DetectedFace]:
    from facecrafter.estimators.emoca import crop

    path = _path(config.emoca_file)
    network = _emoca(path)

    def read(detected: Sequence[DetectedFace]) -> Array:
        crops = [crop(one.image, one.points) for one in detected]
        return _run(lambda stack: ask(network, stack), crops, width)

    return Judge(_brought("emoca", path), width, read)


def _recogniser(config: JudgesConfig) -> Judge[DetectedFace]:
    """dlib, SFace or ArcFace."""
    file = config.arcface_file if config.identity == "arcface" else None
    network = recogniser(config.identity, file)

    def read(detected: Sequence[DetectedFace]) -> Array:
        return network.embed([one.face for one in detected]).astype(np.float64)

    name = _brought(config.identity, file) if file else packaged(config.identity, config.identity)
    return Judge(name, network.dimension, read)


def _facenet(config: JudgesConfig) -> Judge[DetectedFace]:
    from facecrafter.estimators.facenet import WIDTH, crop, load

    path = _path(config.facenet_file)
    network = load(path)

    def read(detected: Sequence[DetectedFace]) -> Array:
        return _run(network, [crop(one.image, one.points) for one in detected], WIDTH)

    return Judge(_brought("facenet", path), WIDTH, read)


def _emotion(config: JudgesConfig) -> Judge[DetectedFace]:
    """The project's own estimator, or EmoNet."""
    reader = estimator(config.emonet_file if config.emotion == "emonet" else None)
    width = 2 + len(EMOTIONS)

    def read(detected: Sequence[DetectedFace]) -> Array:
        emotions = reader.estimate([one.face for one in detected])
        return np.array([emotion.vector for emotion in emotions], np.float64).reshape(-1, width)

    return Judge(_brought(f"{config.emotion} {reader.name}", reader.path), width, read)


INDEPENDENT = "face-api"  # how records name it


def independent_emotion() -> Judge[DetectedFace]:
    """face-api's network, which had no part in training or labels; it reads its seven classes beside the judge of
    emotion, and no config names it.

    Raises:
        WeightsError: its weights are not installed, or are others.
    """
    from facecrafter.estimators.face_api import CLASSES, FaceApiReader

    reader = FaceApiReader()

    def read(detected: Sequence[DetectedFace]) -> Array:
        return reader.read([one.image for one in detected], [one.points for one in detected])

    return Judge(packaged(INDEPENDENT, "face_expression"), len(CLASSES), read)


def _alexnet(_: JudgesConfig) -> Judge[NDArray[np.uint8]]:
    """The last of the five feature maps of LPIPS's AlexNet (unit length a place), its mean over places."""
    import torch.nn.functional as F

    from facecrafter.estimators.lpips import LPIPS

    network = LPIPS(weights.locate("lpips_alexnet"))

    def pooled(stack: Tensor) -> Tensor:
        size = (ALEXNET_SIZE, ALEXNET_SIZE)
        shown = F.interpolate(stack, size, mode="bilinear", align_corners=False, antialias=True)
        return network.features(shown / 127.5 - 1)[-1].mean((2, 3))

    def read(images: Images) -> Array:
        return _run(pooled, images, ALEXNET_WIDTH)

    return Judge(packaged("alexnet", "lpips_alexnet"), ALEXNET_WIDTH, read)


def _inception(config: JudgesConfig) -> Judge[NDArray[np.uint8]]:
    """The FID's features with the input of either program."""
    from facecrafter.estimators import inception

    path = _path(config.inception_file)
    name, prepare = {
        "inception": ("inception, TensorFlow's FID", inception.tensorflow_input),
        "pytorch_fid": ("inception, pytorch-fid", inception.pytorch_fid_input),
    }[config.frechet]
    network = inception.load(path, prepare)
    return Judge(_brought(name, path), inception.WIDTH, lambda images: _run(network, images, inception.WIDTH))


def _path(file: Path | None) -> Path:
    """A file that the config has checked to be there."""
    assert file is not None
    return file


FACE_JUDGES: dict[str, dict[str, Callable[[JudgesConfig], Judge[DetectedFace]]]] = {
    "pose": {"mediapipe": _mediapipe_pose, "emoca": _emoca_pose},
    "expression": {"mediapipe": _mediapipe_expression, "emoca": _emoca_expression},
    "identity": {"dlib": _recogniser, "sface": _recogniser, "arcface": _recogniser, "facenet": _facenet},
    "emotion": {"facecrafter": _emotion, "emonet": _emotion},
}
IMAGE_JUDGES: dict[str, Callable[[JudgesConfig], Judge[Any]]] = {
    "alexnet": _alexnet,
    "inception": _inception,
    "pytorch_fid": _inception,
}
