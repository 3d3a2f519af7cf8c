"""What making costs: every part is timed once, and rates are of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from facecrafter.datasets import engines
from facecrafter.datasets import speed as speeds
from facecrafter.datasets.plan import Plan
from facecrafter.datasets.speed import Speed, lines, measure
from facecrafter.errors import ConfigError


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker that is timed is this process, which has its threads back afterwards."""
    import torch

    @contextmanager
    def process(make: Callable[[], Any], workers: int) -> Iterator[engines.Submit]:
        maker = make()

        def submit(jobs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(maker.read(jobs))
            return future

        yield submit
        maker.close()

    monkeypatch.setattr(engines, "processes", process)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_parts_add_up(planned: Callable[..., Plan], here: None) -> None:
    plan = planned(cells={"yaw": [-10, 10]}, sampling={"steps": 3, "batch_size": 2}, attempts=1)
    found = measure(plan.path, images=2, workers=())
    assert set(found.parts) == {
        "sampling", "landmarks by numbers", "finding the face", "dlib", "sface", "emotion", "encoding and the rest",
    }  # fmt: skip
    assert found.images == 2 and found.parts["sampling"] > 0
    assert found.share == pytest.approx(found.parts["sampling"] / sum(found.parts.values()))


def test_jobs_are_the_first_images(planned: Callable[..., Plan]) -> None:
    plan = planned(sampling={"batch_size": 3})
    jobs = list(speeds._jobs(plan, 14))
    assert [len(job.rows) for job in jobs] == [3, 3, 3, 3, 2]
    assert [row.id for job in jobs for row in job.rows] == [row.id for shard in (0, 1) for row in plan.rows(shard)]


def test_the_result_in_words() -> None:
    found = lines(Speed(8, {"sampling": 0.3, "emotion": 0.1}, 0.75, 40.0, {"process": {1: [2.5], 2: [4.8]}}))
    assert found[0] == "8 images, 40.0 kB each; ms of one core an image: sampling 300.0, emotion 100.0"
    assert found[1] == "75% of the sampler's own speed (2.50 images a second of one core)"
    assert found[2:] == [
        "1 process: 2.50 images a second of wall-clock time",
        "2 processes: 4.80 images a second of wall-clock time",
    ]


def test_a_small_plan_is_refused(planned: Callable[..., Plan], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 40 images, fewer than 64; give --images 40 or less"):
        measure(planned().path)
