"""What images depend on beside their plan. A data set has one basis, whoever makes its shards and goes on with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from facecrafter.estimators.identity import published
from facecrafter.faces.rig import load
from facecrafter.weights import sha256

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

WORDS = {
    "weights": "other weights of the model '{model}'",
    "gain": "another gain of the model '{model}'",
    "rig": "another rig",
    "device": "another kind of device",
    "recogniser": "another arcface.onnx for the model '{model}'",
}


@dataclass(frozen=True)
class Basis:
    """Digests, and the kind of device, by which two bases are compared.

    Attributes:
        weights: of the model.
        gain: by which the model's landmarks are turned for images to show a pose.
        rig: which moves landmarks by numbers.
        device: cpu, cuda, mps.
        recogniser: sha256 of the file by which embeddings are read; empty where a package has it, which is checked.
    """

    weights: str
    gain: str
    rig: str
    device: str
    recogniser: str = ""

    @classmethod
    def of(cls, crafter: FaceCrafter) -> Basis:
        """That of a model where it is loaded.

        Raises:
            WeightsError: the model reads ArcFace's embeddings, and its file is missing or another one.
        """
        gain = {} if crafter.gain is None else crafter.gain.content()
        digest = hashlib.sha256(json.dumps(gain, sort_keys=True).encode()).hexdigest()[:16]
        reads = crafter.model.scale.recogniser
        file = sha256(published(reads, crafter.arcface)[0]) if reads == "arcface" else ""
        return cls(crafter.digest, digest, load().digest, crafter.model.unet.device.type, file)

    def content(self) -> dict[str, str]:
        """What there is of it by name, to keep in a file."""
        return {name: value for name, value in asdict(self).items() if value}

    def difference(self, other: Mapping[str, Any], model: str) -> str:
        """The first thing in which another one differs, in words; empty where it is the same.

        Args:
            other: of :meth:`content`, perhaps kept in a file.
            model: the model's name, for the words.
        """
        names = (one.name for one in fields(self))
        differs = next((name for name in names if getattr(self, name) != other.get(name, "")), None)
        return "" if differs is None else WORDS[differs].format(model=model)
