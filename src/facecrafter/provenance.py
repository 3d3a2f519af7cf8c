"""What a result was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
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
