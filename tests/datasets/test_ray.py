"""Nodes of a Ray cluster that are killed while a data set is made: the same content, none missing and none twice.

Ray Data makes the same as actors do, and both are measured.

The cluster's nodes are processes of this machine, so that it is skipped unless FACECRAFTER_RAY is set.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_maker
import pytest
from test_make import HERE, content

from facecrafter.datasets import engines, rates, ray_data
from facecrafter.datasets.make import _jobs, run
from facecrafter.datasets.output import settings_of
from facecrafter.datasets.plan import Plan
from facecrafter.errors import DataError

pytestmark = pytest.mark.skipif(
    not os.environ.get("FACECRAFTER_RAY"), reason="starts a Ray cluster; set FACECRAFTER_RAY=1"
)
WORKERS = 2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without processors, which this process talks to, and two nodes of one."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))  # for fake_maker
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pytest.importorskip("ray", reason="needs Ray: pip install 'facecrafter[datasets]'")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(WORKERS):
        started.add_node()
    yield started
    started.shutdown()


def test_killed_nodes_change_nothing(planned: Callable[..., Plan], cluster: Any, tmp_path: Path) -> None:
    """At as many moments as FACECRAFTER_KILLS says, each time one of the nodes, by SIGKILL to all of its processes."""
    plan = planned(a_person=8)
    fake_maker.made(plan, tmp_path / "whole")
    maker = fake_maker.Making(tuple(plan.cells), slow=0.05)
    rng = random.Random(0)
    killed = 0

    @contextmanager
    def engine() -> Iterator[engines.Submit]:
        moment, submitted = rng.randrange(2, plan.shards), 0
        with engines.engine(maker, WORKERS, cluster.address) as submit:

            def killing(job: Any) -> Any:
                nonlocal submitted, killed
                submitted += 1
                if submitted == moment:
                    node = rng.choice(sorted(cluster.worker_nodes, key=lambda one: one.unique_id))
                    cluster.remove_node(node, allow_graceful=False)
                    cluster.add_node()
                    killed += 1
                return submit(job)

            yield killing

    moments = int(os.environ.get("FACECRAFTER_KILLS", "1"))
    for number in range(moments):
        out = tmp_path / f"set-{number}"
        done = run(plan, out, engine, WORKERS, settings_of(plan, 64, fake_maker.BASIS), progress=False)
        assert done.new == plan.images
        assert content(out) == content(tmp_path / "whole")
    assert killed == moments


def test_ray_data_makes_the_same_as_actors(planned: Callable[..., Plan], cluster: Any) -> None:
    plan = planned(a_person=2)
    maker = fake_maker.Making(tuple(plan.cells))
    jobs = list(_jobs(plan, list(range(plan.shards))))
    found = dict(ray_data.made(jobs, maker, WORKERS, cluster.address))
    with engines.engine(maker, WORKERS, cluster.address) as submit:
        by_actors = {job.number: results for job, results in engines.made(iter(jobs), submit, WORKERS)}
    assert [found[job.number] for job in jobs] == [by_actors[job.number] for job in jobs]
    assert found == {job.number: maker().read(job) for job in jobs}


def test_what_ray_data_misses_is_reported(planned: Callable[..., Plan], cluster: Any) -> None:
    plan = planned(a_person=2)
    maker = fake_maker.Making(tuple(plan.cells), refuses="there are no weights")
    with pytest.raises(DataError, match="there are no weights"):
        list(ray_data.made(list(_jobs(plan, [0, 1])), maker, WORKERS, cluster.address))


@pytest.mark.parametrize("kind", [rates.ACTOR, rates.RAY_DATA])
def test_jobs_alone_are_measured(planned: Callable[..., Plan], cluster: Any, kind: str) -> None:
    plan = planned(a_person=2)
    maker = fake_maker.Making(tuple(plan.cells))
    jobs = list(_jobs(plan, list(range(plan.shards))))
    stamps = rates._stamps(kind, jobs, maker, WORKERS, cluster.address)
    assert sorted(stamp.images for stamp in stamps) == sorted(len(job.rows) for job in jobs)
