"""A step's kernels, captured once and started as one: a CUDA graph.

Losses on finished images start some twenty thousand small kernels a step, and a GPU has done one before Python has
started the next. A graph has all of them with the addresses of what they read and write, so every batch is copied to
where the first one lay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

WARM = 3  # calls before the capture: libraries choose their kernels in the first ones


class Captured:
    """A function that gives a batch's loss and leaves the gradients in the parameters, captured after a few calls.

    It must not wait for the device, and what it does must depend on nothing but its tensors' values. Where it cannot
    be captured, or a batch has other shapes than the captured one, it is called as it is.

    Args:
        gradients: the function; the loss it returns has no gradient of its own.
        parameters: what gets gradients.
        device: a CUDA device.
        alone: within it no other thread uses the device.
    """

    def __init__(
        self,
        gradients: Callable[[dict[str, Any]], Tensor],
        parameters: Sequence[nn.Parameter],
        device: torch.device,
        alone: AbstractContextManager[Any],
    ) -> None:
        self._gradients, self._parameters, self._alone = gradients, parameters, alone
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0
        self._batch: dict[str, Any] = {}
        self._loss = torch.zeros(())
        self._made: list[Tensor | None] = []

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch; the parameters have its gradients and had none before."""
        self._calls += 1
        if self._calls == WARM + 1:
            self._capture(batch)
        if self._graph is None or not copied(self._batch, batch):
            return self._called(batch)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._made, strict=True):
            parameter.grad = gradient
        return self._loss.clone()

    def _called(self, batch: dict[str, Any]) -> Tensor:
        """On the stream that is captured: autograd wants the same one."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._gradients(batch)
        current.wait_stream(self._stream)
        return loss

    def _capture(self, batch: dict[str, Any]) -> None:
        graph, self._batch = torch.cuda.CUDAGraph(), cloned(batch)
        try:
            with self._alone, torch.cuda.graph(graph, stream=self._stream):
                self._loss = self._gradients(self._batch)
        except RuntimeError as error:
            log.warning("a step could not be captured as a CUDA graph, and is run kernel by kernel: %s", error)
            torch.cuda.synchronize()
        else:
            self._graph, self._made = graph, [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None


def cloned(batch: Any) -> Any:
    """A batch of tensors, in dicts and dataclasses, with copies of them."""
    if isinstance(batch, Tensor):
        return batch.clone()
    if isinstance(batch, Mapping):
        return {name: cloned(value) for name, value in batch.items()}
    if is_dataclass(batch):
        own: Any = type(batch)
        return own(**{field.name: cloned(getattr(batch, field.name)) for field in fields(batch)})
    return batch


def copied(target: Any, batch: Any) -> bool:
    """Copy a batch's tensors into those of another one; False, and some of them may be copied, if it is not alike in
    all but their values."""
    if isinstance(batch, Tensor):
        if not isinstance(target, Tensor) or (target.shape, target.dtype) != (batch.shape, batch.dtype):
            return False
        target.copy_(batch)
        return True
    if isinstance(batch, Mapping):
        return target.keys() == batch.keys() and all(copied(target[name], value) for name, value in batch.items())
    if is_dataclass(batch):
        names = [field.name for field in fields(batch)]
        return all(copied(getattr(target, name), getattr(batch, name)) for name in names)
    return bool(target == batch)
