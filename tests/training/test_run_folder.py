"""The log of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

from facecrafter.training.run_folder import LOG, Log


def test_the_log_keeps_small_numbers_as_well_as_large_ones(tmp_path: Path) -> None:
    log = Log(tmp_path, active=True, first=0)
    log.scalars(1, loss=1 / 3, learning_rate=1e-5 * 0.02, samples_per_second=1234.56789)
    log.scalars(2, loss=math.nan)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert lines[0] == {"step": 1, "loss": 0.3333333, "learning_rate": 2e-7, "samples_per_second": 1234.568}
    assert lines[1].keys() == {"step", "loss"} and math.isnan(lines[1]["loss"])
