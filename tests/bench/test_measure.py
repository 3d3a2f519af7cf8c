"""Memory is read on every system."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from facecrafter.bench import measure


def test_nothing_is_imported_that_windows_has_not() -> None:
    code = (
        "import sys, psutil, torch\n"
        "sys.modules.update(resource=None, fcntl=None)\n"  # importing them again fails
        "from facecrafter.bench import measure\n"
        "print(measure.resident())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 10


def test_what_is_held_is_resident_and_part_of_the_peak() -> None:
    before = measure.resident()
    with measure.peak(torch.device("cpu")) as most:
        held = np.ones(2**27, np.uint8)
        during = measure.resident()
    assert len(held) / measure.MIB == 128
    assert during - before > 64
    assert most[0] - before > 64
