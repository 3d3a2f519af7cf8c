"""FaceCrafter: one person, any pose, expression and emotion, from one photo.

``from facecrafter import FaceCrafter, save`` is the way in; see
:class:`facecrafter.pipelines.generate.FaceCrafter` and
:func:`facecrafter.pipelines.images.save`, which writes an image with its metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facecrafter import controls as _controls  # noqa: F401 - hands the registry of controls to the models below it

if TYPE_CHECKING:
    from facecrafter.faces.asked import Pose
    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.pipelines.images import save

__version__ = "0.1.0"
__all__ = ["FaceCrafter", "Pose", "__version__", "save"]


def __getattr__(name: str) -> Any:
    # The command line imports this package to print its help, and must not pay for the pipeline then.
    if name == "FaceCrafter":
        from facecrafter.pipelines.generate import FaceCrafter

        return FaceCrafter
    if name == "Pose":
        from facecrafter.faces.asked import Pose

        return Pose
    if name == "save":
        from facecrafter.pipelines.images import save

        return save
    raise AttributeError(f"module 'facecrafter' has no attribute '{name}'")
