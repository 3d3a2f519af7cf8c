"""The control modules with their K/V projections: what is trained, saved and loaded beside a base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from facecrafter.models import registry
from facecrafter.models.attention import Branch, KeyValue


class FaceControls(ModelMixin, ConfigMixin):
    """A module a control, and for each a key and a value projection in every cross-attention block.

    Value projections start at zero: a fresh module changes nothing, and training leaves the base model's output
    continuously. The projections have no bias, so all-zero tokens add exactly zero.

    Args:
        block_widths: inner width of every cross-attention block of the base, in its order.
        context_width: width of the condition tokens.
        scale: the name of the model scale these controls were made for.
        controls: their names, of :data:`facecrafter.controls.CONTROLS`.
        options: ``NAME_OPTION``, see :class:`facecrafter.controls.base.Control`.

    Raises:
        ValueError: an unknown control or option, or options that do not fit the context's width.
    """

    def __init__(
        self,
        block_widths: Sequence[int],
        context_width: int = 256,
        scale: str = "arc2face",
        controls: Sequence[str] = registry.FORMER_CONTROLS,
        **options: Any,
    ) -> None:
        super().__init__()
        self.register_to_config(block_widths=block_widths, context_width=context_width, scale=scale, controls=[])
        self.add(controls, options)

    def add(self, names: Sequence[str], options: Mapping[str, Any]) -> None:
        """Give it fresh controls that it does not have yet; the arguments are the class's ``controls`` and ``options``.

        Raises:
            ValueError: as the class.
        """
        specs = {name: registry.known()[name] for name in names if name in registry.known()}
        default = {f"{name}_{option}": value for name, spec in specs.items() for option, value in spec.options.items()}
        if unknown := [*(set(names) - specs.keys()), *(options.keys() - default.keys())]:
            raise ValueError(f"unknown controls or options: {', '.join(sorted(unknown))}")
        self.register_to_config(controls=[*self.names, *names], **{**default, **options})
        config: Any = self.config
        for name, spec in specs.items():
            self.add_module(name, spec.build(config.context_width, self.options(name)))
        for name in specs:
            keys, values = _projections(config.block_widths, config.context_width)
            self.add_module(f"{name}_keys", keys)
            self.add_module(f"{name}_values", values)

    @property
    def names(self) -> list[str]:
        """The controls that it has."""
        return list(self.config.controls)  # type: ignore[attr-defined]

    def options(self, name: str) -> dict[str, Any]:
        """The options of a control, by their names without the control's."""
        return {option: self.config[f"{name}_{option}"] for option in registry.known()[name].options}  # type: ignore[index]

    def parts(self, name: str) -> list[nn.Module]:
        """The modules that belong to a control: what its pre-training stage trains."""
        return [getattr(self, name), getattr(self, f"{name}_keys"), getattr(self, f"{name}_values")]

    def keys_values(self, name: str, value: Tensor) -> list[KeyValue]:
        """K and V of a control in every block.

        Args:
            name: of the control.
            value: ``(B, ...)`` as its module reads it.

        Returns:
            For each block, two tensors ``(B, T, width of the block)``.
        """
        module, *projections = self.parts(name)
        keys, values = (list(one.children()) for one in projections)
        tokens = module(value)
        return [(key(tokens), value(tokens)) for key, value in zip(keys, values, strict=True)]

    def branch(self, name: str, value: Tensor, weights: Tensor, rows: Tensor | None = None) -> Branch | None:
        """A control's summand of Eq. 1.

        Args:
            name: of the control.
            value: as for :meth:`keys_values`, for the samples whose weight is not 0, in their order, or for all B.
            weights: ``(B,)``, the coefficient a of Eq. 1 for each sample, any real number; 0 cuts the control.
            rows: where they are not 0, ``(R,)``, if that is known.

        Returns:
            None where every weight is 0.
        """
        rows = weights.nonzero().squeeze(1) if rows is None else rows
        if len(rows) == 0:
            return None
        given = value if len(value) == len(rows) else value[rows]
        return Branch(self.keys_values(name, given), rows, weights[rows], self.place_sigma(name))

    def place_sigma(self, name: str) -> float | None:
        """The place bias of a control; None where it has none."""
        return self.options(name).get("place_sigma")


def _projections(block_widths: Sequence[int], context_width: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    keys = nn.ModuleList(nn.Linear(context_width, width, bias=False) for width in block_widths)
    values = nn.ModuleList(nn.Linear(context_width, width, bias=False) for width in block_widths)
    for weight in values.parameters():
        nn.init.zeros_(weight)
    return keys, values


def parameter_count(modules: Sequence[nn.Module]) -> int:
    """How many numbers the modules hold."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def branches(
    controls: FaceControls,
    values: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    rows: Mapping[str, Tensor] | None = None,
) -> list[Branch]:
    """The branches of a batch with mixed conditions; the arguments by control, see :meth:`FaceControls.branch`."""
    known = rows or {}
    made = (controls.branch(name, values[name], weights[name], known.get(name)) for name in registry.in_order(values))
    return [branch for branch in made if branch is not None]
