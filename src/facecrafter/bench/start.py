"""How long a user waits before anything happens, each time in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facecrafter.bench.measure import Spread
from facecrafter.errors import FaceCrafterError

# Packages whose import is timed apart.
HEAVY = ("torch", "diffusers", "transformers", "mediapipe", "onnxruntime", "cv2", "scipy", "sklearn", "matplotlib")
_IMPORT = re.compile(r"import time:\s+\d+ \|\s+(\d+) \| (\s*)([\w.]+)")


@dataclass(frozen=True)
class Start:
    """One thing that a user waits for.

    Attributes:
        name: what.
        seconds: until it is done, from the start of the process.
        imports: seconds of each heavy package's import, what it imports itself included, less the other heavy ones.
    """

    name: str
    seconds: Spread
    imports: dict[str, float]


def starting(repeats: int = 3) -> list[Start]:
    """A bare interpreter, the package's import, the help, and the first image of the mini scale.

    Raises:
        FaceCrafterError: one of them failed.
    """
    from PIL import Image
    from skimage.data import astronaut

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.fromarray(astronaut()).save(photo)
        command = ["-m", "facecrafter", "generate", "--identity", str(photo), "-n", "1", "--overwrite", "--out"]
        wanted = {
            "python": ["-c", "pass"],
            "import facecrafter": ["-c", "import facecrafter"],
            "facecrafter --help": ["-m", "facecrafter", "--help"],
            "first image": [*command, str(Path(folder) / "out")],
        }
        return [
            Start(name, Spread.of([_run(arguments)[0] for _ in range(repeats)]), _imports(arguments))
            for name, arguments in wanted.items()
        ]


def lines(starts: Sequence[Start]) -> list[str]:
    """The result in words."""
    outcome = []
    for start in starts:
        heaviest = sorted(start.imports.items(), key=lambda one: -one[1])
        imports = ", ".join(f"{name} {seconds:.1f}" for name, seconds in heaviest if seconds >= 0.05)
        outcome.append(f"{start.name}: {start.seconds} s" + (f" (imports: {imports})" if imports else ""))
    return outcome


def _run(arguments: list[str], *options: str) -> tuple[float, str]:
    """Seconds of a process of this interpreter, and its stderr."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *options, *arguments], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise FaceCrafterError(f"`python {' '.join(arguments[:3])}` failed: {last[0]}")
    return seconds, done.stderr


def _imports(arguments: list[str]) -> dict[str, float]:
    """Seconds of the heavy packages' imports in such a process, by the interpreter's own account."""
    return imports_of(_run(arguments, "-X", "importtime")[1])


def imports_of(account: str) -> dict[str, float]:
    """What ``python -X importtime`` says of :data:`HEAVY`: a line a module after those that it imported itself, its own
    depth shown by two spaces a level."""
    seconds: dict[str, float] = {}
    waiting: list[tuple[int, float]] = []  # depth and time of heavy imports whose importer was not named yet
    for cumulative, indent, name in _IMPORT.findall(account):
        depth, took = len(indent) // 2, int(cumulative) / 1e6
        inner = sum(time for level, time in waiting if level > depth)
        waiting = [one for one in waiting if one[0] <= depth]
        if name.partition(".")[0] in HEAVY:
            package = name.partition(".")[0]
            seconds[package] = seconds.get(package, 0.0) + took - inner
            waiting.append((depth, took))
        elif inner:
            waiting.append((depth, inner))
    return seconds
