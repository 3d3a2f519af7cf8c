"""What images depend on beside their plan. A data set has one basis, whoever makes its shards and goes on with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from facecrafter.faces.rig import load

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

WORDS = {
    "weights": "other weights of the model '{model}'",
    "gain": "another gain of the model '{model}'",
    "rig": "another rig",
    "device": "another kind of device",
}


@dataclass(frozen=True)
class Basis:
    """Digests, and the kind of device, by which two bases are compared.

    Attributes:
        weights: of the model.
        gain: by which the model's landmarks are turned for images to show a pose.
        rig: which moves landmarks by numbers.
        device: cpu, cuda, mps.
    """

    weights: str
    gain: str
    rig: str
    device: str

    @classmethod
    def of(cls, crafter: FaceCrafter) -> Basis:
        """That of a model where it is loaded."""
        gain = {} if crafter.gain is None else crafter.gain.content()
        digest = hashlib.sha256(json.dumps(gain, sort_keys=True).encode()).hexdigest()[:16]
        return cls(crafter.digest, digest, load().digest, crafter.model.unet.device.type)

    def difference(self, other: Mapping[str, Any], model: str) -> str:
        """The first thing in which another one differs, in words; empty where it is the same.

        Args:
            other: of :func:`dataclasses.asdict`, perhaps kept in a file.
            model: the model's name, for the words.
        """
        names = (one.name for one in fields(self))
        differs = next((name for name in names if getattr(self, name) != other.get(name)), None)
        return "" if differs is None else WORDS[differs].format(model=model)
