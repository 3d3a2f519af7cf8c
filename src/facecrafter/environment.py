"""What a result was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path


def environment() -> dict[str, str]:
    """What a result depends on besides its config: commit, versions, hardware."""
    import accelerate
    import diffusers
    import torch
    import transformers

    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
