"""What a control is: everything the project has to know of one thing that can be asked for beside identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Reading = NDArray[np.float32]


class Readable(Protocol):
    """What a control is read from: a portrait, or a prepared folder, whose arrays have the same names and one row an
    image."""

    @property
    def points(self) -> Any: ...  # noqa: D102

    @property
    def blendshapes(self) -> Any: ...  # noqa: D102

    @property
    def angles(self) -> Any: ...  # noqa: D102

    @property
    def emotion(self) -> Any: ...  # noqa: D102


def stacked(readings: Sequence[Reading], size: float, options: Mapping[str, Any]) -> NDArray[Any]:
    """Readings that a module takes as they are, ``(B, ...)``."""
    import numpy as np

    return np.stack(readings).astype(np.float32)


def unchanged(value: Tensor) -> Tensor:
    """For what a mirror does not change, and for what is stored as the module reads it."""
    return value


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: in configs, checkpoints, requests and results.
        title: in messages, what is asked for with its verb: "landmarks are".
        read: its reading of a portrait, or of a prepared folder's N images with N rows in front.
        module: makes the network that turns an encoded reading into tokens, of the context's width and of options.
        options: what the module, the encoding and Eq. 1 can be adjusted by, with the defaults; a checkpoint's config
            names each ``NAME_OPTION``. ``place_sigma`` is Eq. 1's, see
            :func:`facecrafter.models.attention.place_bias`.
        own_options: where the options of a model scale differ from the defaults.
        scales: its scale in Eq. 6 by model scale; ``arc2face`` has the paper's.
        encode: B readings, the side of the image that they belong to in pixels, and options, to ``(B, ...)`` as a
            training set stores it.
        present: what ``encode`` gives, as a tensor, to what the module reads.
        mirror: what the module reads of a face, ``(B, ...)``, to what it reads of that face in a mirror.
        row: what the leakage matrix calls the change of this control.
        moves: what that change is meant to move, of :data:`facecrafter.evaluation.leakage.MOVEMENTS`.
        carries_shape: whether a reading also says whose face it is, by its shape: the matrix then changes it by another
            photo of the same person, and measures how much of the shape comes along.
        origin: what of a prepared folder's provenance a module learned from, as options for the checkpoint's config.
    """

    name: str
    title: str
    read: Callable[[Readable], Reading]
    module: Callable[[int, Mapping[str, Any]], nn.Module]
    scales: Mapping[str, float]
    row: str
    moves: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    own_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    encode: Callable[[Sequence[Reading], float, Mapping[str, Any]], NDArray[Any]] = stacked
    present: Callable[[Tensor], Tensor] = unchanged
    mirror: Callable[[Tensor], Tensor] = unchanged
    carries_shape: bool = False
    origin: Callable[[Any], Mapping[str, Any]] = lambda prepared: {}

    def build(self, width: int, options: Mapping[str, Any]) -> nn.Module:
        """A fresh module whose tokens have a width."""
        return self.module(width, options)

    def encoded(self, readings: Sequence[Reading], size: float, options: Mapping[str, Any]) -> Tensor:
        """B readings as the module reads them, ``(B, ...)`` on the CPU.

        Args:
            readings: B.
            size: side in pixels of the image that they belong to.
            options: of the model's own module, see :meth:`facecrafter.models.controls.FaceControls.options`.
        """
        import torch

        return self.present(torch.from_numpy(self.encode(readings, size, options)))

    def shown(self, portraits: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
        """What the module reads of B portraits, each in pixels of a size of its own; see :meth:`encoded`."""
        import torch

        return torch.cat([self.encoded([self.read(one)], one.size, options) for one in portraits])
