"""The benchmarks run every candidate, count what learns, and keep the ratios straight."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from facecrafter.bench import training as bench
from facecrafter.cli import app
from facecrafter.models import scales
from facecrafter.models.scales import Scale


@pytest.fixture
def costs(small_scale: Scale, monkeypatch: pytest.MonkeyPatch) -> list[bench.Cost]:
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    return bench.training("mini", batch=2, steps=1)


def test_candidates_are_timed_in_turn_one_in_memory(small_scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    order: list[str] = []
    ours, theirs = bench._ours, bench._controlnet
    name = {("landmark", False): "L", ("joint", False): "J", ("joint", True): "C"}
    monkeypatch.setattr(bench, "_ours", lambda *given: order.append(name[given[2:4]]) or ours(*given))
    monkeypatch.setattr(bench, "_controlnet", lambda *given: order.append("N") or theirs(*given))
    seconds = iter(range(1, 13))
    one = bench._Round(1.0, 2.0, 8.0, 5.0, [])
    monkeypatch.setattr(
        bench, "_measure", lambda make, *_: (make(), dataclasses.replace(one, seconds=[next(seconds)]))[1]
    )
    found = bench.training("mini", steps=1, rounds=3)
    assert "".join(order) == "LJCNNCJLLJCN"
    assert [cost.seconds for cost in found] == [8, 7, 6, 5] and [cost.spread for cost in found] == [8, 8, 8, 8]


def test_every_candidate_is_a_step_that_learns(costs: list[bench.Cost]) -> None:
    assert [cost.name for cost in costs] == ["landmark pre-training", "joint", "joint, checkpointed", "ControlNet"]
    landmark, joint, checkpointed, _ = costs
    assert 0 < landmark.trainable < joint.trainable == checkpointed.trainable
    assert all(cost.total > cost.trainable for cost in costs)
    for cost in costs:
        assert cost.seconds > 0 and cost.peak_mib > 0
        # AdamW keeps two numbers a parameter, of four bytes.
        assert cost.optimiser_mib == pytest.approx(cost.trainable * 1e6 * 8 / 2**20, rel=0.01)


def test_ratios_are_to_the_controlnet(costs: list[bench.Cost]) -> None:
    rows = bench.ratios(costs)
    assert rows[-1]["time_ratio"] == rows[-1]["optimiser_ratio"] == rows[-1]["peak_ratio"] == 1
    assert rows[0]["time_ratio"] == costs[0].seconds / costs[-1].seconds
    assert rows[0]["optimiser_ratio"] == pytest.approx(costs[0].trainable / costs[-1].trainable, rel=0.01)


def test_from_the_command_line(small_scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    arguments = ["bench", "training", "--scale", "mini", "--steps", "1", "--out", str(tmp_path / "bench.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.count(" of ControlNet)") == 4
    told = json.loads((tmp_path / "bench.json").read_text())
    assert (told["scale"], told["batch"], len(told["candidates"])) == ("mini", 1, 4)
    assert "commit" in told["environment"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "bench.json" in again.stderr
