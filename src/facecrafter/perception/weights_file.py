"""Published files of weights: read without running anything in them, and checked before they are used."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from facecrafter.errors import WeightsError
from facecrafter.weights import sha256

Network = TypeVar("Network", bound=nn.Module)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """What a file of weights should be.

    Attributes:
        network: what an error calls it.
        file: the published file, as an error names it.
        sha256: its digest; None where none is known.
    """

    network: str
    file: str
    sha256: str | None = None

    @property
    def advice(self) -> str:
        """How an error ends."""
        return f"give the published {self.file}"


class _Inert:
    """Stands for every class that a file names and that is no weight, such as a training framework's callbacks."""

    def __init__(self, *_: object) -> None: ...

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


def read(path: Path, published: Published) -> State:
    """The named tensors of a file of PyTorch weights or of a PyTorch Lightning checkpoint; what else it has is left.

    Raises:
        WeightsError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise WeightsError(f"there is no {published.network} file {path}; {published.advice}")
    try:
        content = _unpickled(path)
    except Exception:  # pickle, zip and torch raise types of their own, with paragraphs of advice to programmers
        raise WeightsError(f"{path} is damaged, or is no file of PyTorch weights; {published.advice}") from None
    named = content.get("state_dict", content) if isinstance(content, dict) else {}
    pairs = named.items() if isinstance(named, dict) else ()
    return {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, Tensor)}


def _unpickled(path: Path) -> Any:
    """What a file holds, by PyTorch's reader for weights only, with classes that it does not know made inert."""
    known = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    with torch.serialization.safe_globals([(_Inert, name) for name in known]):
        return torch.load(path, map_location="cpu", weights_only=True)


def fill(network: Network, state: State, path: Path, published: Published) -> Network:
    """Give a network its weights, in single precision, for evaluation.

    Args:
        network: made on the ``meta`` device.
        state: what :func:`read` read; weights that the network has no place for are left.
        path: where from, for errors.
        published: what the file should be.

    Raises:
        WeightsError: weights are missing, of another shape or not finite, or the file is not the published one.
    """
    wrong = f"{path} is no {published.network} file"
    expected = network.state_dict()
    # How many batches a norm has seen plays no part in evaluation, and old files do not say.
    state = {name: torch.tensor(0) for name in expected if name.endswith("num_batches_tracked")} | state
    missing = [name for name in expected if name not in state]
    if missing:
        lack = f"{len(missing)} of {len(expected)} weights are missing, {missing[0]} the first of them"
        raise WeightsError(f"{wrong}: {lack}; {published.advice}")
    for name, place in expected.items():
        if state[name].shape != place.shape:
            shapes = f"{tuple(state[name].shape)} in place of {tuple(place.shape)}"
            raise WeightsError(f"{wrong}: {name} has the shape {shapes}; {published.advice}")
        if not state[name].isfinite().all():
            raise WeightsError(f"{path} is damaged: {name} has values that are not finite numbers; {published.advice}")
    if published.sha256 and sha256(path) != published.sha256:
        other = "it has the right names and shapes but other weights, by its sha256"
        raise WeightsError(f"{path} is not the {published.network} file: {other}; {published.advice}")
    network.load_state_dict({name: state[name].to(place.dtype) for name, place in expected.items()}, assign=True)
    return network.eval().requires_grad_(False)
