"""Making a plan: the same bytes whoever makes it, going on after whatever ended it, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fake_maker
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from facecrafter import io
from facecrafter.cli import app
from facecrafter.data import shards
from facecrafter.data.prepare import renew_emotions
from facecrafter.datasets import output
from facecrafter.datasets.make import Made, check_plan, run
from facecrafter.datasets.output import is_done, settings_of
from facecrafter.datasets.plan import Plan
from facecrafter.errors import ConfigError, DataError, WeightsError

Planned = Callable[..., Plan]
HERE = Path(__file__).parent


def content(folder: Path) -> dict[str, str]:
    """A digest of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def plan(planned: Planned) -> Plan:
    return planned()


@pytest.fixture
def whole(plan: Plan, tmp_path: Path) -> dict[str, str]:
    """What a run that nothing disturbs gives."""
    fake_maker.made(plan, tmp_path / "whole")
    return content(tmp_path / "whole")


def test_a_data_set_is_a_prepared_folder(plan: Plan, tmp_path: Path) -> None:
    done = fake_maker.made(plan, tmp_path / "set")
    index = pq.read_table(tmp_path / "set" / "index.parquet").to_pylist()
    wanted = [row for shard in range(plan.shards) for row in plan.rows(shard)]
    there = [row.id for row in wanted if not row.id.endswith("0")]
    assert [row["key"] for row in index] == there
    assert (done.planned, done.counts.images, done.counts.rejected) == (40, len(there), 40 - len(there))
    assert done.new == 40 and not done.empty
    assert {row["asked_yaw"] for row in index} == {-20, 20}
    assert all(row["yaw"] == pytest.approx(row["asked_yaw"], abs=0.01) for row in index)
    prepared = shards.load(tmp_path / "set")
    assert len(prepared) == len(there) and len(set(prepared.persons)) == 5
    assert np.allclose(np.linalg.norm(prepared.identity, axis=1), 1, atol=1e-5)
    listed = (tmp_path / "set" / "rejected.csv").read_text().splitlines()
    assert len(listed) == 1 + done.counts.rejected
    assert all("no face found" in line for line in listed[1:])


def test_the_emotions_that_images_were_chosen_by_stay(plan: Plan, tmp_path: Path, whole: dict[str, str]) -> None:
    folder = tmp_path / "whole"
    with pytest.raises(DataError, match=r"whole is a data set of 'dataset make'.* make the set again in a new folder"):
        renew_emotions(folder, progress=False)
    assert content(folder) == whole
    meta = json.loads((folder / "meta.json").read_text())
    meta["emotion"]["sha256"] = "0" * 64
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"was begun with another emotion estimator; name another folder, or give"):
        fake_maker.made(plan, folder)


def test_the_bytes_do_not_depend_on_the_number_of_workers(plan: Plan, tmp_path: Path, whole: dict[str, str]) -> None:
    fake_maker.made(plan, tmp_path / "set", workers=3)
    assert content(tmp_path / "set") == whole


