"""Whether a folder of published weights has what the arc2face scale needs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from facecrafter.errors import CheckpointError
from facecrafter.models.checkpoint import CONTROLS_FILE, FORMAT
from facecrafter.models.pretrained.files import (
    ARC2FACE,
    AUTOENCODER,
    ENCODER,
    PARTS,
    RECOGNISER_SHA256,
    UNET,
    Finding,
    arc2face_scale,
)
from facecrafter.models.pretrained.single_file import SINGLE_FILE, conversion, is_single_file
from facecrafter.weights import OTHER_RECOGNISERS, RECOGNISER_PLACES, sha256

log = logging.getLogger(__name__)


def is_published(folder: Path) -> bool:
    """Whether a folder has anything of the published layout, whole or not, and is no model folder of this project."""
    return not (folder / "unet.safetensors").is_file() and any(
        (folder / part.places[0]).is_dir() for part in (UNET, ENCODER)
    )


def check(folder: Path) -> list[Finding]:
    """Check that a folder has what the arc2face scale needs: configs, and the names and shapes of all tensors, which
    are read from the files' headers; the recogniser's file is read whole for its sha256.

    Args:
        folder: a folder of weights.

    Returns:
        One finding a file, in the order in which they are needed.
    """
    if folder.is_file() and is_single_file(folder):
        return [
            Finding(folder, False, SINGLE_FILE, conversion(folder, AUTOENCODER.place(Path("DIR")), "AutoencoderKL"))
        ]
    if not folder.is_dir():
        return [Finding(folder, False, "is no folder", "name the one that holds arc2face/, encoder/ and arcface.onnx")]
    findings = [finding for part in PARTS for finding in part.check(folder)]
    findings.append(_look_at_recogniser(folder))
    if (folder / CONTROLS_FILE).is_file():
        findings.append(_look_at_controls(folder / CONTROLS_FILE))
    return findings


def recogniser(folder: Path) -> Path:
    """The recogniser's file in a folder of weights, once it is known not to be another one. A file that is not known is
    used, and a note says so.

    Raises:
        CheckpointError: it is missing, or is not Arc2Face's.
    """
    finding = _look_at_recogniser(folder)
    if not finding.ok:
        raise CheckpointError(finding.sentence)
    if finding.wrong:
        log.warning(finding.sentence)
    return finding.path


def _look_at_recogniser(folder: Path) -> Finding:
    places = [folder / name for name in RECOGNISER_PLACES]
    path = next((place for place in places if place.is_file()), places[0])
    remedy = f"get arcface.onnx from {ARC2FACE}"
    if not path.is_file():
        other = next((place for name in places if (place := name.with_name("glintr100.onnx")).is_file()), None)
        wrong = f"is missing, and {other.name} does not replace it: it gives other people" if other else "is missing"
        return Finding(path, False, wrong, remedy)
    digest = sha256(path)
    if digest == RECOGNISER_SHA256:
        return Finding(path, True)
    if digest in OTHER_RECOGNISERS:
        return Finding(path, False, f"is {OTHER_RECOGNISERS[digest]}, which gives other people", remedy)
    wrong = _wrong_network(path)
    if wrong:
        return Finding(path, False, wrong, remedy)
    return Finding(
        path, True, "is not the file known as Arc2Face's, so it may give other people", f"when in doubt {remedy}"
    )


def _wrong_network(path: Path) -> str:
    """What keeps an ONNX file from being a recogniser of 512 numbers; shapes that it leaves open are believed."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # protobuf raises types of its own
        return "is not a whole ONNX file"
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in stored]
    outputs = [_shape(value) for value in graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        return "is not a network of one input and one output"
    wanted = (1, 3, 112, 112), (1, arc2face_scale().embedding)
    if not (_fits(inputs[0], wanted[0]) and _fits(outputs[0], wanted[1])):
        return f"turns {inputs[0]} into {outputs[0]}, not {wanted[0]} into {wanted[1]}"
    return ""


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return not shape or (len(shape) == len(wanted) and all(a in (0, b) for a, b in zip(shape, wanted, strict=True)))


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an ONNX input or output, 0 where a side is open."""
    return tuple(side.dim_value for side in value.type.tensor_type.shape.dim)


def _look_at_controls(path: Path) -> Finding:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return Finding(path, False, "is not a whole safetensors file", "put another in its place, or take it away")
    wanted = {"format": FORMAT, "kind": "controls", "scale": arc2face_scale().name}
    if any(metadata.get(name) != value for name, value in wanted.items()):
        return Finding(path, False, f"holds no controls of the {arc2face_scale().name} scale", "take it away")
    return Finding(path, True)
