"""Files of weights: published ones, read without running anything in them and checked before they are used, and those
of this project's own small networks, which carry their config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from facecrafter.errors import CheckpointError, WeightsError, reason_of
from facecrafter.io import whole
from facecrafter.pickles import ForeignClasses, unpickled
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


def read(path: Path, published: Published) -> State:
    """The named tensors of a file of PyTorch weights or of a PyTorch Lightning checkpoint; what else it has is left.

    Raises:
        WeightsError: there is no such file, it is damaged, or its pickle needs classes that are not read.
    """
    if not path.is_file():
        raise WeightsError(f"there is no {published.network} file {path}; {published.advice}")
    try:
        content = unpickled(path)
    except ForeignClasses as error:
        raise WeightsError(f"{path} {error}; {published.advice}") from None
    except Exception:  # pickle, zip and torch raise types of their own, with paragraphs of advice to programmers
        raise WeightsError(f"{path} is damaged, or is no file of PyTorch weights; {published.advice}") from None
    named = content.get("state_dict", content) if isinstance(content, dict) else {}
    pairs = named.items() if isinstance(named, dict) else ()
    return {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, Tensor)}


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
    # How many batches went through a norm plays no part in evaluation, and old files do not say.
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


@dataclass(frozen=True)
class Own:
    """What a file of a network of this project's own is.

    Attributes:
        format: what its metadata say, with a version.
        network: what an error calls it.
        stage: which stage of training writes it.
    """

    format: str
    network: str
    stage: str


def write_own(
    network: nn.Module, config: Mapping[str, Any], path: Path, own: Own, dtype: torch.dtype = torch.float32
) -> None:
    """Write a network with its config as safetensors, whole or not at all.

    Args:
        network: whose state is written.
        config: what builds it again.
        path: the file.
        own: what it is.
        dtype: of the numbers that are not whole.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {"format": own.format, "config": json.dumps(config), "licence": "of the project"}
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} could not be written: {error}") from None


def read_own(path: Path, own: Own, build: Callable[..., Network]) -> Network:
    """Read a network that :func:`write_own` wrote: frozen, in evaluation mode.

    Args:
        path: the file.
        own: what it should be.
        build: makes the network of its config.

    Raises:
        WeightsError: there is no such file, it is damaged, or holds something else.
    """
    from safetensors import safe_open

    advice = f"give one that the {own.stage} stage of training wrote"
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != own.format:
                raise WeightsError(f"{path} holds no {own.network} of this project; {advice}")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        network = build(**json.loads(metadata["config"]))
        network.load_state_dict(state)
    except FileNotFoundError:
        raise WeightsError(f"there is no {own.network} {path}; {advice}") from None
    except WeightsError:
        raise
    except Exception as error:  # of a damaged config: whatever building from it comes to
        raise WeightsError(f"{path} is damaged or another file ({reason_of(error)}); {advice}") from None
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise WeightsError(f"{path} is damaged: it has values that are not finite numbers; {advice}")
    return network.eval().requires_grad_(False)
