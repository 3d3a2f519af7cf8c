"""FaceCrafter: one person, any pose, expression and emotion, from one photo.

``from facecrafter import FaceCrafter, save`` is the way in; see :class:`facecrafter.sampling.pipeline.FaceCrafter`, and
:func:`facecrafter.sampling.output.save`, which writes a picture with the story of its making.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facecrafter.sampling.output import save
    from facecrafter.sampling.pipeline import FaceCrafter

__version__ = "0.1.0"
__all__ = ["FaceCrafter", "__version__", "save"]


def __getattr__(name: str) -> Any:
    # The command line imports this package to print its help, and must not pay for the pipeline then.
    if name == "FaceCrafter":
        from facecrafter.sampling.pipeline import FaceCrafter

        return FaceCrafter
    if name == "save":
        from facecrafter.sampling.output import save

        return save
    raise AttributeError(f"module 'facecrafter' has no attribute '{name}'")
