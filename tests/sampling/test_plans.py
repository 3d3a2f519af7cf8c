"""Every way to save predictions says exactly what it does, and Eq. 6 that takes one prediction is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.cli.options import Speed
from facecrafter.errors import ConfigError
from facecrafter.pipelines.images import inspect
from facecrafter.sampling.guidance import Guidance
from facecrafter.sampling.plans import SPEEDS, Step, interval, plan, refresh, summed, together

GUIDANCE = Guidance(2.5, {"landmark": 2.0, "emotion": 1.5})
ALL = GUIDANCE.coefficients(["landmark", "emotion"])
BOTH = "landmark+emotion"
ONE = Guidance(1.0, {"landmark": 1.0, "emotion": 0.0}).coefficients(["landmark"])


def test_the_command_line_has_the_same_words() -> None:
    assert [speed.value for speed in Speed] == list(SPEEDS)


def test_a_speed_is_asked_for_by_its_word_and_told_in_the_image(
    model_folder: Path, portrait: Path, tmp_path: Path
) -> None:
    asked = ["generate", "--model", str(model_folder), "--identity", str(portrait), "--target", str(portrait)]
    asked += ["-n", "1", "--steps", "2", "--bfloat16", "--out"]
    done = CliRunner().invoke(app, [*asked, str(tmp_path / "a"), "--speed", "refresh"])
    assert done.exit_code == 0, done.output
    made = inspect(tmp_path / "a" / "00000.png").made
    assert (made["speed"], made["precision"]) == ("refresh", "bfloat16")
    refused = CliRunner().invoke(app, [*asked, str(tmp_path / "b"), "--speed", "distilled"])
    assert refused.exit_code == 1 and "no distilled network" in refused.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("steps", [1, 2, 8, 25])
def test_every_plan_has_a_step_for_each_step(speed: str, steps: int) -> None:
    planned = plan(speed, ALL, steps)
    assert len(planned) == steps
    assert all(name in ("identity", BOTH, *ALL) for step in planned for name in step.weights)
    # Whatever is reused was kept before, and the weights of Eq. 6 and of a lone prediction sum to 1.
    kept = False
    for step in planned:
        assert not step.reuse or kept
        kept = kept or step.keep is not None
        assert sum(step.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("speed", SPEEDS)
def test_one_prediction_is_exact_in_every_way(speed: str) -> None:
    assert list(plan(speed, ONE, 3)) == [Step(ONE)] * 3


def test_an_unknown_speed_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown speed 'warp'; there are exact, interval, refresh, distilled"):
        plan("warp", ALL, 3)


def test_exact_is_equation_6_in_every_step() -> None:
    assert list(plan("exact", ALL, 3)) == [Step(ALL)] * 3


@pytest.mark.parametrize(
    ("steps", "first", "last", "guided"),
    [
        (8, 0.6, 1.0, [5, 6, 7]),
        (25, 0.6, 1.0, list(range(15, 25))),
        (8, 0.25, 0.75, [2, 3, 4, 5]),
        (4, 0.0, 0.25, [0]),
        (3, 0.9, 0.95, []),
    ],
)
def test_an_interval_is_guided_and_the_rest_is_one_prediction(
    steps: int, first: float, last: float, guided: list[int]
) -> None:
    planned = interval(ALL, steps, first, last)
    assert [index for index, step in enumerate(planned) if step == Step(ALL)] == guided
    assert all(step == Step({BOTH: 1.0}) for index, step in enumerate(planned) if index not in guided)


@pytest.mark.parametrize(
    ("given", "base"),
    [(("landmark", "emotion"), "landmark"), (("landmark",), "landmark"), (("emotion",), "emotion"), ((), "identity")],
)
def test_differences_are_refreshed_every_k_steps(given: tuple[str, ...], base: str) -> None:
    weights = GUIDANCE.coefficients(given)
    planned = refresh(weights, 8, 3)
    assert [index for index, step in enumerate(planned) if step == Step(weights, keep=base)] == [0, 3, 6]
    assert all(step == Step({base: 1.0}, reuse=True) for index, step in enumerate(planned) if index % 3)


@pytest.mark.parametrize(
    ("given", "name"),
    [(("landmark", "emotion"), BOTH), (("landmark",), "landmark"), (("emotion",), "emotion"), ((), "identity")],
)
def test_together_is_the_prediction_with_all_that_is_on(given: tuple[str, ...], name: str) -> None:
    assert together(GUIDANCE.coefficients(given)) == name


def test_distilled_is_one_prediction_of_the_other_network() -> None:
    assert list(plan("distilled", ALL, 2)) == [Step({BOTH: 1.0}, distilled=True)] * 2


def test_what_is_kept_is_what_the_sum_adds_to_one_prediction() -> None:
    predictions = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = {"none": -1.0, "identity": 0.5, "landmark": 1.5}
    total, kept = summed(predictions, Step(weights, keep="landmark"), None)
    assert kept is not None
    for sample in range(2):
        none, identity, landmark = (predictions[2 * index + sample] for index in range(3))
        torch.testing.assert_close(total[sample], -none + 0.5 * identity + 1.5 * landmark)
        torch.testing.assert_close(kept[sample], total[sample] - landmark)
    fresh = predictions[:2] + 1
    again, still = summed(fresh, Step({"landmark": 1.0}, reuse=True), kept)
    assert torch.equal(again, fresh + kept) and still is kept
    alone, still = summed(fresh, Step({BOTH: 1.0}), kept)
    assert torch.equal(alone, fresh) and still is kept