@pytest.mark.skipif(not os.environ.get("FACECRAFTER_RAY"), reason="starts a Ray cluster; set FACECRAFTER_RAY=1")
def test_the_bytes_are_the_same_by_ray(
    plan: Plan, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'facecrafter[datasets]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))  # for fake_maker
    fake_maker.made(plan, tmp_path / "set", workers=2, ray="local")
    assert content(tmp_path / "set") == whole


def test_without_ray_the_error_says_how_to_get_it(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'facecrafter\[datasets\]'"):
        fake_maker.made(plan, tmp_path / "set", 1, ray="auto")


def test_a_killed_worker_is_named_and_its_shard_made_again(planned: Planned, tmp_path: Path) -> None:
    """At as many moments as FACECRAFTER_KILLS says."""
    plan = planned(a_person=8)
    fake_maker.made(plan, tmp_path / "whole")
    fatal, rng = tmp_path / "fatal", random.Random(0)
    for number in range(int(os.environ.get("FACECRAFTER_KILLS", "1"))):
        fatal.write_text(str(rng.randrange(plan.shards // 2)))  # one of two workers makes at least so many
        out = tmp_path / f"set-{number}"
        with pytest.raises(DataError, match="a worker process died"):
            fake_maker.made(plan, out, workers=2, fatal=fatal)
        fake_maker.made(plan, out)
        assert content(out) == content(tmp_path / "whole")


def test_why_a_worker_cannot_start_is_said_and_nothing_else(
    plan: Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError, match=r"^the weights are not installed$"):
        fake_maker.made(plan, tmp_path / "set", workers=2, refuses="the weights are not installed")
    assert "Traceback" not in capfd.readouterr().err


DRIVER = """
import sys
from functools import partial
from pathlib import Path

sys.path[:0] = [{tests!r}]
import fake_maker
from facecrafter.datasets.engines import engine
from facecrafter.datasets.make import run
from facecrafter.datasets.output import settings_of
from facecrafter.datasets.plan import Plan

if __name__ == "__main__":
    plan = Plan(Path(sys.argv[1]))
    maker = fake_maker.Making(tuple(plan.cells), slow=0.05)
    settings = settings_of(plan, 64, fake_maker.BASIS)
    run(plan, Path(sys.argv[2]), partial(engine, maker, 2, None), 2, settings, progress=False)
"""


def killed(plan: Plan, out: Path, driver: Path, after: int) -> None:
    """Start a run, and kill it once so many files are there."""
    started = subprocess.Popen([sys.executable, driver, plan.path, out], stderr=subprocess.DEVNULL)

    def there() -> int:
        return len(list(out.glob("shard-*"))) if out.is_dir() else 0

    while there() < after and started.poll() is None:
        os.sched_yield()
    with contextlib.suppress(ProcessLookupError):
        started.send_signal(signal.SIGKILL)
    started.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on(planned: Planned, tmp_path: Path) -> None:
    """At as many moments as FACECRAFTER_KILLS says."""
    plan = planned(a_person=8)
    fake_maker.made(plan, tmp_path / "whole")
    driver = tmp_path / "driver.py"
    driver.write_text(textwrap.dedent(DRIVER.format(tests=str(HERE))))
    rng = random.Random(0)
    for number in range(int(os.environ.get("FACECRAFTER_KILLS", "1"))):
        out = tmp_path / f"set-{number}"
        killed(plan, out, driver, rng.randint(1, 2 * plan.shards - 2))
        before = [shard for shard in range(plan.shards) if is_done(out, shard)]
        done = fake_maker.made(plan, out)
        assert done.new == sum(len(plan.rows(shard)) for shard in range(plan.shards) if shard not in before)
        assert content(out) == content(tmp_path / "whole")


def test_a_full_disk_is_named_and_nothing_is_cut_in_two(
    plan: Plan, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = io.whole, []

    @contextlib.contextmanager
    def full(path: Path, shared: bool = False) -> Any:
        calls.append(path)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        with real(path, shared) as partial_path:
            yield partial_path

    with monkeypatch.context() as patched:
        patched.setattr(shards, "whole", full)
        with pytest.raises(DataError, match=r"cannot be written .*No space left on device.*goes on from there"):
            fake_maker.made(plan, tmp_path / "set")
    fake_maker.made(plan, tmp_path / "set")
    assert content(tmp_path / "set") == whole


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "list"])
def test_a_damaged_shard_is_made_again(plan: Plan, tmp_path: Path, whole: dict[str, str], damage: str) -> None:
    out = tmp_path / "set"
    fake_maker.made(plan, out)
    tar, beside = shards.shard_path(out, 2), shards.shard_path(out, 2, "json")
    if damage == "cut":
        tar.write_bytes(tar.read_bytes()[:-512])
    elif damage == "bit":
        flip(tar)
    elif damage == "gone":
        tar.unlink()
    else:
        beside.write_text(beside.read_text()[:100])
    done = fake_maker.made(plan, out)
    assert done.new == len(plan.rows(2))
    assert done.damaged == ([] if damage == "gone" else ["shard-00002.tar"])
    assert content(out) == whole


def flip(path: Path) -> None:
    """Change a bit in the middle of a file."""
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)


def test_the_command_names_the_damaged_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = output.Counts(40, 0, 44, Counter())
    names = [f"shard-0000{number}.tar" for number in range(6)]
    done = Made(tmp_path, 40, counts, 40, [], names, 1.0)
    monkeypatch.setattr("facecrafter.datasets.make.make", lambda *given, **named: done)
    said = CliRunner().invoke(app, ["dataset", "make", "plan.parquet", str(tmp_path)]).output.replace("\n", " ")
    assert "6 shards of an earlier run had been damaged, and were made again: shard-00000.tar, " in said
    assert "shard-00004.tar, ..." in said and "shard-00005" not in said


DAMAGED_LISTS: list[tuple[str, Any]] = [
    ("yaw", "x"), ("attempt", "a"), ("attempt", 2**40), ("key", 3), ("likeness", True), ("valence", None),
    ("seed", 1.5), ("sha256", None), ("sha256", 3), ("bytes", "many"), ("rejected", [{"file": "a", "reason": 3}]),
    ("rejected", 3), ("rows", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), DAMAGED_LISTS)
def test_a_list_with_other_values_is_damaged(plan: Plan, tmp_path: Path, name: str, value: Any) -> None:
    out = tmp_path / "set"
    fake_maker.made(plan, out)
    path = shards.shard_path(out, 2, "json")
    beside = json.loads(path.read_text())
    place = beside if name in beside else beside["rows"][0]
    place[name] = value
    path.write_text(json.dumps(beside))
    with pytest.raises(DataError, match=r"shard-00002.json is damaged or missing; delete it and run"):
        output.read_list(out, 2)
    assert not is_done(out, 2)


def test_a_changed_bit_is_found_when_the_samples_are_read(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "set"
    fake_maker.made(plan, out)
    flip(shards.shard_path(out, 1))
    with pytest.raises(DataError, match=r"shard-00001.tar is damaged or missing; delete it and run"):
        list(output.samples(out, 1, output.read_list(out, 1)["sha256"]))


CHANGED = {
    "weights": "other weights of the model 'mini'",
    "gain": "another gain of the model 'mini'",
    "rig": "another rig",
    "device": "another kind of device",
    "recogniser": "another arcface.onnx for the model 'mini'",
}


def test_another_plan_and_another_basis_are_refused(plan: Plan, planned: Planned, tmp_path: Path) -> None:
    out = tmp_path / "set"
    fake_maker.made(plan, out)
    before = content(out)
    other = planned("other", seed=1)
    with pytest.raises(DataError, match="was begun with another plan"):
        fake_maker.made(other, out)
    engine = partial(fake_maker.here, fake_maker.Making(tuple(plan.cells)))
    for name, reason in CHANGED.items():
        changed = settings_of(plan, 64, replace(fake_maker.BASIS, **{name: "changed"}))
        with pytest.raises(DataError, match=f"was begun with {reason}; make this one in a new folder"):
            run(plan, out, engine, 1, changed, progress=False)
    assert content(out) == before
    renewed = settings_of(other, 64, replace(fake_maker.BASIS, weights="changed"))
    assert run(other, out, engine, 1, renewed, overwrite=True, progress=False).new == 40


def test_a_set_that_does_not_say_whose_its_people_are_goes_on(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "set"
    fake_maker.made(plan, out)
    meta = json.loads((out / "meta.json").read_text())
    assert meta["dataset"].pop("sources") == {"embeddings": 5}
    (out / "meta.json").write_text(json.dumps(meta))
    (out / "shard-00001.tar").unlink()
    assert fake_maker.made(plan, out).new == 7
    assert json.loads((out / "meta.json").read_text()) == meta


def test_places_that_are_taken_are_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        fake_maker.made(plan, tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(DataError, match="is not empty and no data set"):
        fake_maker.made(plan, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with pytest.raises(DataError, match=r"cannot be read \(file name too long\); choose another one"):
        fake_maker.made(plan, tmp_path / ("x" * 400))


def test_a_folder_that_cannot_be_read_is_refused(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "set").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"set cannot be read \(permission denied\); choose another one"):
        fake_maker.made(plan, tmp_path / "set")


def overwritten(plan: Plan, out: Path) -> None:
    engine = partial(fake_maker.here, fake_maker.Making(tuple(plan.cells)))
    run(plan, out, engine, 1, settings_of(plan, 64, fake_maker.BASIS), overwrite=True, progress=False)


@pytest.mark.parametrize("meta", ['{"format": 1, "photos": {}}', "{", "[]", '{"dataset": 3}'])
def test_what_is_no_data_set_is_not_overwritten(plan: Plan, tmp_path: Path, meta: str) -> None:
    out = tmp_path / "prepared"
    out.mkdir()
    (out / "meta.json").write_text(meta)
    (out / "shard-00000.tar").write_bytes(b"photos")
    with pytest.raises(DataError, match="is no data set of 'dataset make', and --overwrite is for these"):
        overwritten(plan, out)
    assert (out / "meta.json").read_text() == meta and (out / "shard-00000.tar").read_bytes() == b"photos"


def test_what_was_said_of_a_set_goes_with_it(plan: Plan, tmp_path: Path, whole: dict[str, str]) -> None:
    out = tmp_path / "set"
    fake_maker.made(plan, out)
    for name in ("audit.html", "audit.json", "README.md"):
        (out / name).touch()
    overwritten(plan, out)
    assert content(out) == whole


def test_a_plan_of_another_rig_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    check_plan(plan, 128)
    monkeypatch.setattr(plan, "rig", "another")
    with pytest.raises(ConfigError, match="was written with another rig; write it again with"):
        check_plan(plan, 128)


def test_two_runs_do_not_share_a_folder(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with io.alone(out, "data set"), pytest.raises(ConfigError, match="another data set is going on"):
        fake_maker.made(plan, out)


def test_a_plan_that_no_image_follows_is_named(planned: Planned, tmp_path: Path, monkeypatch: Any) -> None:
    plan = planned(a_person=1)
    rows = plan.rows
    monkeypatch.setattr(
        plan,
        "rows",
        lambda shard: [type(row)(row.id[:-1] + "0", row.person, row.cell, row.seed) for row in rows(shard)],
    )
    with pytest.raises(DataError, match=r"not one of 20 images is in its cell .*no face found.*widen accept"):
        fake_maker.made(plan, tmp_path / "set")


def test_webdataset_reads_a_shard(plan: Plan, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    fake_maker.made(plan, tmp_path / "set")
    read = list(webdataset.WebDataset([str(shards.shard_path(tmp_path / "set", 0))], shardshuffle=False).decode("rgb8"))
    assert [one["__key__"] for one in read] == [row.id for row in plan.rows(0) if not row.id.endswith("0")]
    assert read[0]["png"].shape == (64, 64, 3)
    assert read[0]["json"]["asked"]["yaw"] == -20
    assert read[0]["npz"]["points"].shape == (478, 3)


def test_datasets_reads_a_shard(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    fake_maker.made(plan, tmp_path / "set")
    files = [str(shards.shard_path(tmp_path / "set", 0))]
    read = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    first = next(iter(read))
    assert first["__key__"] == plan.rows(0)[0].id
    assert first["png"].size == (64, 64) and first["json"]["asked"]["yaw"] == -20
