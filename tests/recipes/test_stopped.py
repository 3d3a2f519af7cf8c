"""Training runs stopped by real signals, through the command line: what is said to be kept is there, and goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from facecrafter.data.prepare import prepare

# The smallest stage there is; a checkpoint every two steps.
CONFIG = """
stage: expression
data: {folder}/data
run: {folder}/{run}
steps: 6
batch_size: 4
warmup: 0
precision: "no"
held_out: false
log_every: 1
save_every: 2
expression: {{widths: [32], blocks: [1], hidden: 8}}
"""


@pytest.fixture(scope="module")
def whole(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run that was left alone."""
    folder = tmp_path_factory.mktemp("stopped")
    prepare(portrait.parent, folder / "data", workers=1, recognisers=["dlib"], progress=False)
    (folder / "whole.yaml").write_text(CONFIG.format(folder=folder, run="whole"))
    train(folder / "whole.yaml")
    return folder


def train(config: Path, *options: str) -> None:
    """A run in a process of its own, as the stopped ones are: what ran in this one before changes how sums are split
    among threads, and with it the last bits."""
    command = [sys.executable, "-m", "facecrafter", "train", str(config), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


STEP, SAVE = "facecrafter.training.trainer:_step", "torch:save"
KEPT = "stopped: step {} is kept in RUN/checkpoint.pt, {} steps after it are lost; --resume goes on from there"
NONE = "stopped: RUN has no checkpoint yet after {} steps (save_every is 2); start it again without --resume"
# What happens at which moment, the exit code, the last line, and the step that is kept.
STOPS = {
    "Ctrl-C": (f"{STEP} 6 SIGINT", 130, KEPT.format(4, 1), 4),
    "SIGTERM": (f"{STEP} 6 SIGTERM", 143, KEPT.format(4, 1), 4),
    "before there is a checkpoint": (f"{STEP} 2 SIGINT", 130, NONE.format(1), 0),
    # An interrupt waits until the checkpoint is written, ...
    "while a checkpoint is written": (f"{SAVE} 2 SIGINT", 130, KEPT.format(4, 0), 4),
    # ... and a second one does not.
    "twice": (f"{SAVE} 2 SIGINT; os:fsync 2 SIGINT", 130, KEPT.format(2, 2), 2),
    "kill -9 while a checkpoint is written": (f"{SAVE} 2 SIGINT; os:fsync 2 SIGKILL", -9, "", 2),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_stopped_run_says_what_is_kept_and_goes_on_to_the_bit(case: str, whole: Path, interrupted: Any) -> None:
    moments, code, said, step = STOPS[case]
    name = re.sub(r"\W+", "-", case)
    run, path = whole / name, whole / f"{name}.yaml"
    path.write_text(CONFIG.format(folder=whole, run=name))
    done = interrupted(moments, "train", path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert code < 0 or done.stderr.splitlines()[-1] == said.replace("RUN", str(run))
    if step:
        assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == step
    assert len(list(run.glob("*.partial"))) == (code < 0)
    train(path, *["--resume"] * (step > 0))
    expected, got = (load_file(folder / "model" / "expression.safetensors") for folder in (whole / "whole", run))
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert losses(run) == losses(whole / "whole")
    assert not list(run.glob("*.partial"))
