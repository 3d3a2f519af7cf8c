"""Previews are asked of a real server, and their times are summed up as said."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from facecrafter.bench import studio
from facecrafter.bench.studio import Waits
from facecrafter.cli import app

pytest.importorskip("fastapi", reason="needs the extra 'studio'")


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (19, 19), (20, 19), (100, 95), (101, 96)])
def test_95_percent_take_at_most_the_nearest_rank(count: int, rank: int) -> None:
    waits = Waits([float(number) for number in range(1, count + 1)], (0.0, 0.0))
    assert waits.p95 == rank
    assert sum(one <= waits.p95 for one in waits.seconds) >= 0.95 * count


def test_previews_of_the_shipped_model_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "WARM", 1)
    asked: list[dict[str, object]] = []
    preview = studio._preview
    monkeypatch.setattr(
        studio, "_preview", lambda where, wish, number: asked.append(wish) or preview(where, wish, number)
    )
    done = CliRunner().invoke(app, ["bench", "studio", "--previews", "1"])
    assert done.exit_code == 0, done.output
    assert [(wish["speed"], wish["steps"], wish["n"]) for wish in asked] == [("distilled", 4, 1)] * 2  # as on the page
    assert "1 previews: median" in done.stdout and "MiB after the last" in done.stdout
