"""FaceCrafter: one person, any pose, expression and emotion, from one photo.

``from facecrafter import FaceCrafter`` is the way in; see :class:`facecrafter.sampling.pipeline.FaceCrafter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facecrafter.sampling.pipeline import FaceCrafter

__version__ = "0.1.0"
__all__ = ["FaceCrafter", "__version__"]


def __getattr__(name: str) -> Any:
    # The command line imports this package to print its help, and must not pay for the pipeline then.
    if name == "FaceCrafter":
        from facecrafter.sampling.pipeline import FaceCrafter

        return FaceCrafter
    raise AttributeError(f"module 'facecrafter' has no attribute '{name}'")
