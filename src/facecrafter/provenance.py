"""What a result was made with."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).resolve().parent


def environment(device: str | torch.device | None = None) -> dict[str, str]:
    """What a result depends on besides its config: commit, versions, hardware.

    Args:
        device: what computed; None for the GPU where there is one, else the CPU.
    """
    import accelerate
    import diffusers
    import torch
    import transformers

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "commit": commit(PACKAGE),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "device": _hardware(torch.device(device)),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def commit(package: Path) -> str:
    """The commit of the checkout whose ``src/facecrafter`` a package is, with ``-dirty`` if files differ from it;
    ``unknown`` without git, and where the package lies elsewhere, installed inside another repository say."""
    top = _git(package, "rev-parse", "--show-toplevel")
    if not top or Path(top, "src", "facecrafter").resolve() != package.resolve():
        return "unknown"
    return _git(package, "describe", "--always", "--dirty") or "unknown"


# What an image of a request depends on beside weights and settings, and what is measured in it beside the estimators'
# weights.
IMAGES = (
    "baselines", "controls", "estimators", "faces", "models", "sampling", "pipelines/generator.py",
    "pipelines/settings.py", "request.py",
)  # fmt: skip
READINGS = ("estimators", "faces", "evaluation/judges.py")


@cache
def code(*parts: str) -> str:
    """A digest of the code in files and folders of the package: another one where anything but a comment, a docstring
    or the layout is changed."""
    key = hashlib.sha256()
    for part in parts:
        place = PACKAGE / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            key.update(f"{path.relative_to(PACKAGE).as_posix()} {_meaning(path.read_bytes())}\n".encode())
    return key.hexdigest()


def _meaning(source: bytes) -> str:
    """A module's syntax tree without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del node.body[0]
    return ast.dump(tree)


def _git(folder: Path, *arguments: str) -> str:
    """What git says in a folder, nothing where it fails or is missing."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False)
    except OSError:
        return ""
    return done.stdout.removesuffix("\n")


def _hardware(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {os.cpu_count()} cores" if device.type == "cpu" else str(device)
