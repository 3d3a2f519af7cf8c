"""What every page and API of the project stands on: where it listens, who may ask, what is refused, what is kept.

Nothing here knows of faces or models, and nothing imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from facecrafter.errors import FaceCrafterError

NEEDED = ("fastapi", "uvicorn", "sqlmodel", "python_multipart")


def check_installed(extra: str, more: Sequence[str] = ()) -> None:
    """Make sure that what serves pages is installed.

    Args:
        extra: of this project, which brings it.
        more: modules that this extra needs beside those of all pages.

    Raises:
        FaceCrafterError: it is not.
    """
    missing = [name for name in (*NEEDED, *more) if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise FaceCrafterError(f"{names} is not installed; run: pip install 'facecrafter[{extra}]'")
