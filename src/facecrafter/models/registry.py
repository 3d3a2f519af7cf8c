"""What the networks have to know of each control.

:mod:`facecrafter.controls` holds the registry and hands it in here when the package is imported, because models import
nothing from above them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn

# The controls of files from before they named them.
FORMER_CONTROLS = ("landmark", "emotion")


class ModuleSpec(Protocol):
    """The part of :class:`facecrafter.controls.base.Control` that models use; it says what each attribute means."""

    @property
    def options(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def own_options(self) -> Mapping[str, Mapping[str, Any]]: ...  # noqa: D102

    @property
    def scales(self) -> Mapping[str, float]: ...  # noqa: D102

    def build(self, width: int, options: Mapping[str, Any]) -> nn.Module:  # noqa: D102
        ...


_handed_in: list[Mapping[str, ModuleSpec]] = []


def hand_in(registry: Mapping[str, ModuleSpec]) -> None:
    """Make a registry the one that models use. It is kept by reference: what is added to it later counts too."""
    _handed_in[:] = [registry]


def known() -> Mapping[str, ModuleSpec]:
    """The controls that there are, by name, in the order of Eq. 1."""
    return _handed_in[0]


def in_order(names: Container[str]) -> list[str]:
    """The known ones among some names, in the order of Eq. 1."""
    return [name for name in known() if name in names]
