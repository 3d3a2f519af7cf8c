"""Single-file checkpoints of Stable Diffusion: recognised, and how to convert them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open

from facecrafter.errors import CheckpointError
from facecrafter.models.checkpoint import CONTROLS_FILE
from facecrafter.pickles import unpickled

SINGLE_FILE = "is a single-file checkpoint of Stable Diffusion, which is not read"
_SINGLE_FILE_NAMES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")


def is_single_file(path: Path) -> bool:
    """Whether a file is all of Stable Diffusion in one (``v1-5-pruned-emaonly.safetensors``, say), by the names of its
    tensors; no file is of what cannot be read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return _of_single_file(file.keys())
        if path.suffix not in (".ckpt", ".pt", ".pth", ".bin"):
            return False
        content = unpickled(path, mmap=True)
        named = content.get("state_dict", content) if isinstance(content, dict) else {}
        return isinstance(named, dict) and _of_single_file(named)
    except Exception:  # safetensors, pickle, zip and torch raise types of their own
        return False


def conversion(file: Path | str, folder: Path, kind: str) -> str:
    """How a single-file checkpoint becomes a folder of diffusers', as an error says it.

    Args:
        file: the checkpoint.
        folder: where to.
        kind: the class of diffusers' that takes its part of it.
    """
    code = f"from diffusers import {kind}; {kind}.from_single_file({str(file)!r}).save_pretrained({str(folder)!r})"
    return f'convert it once, with a connection for its config: python -c "{code}"'


def refuse_single_file(path: Path, folder: str = "sd15", kind: str = "StableDiffusionPipeline") -> None:
    """Say what a single-file checkpoint is and how to convert it, where a folder is wanted.

    Raises:
        CheckpointError: the path leads to one.
    """
    if path.is_file() and is_single_file(path):
        raise CheckpointError(f"{path} {SINGLE_FILE}; {conversion(path, Path(folder), kind)}")


def _of_single_file(names: Iterable[object]) -> bool:
    return any(str(name).startswith(_SINGLE_FILE_NAMES) for name in names)


def single_file_in(*folders: Path) -> Path | None:
    """The first single-file checkpoint that lies in one of some folders."""
    files = (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_file())
    return next((path for path in files if path.name != CONTROLS_FILE and is_single_file(path)), None)
