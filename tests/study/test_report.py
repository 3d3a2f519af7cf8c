"""Reports of simulated answers: each number where it belongs, all text escaped, and the commands that write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from facecrafter.cli import app
from facecrafter.errors import OutputError
from facecrafter.study import answers, report
from facecrafter.study.build import build
from facecrafter.study.config import StudyConfig
from facecrafter.study.database import FILE, open_database
from facecrafter.study.manifest import IMAGES, MANIFEST, Manifest
from facecrafter.study.records import Answer, Participant, Trial
from facecrafter.study.store import Store
from tests.study.conftest import METHODS, Clock


def answered(store: Store, participants: int, seed: int = 0) -> None:
    """Participants who mostly prefer the last method; the first one fails every attention check."""
    rng = np.random.default_rng(seed)
    for person in range(participants):
        store.join(f"person {person}")
        while (trial := store.state(f"person {person}").trial) is not None:
            assert trial.id is not None
            order = np.argsort([-one - 2 * rng.random() for one in trial.layout]).tolist()
            if trial.expected is not None:
                order = [trial.expected if person else (trial.expected + 1) % len(trial.layout)]
                order += [one for one in range(len(trial.layout)) if one not in order]
            wanted = len(order) if store.study.config.design == "ranking" else 1
            store.answer(f"person {person}", trial.id, trial.attempt, order[:wanted], 2000)


@pytest.fixture(params=["choose", "ranking", "pairs"])
def full(
    request: pytest.FixtureRequest,
    made: Callable[..., tuple[Path, Manifest]],
    tmp_path: Path,
    clock: Clock,
) -> Store:
    study = made(design=request.param, attention_checks=1)[1]
    store = Store(study, open_database(tmp_path, study.digest), clock)
    answered(store, 6)
    return store


def test_a_report_has_every_question_and_method(full: Store, tmp_path: Path) -> None:
    paths = report.write(report.gather(full), tmp_path / "out")
    assert [path.name for path in paths] == list(report.FILES)
    html, markdown = (path.read_text() for path in paths[:2])
    for question in full.study.config.questions:
        assert question.text in html and question.text in markdown
    for method in METHODS:
        assert html.count(method) >= 10 and markdown.count(method) >= 10
    assert "6 participants took part, and 6 finished" in markdown
    assert "2.0 answers a set" in markdown and "failed an attention check: 1" in markdown
    assert "default-src 'none'" in html and not re.search(r'(?:src|href)="(?!data:|#)', html)
    with pytest.raises(OutputError):
        report.write(report.gather(full), tmp_path / "out")


def test_times_are_in_utc_whatever_zone_a_database_gives_them_in(made: Callable[..., tuple[Path, Manifest]]) -> None:
    noon = datetime(2026, 3, 1, 12)
    trial = Trial(id=1, place=0, question="identity", number=0, layout=[0, 1, 2], kind="answer")

    def exported(time: datetime) -> str:
        answer = Answer(trial_id=1, positions=[0], milliseconds=1, answered=time)
        one = answers.Given(Participant(number=0), trial, answer, 0)
        return next(answers.rows([one], made()[1]))["answered"]  # type: ignore[no-any-return]

    assert exported(noon) == "2026-03-01T12:00:00Z"
    assert exported(noon.replace(tzinfo=timezone(timedelta(hours=2)))) == "2026-03-01T10:00:00Z"


def test_numbers_are_those_of_the_answers(full: Store) -> None:
    found = report.gather(full)
    rows = list(csv.DictReader(io.StringIO(report.as_csv(found))))
    for result in found.results:
        mine = [one for one in rows if one["question"] == result.key]
        rates = {one["method"]: float(one["value"]) for one in mine if one["measure"] == "selection_rate"}
        first = result.choices.orders[:, 0]
        for number, method in enumerate(METHODS):
            shown = (result.choices.layouts == number).any(1).sum()
            assert rates[method] == pytest.approx((first == number).sum() / shown)
        worths = [float(one["value"]) for one in mine if one["measure"] == "worth"]
        assert sum(worths) == pytest.approx(1) and max(worths) == worths[2]
        assert result.flagged.sum() == 2  # the first participant's answers to this question
        without = [float(one["value"]) for one in mine if one["measure"] == "selection_rate_without_flagged"]
        kept = first[~result.flagged]
        layouts = result.choices.layouts[~result.flagged]
        assert without == pytest.approx([(kept == n).sum() / (layouts == n).any(1).sum() for n in range(3)])
    ranking = full.study.config.design == "ranking"
    assert any(one["measure"] == "mean_rank" for one in rows) == ranking
    names = {one.name for result in found.results for one in result.tests}
    classical = {"choose": "Cochran's Q", "ranking": "Friedman", "pairs": None}[full.study.config.design]
    assert names - {"Wald, by participants and sets"} == ({classical} if classical else set())


@pytest.mark.parametrize("design", ["choose", "ranking", "pairs"])
def test_intervals_of_two_participants_stay_in_range(
    made: Callable[..., tuple[Path, Manifest]], tmp_path: Path, clock: Clock, design: str
) -> None:
    study = made(design=design)[1]
    store = Store(study, open_database(tmp_path, study.digest), clock)
    answered(store, 2)
    largest = len(METHODS) - 1 if design == "ranking" else 1
    ends = []
    for result in report.gather(store).results:
        differences = [one.difference for one in result.pairs]
        ends += [abs(end) for one in differences for end in (one.low, one.high) if end is not None]
        if design == "ranking":
            ranks = [one for one in report._ranks(result) if one.low is not None]
            assert all(1 <= one.low <= one.high <= len(METHODS) for one in ranks)
    assert max(ends) == largest


def test_a_study_without_answers_has_a_report_that_says_so(
    made: Callable[..., tuple[Path, Manifest]], tmp_path: Path
) -> None:
    study = made()[1]
    html, markdown, table = (
        path.read_text()
        for path in report.write(report.gather(Store(study, open_database(tmp_path, study.digest))), tmp_path / "out")
    )
    assert (
        "no answers yet" in html
        and "no answers yet" in markdown
        and "0 participants" in markdown
        and table.count("\n") == 1
    )
    assert "withdrew" not in markdown and "0.0 answers" not in markdown


def test_a_report_of_no_answers_is_told_and_replaced(images: Path, config: Path, tmp_path: Path) -> None:
    out, folders = tmp_path / "study", [images / name for name in METHODS]
    run("new", config, "--methods", *folders, "--references", images / "references", "--out", out)
    for _ in range(2):
        empty = run("report", out, "--out", tmp_path / "report")
        assert empty.exit_code == 0 and f"{out} has no answers yet" in empty.output
    study = Manifest(**yaml.safe_load((out / MANIFEST).read_text()))
    database = open_database(out, study.digest)
    answered(Store(study, database), 2)
    database.close()
    full = run("report", out, "--out", tmp_path / "report")
    assert full.exit_code == 0 and "no answers yet" not in full.output
    again = run("report", out, "--out", tmp_path / "report")
    assert again.exit_code == 1 and "exists already" in again.output


def test_who_took_part_is_counted_in_words(
    made: Callable[..., tuple[Path, Manifest]], tmp_path: Path, clock: Clock
) -> None:
    study = made()[1]
    store = Store(study, open_database(tmp_path, study.digest), clock)
    answered(store, 1)
    assert report.summary(report.gather(store))[0] == "1 participant took part, and 1 finished."
    store.join("somebody")
    store.withdraw("somebody")
    assert report.summary(report.gather(store))[0] == (
        "1 participant took part, and 1 finished. 1 more withdrew, which deleted their answers."
    )


def test_kendalls_tau_is_a_column_of_rankings_alone(full: Store) -> None:
    grid = report.quality(report.gather(full))
    assert ("Tau" in grid.headings) == (full.study.config.design == "ranking")
    assert all(len(cells) + 1 == len(grid.headings) for _, cells in grid.rows)


def test_texts_are_escaped(made: Callable[..., tuple[Path, Manifest]], tmp_path: Path, clock: Clock) -> None:
    evil = "<script>alert(1)</script>|*x*"
    study = made(title=evil, questions=({"key": "one", "images": "control", "text": evil},))[1]
    store = Store(study, open_database(tmp_path, study.digest), clock)
    answered(store, 3)
    found = report.gather(store)
    assert "<script>alert" not in report.as_html(found)
    assert r"\<script\>alert(1)\</script\>\|\*x\*" in report.as_markdown(found)


def test_a_method_is_no_formula(images: Path, tmp_path: Path, clock: Clock) -> None:
    methods = {f"={name}": images / name for name in METHODS[:2]}
    question = {"key": "one", "images": "control", "shows": (), "text": "Which?"}
    config = StudyConfig(methods=methods, questions=(question,), sets=6, sets_a_participant=2)
    study = build(config, tmp_path)
    store = Store(study, open_database(tmp_path, study.digest), clock)
    answered(store, 2)
    rows = list(csv.DictReader(io.StringIO(report.as_csv(report.gather(store)))))
    assert {one["method"] for one in rows} == {f"'={name}" for name in METHODS[:2]}


# --- commands ---------------------------------------------------------------------------------------------------------


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"images_a_set": 2, "sets": 6, "sets_a_participant": 2}))
    return path


def test_new_status_export_and_report(images: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    folders = [images / name for name in METHODS]
    new = run("new", config, "--methods", *folders, "--references", images / "references", "--out", out, "--pairs")
    assert new.exit_code == 0, new.output
    assert f"control: 6 sets of {', '.join(METHODS)}" in new.output
    assert (out / MANIFEST).exists() and len(list((out / IMAGES).iterdir())) == 6 * (3 + 6 + 3)
    assert "identity: no answers yet" in run("status", out).output
    study = Manifest(**yaml.safe_load((out / MANIFEST).read_text()))
    assert study.config.design == "pairs"
    database = open_database(out, study.digest)
    answered(Store(study, database), 1)
    assert "1 participant, 1 finished" in run("status", out).output
    answered(Store(study, database), 2)
    database.close()
    status = run("status", out)
    assert (
        "2 participants, 2 finished, 0 withdrew" in status.output
        and "identity: 4 answers, 0 to 1 a set" in status.output
    )
    assert run("export", out, tmp_path / "answers.csv").output.startswith(f"{2 * 13} answers")
    rows = list(csv.DictReader((tmp_path / "answers.csv").open()))
    assert len(rows) == 26 and {name for one in rows for name in one["shown"].split(" | ")} == set(METHODS)
    written = run("report", out, "--out", tmp_path / "report")
    assert written.exit_code == 0 and (tmp_path / "report" / "report.html").exists()
    again = run("export", out, tmp_path / "answers.csv")
    assert again.exit_code == 1 and "exists already" in again.output


@pytest.mark.parametrize("design", ["choose", "ranking", "pairs"])
def test_a_rehearsal_leaves_the_study_alone_and_says_what_it_is(
    made: Callable[..., tuple[Path, Manifest]], tmp_path: Path, design: str
) -> None:
    folder, _ = made(design=design, questions=({"key": "one", "images": "control", "text": "Which?"},))
    before = sorted(folder.iterdir())
    done = run("rehearse", folder, "--participants", 12, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "12 participants took part" in done.output and "no acknowledged answer is lost or doubled" in done.output
    assert "These answers are simulated" in (tmp_path / "study.md").read_text()
    assert "These answers are simulated" in (tmp_path / "report.html").read_text()
    assert sorted(folder.iterdir()) == before


def test_links_are_for_studies_by_invitation(images: Path, config: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["methods"] = {name: str(images / name) for name in METHODS}
    content["references"] = str(images / "references")
    for access, contact in (("open", ""), ("links", "lab@example.org")):
        config.write_text(yaml.safe_dump({**content, "access": access, "contact": contact}))
        new = run("new", config, "--out", tmp_path / "ä ö" / access)
        assert f"start it with: facecrafter study serve '{tmp_path / 'ä ö' / access}'\n" in new.output
        assert new.exit_code == 0 and ("`contact` is empty" in new.output) == (not contact)
    found = run("links", tmp_path / "ä ö" / "links", "-n", 3, "--address", "https://study.example/")
    assert re.fullmatch(r"(https://study\.example/i/[\w-]{22}\n){3}", found.output)
    refused = run("links", tmp_path / "ä ö" / "open")
    assert refused.exit_code == 1 and "access: links" in refused.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "nowhere"], "holds no study"),
        (["new", "nowhere.yaml"], "there is no config"),
        (["new", "{config}", "stray"], "belongs to no option"),
        (["new", "{config}"], "has no images"),
        (["new", "{config}", "--methods", "a", "b", "--ranking", "--pairs"], "one of --ranking and --pairs"),
        (["new", "{config}", "--methods", "x/a", "y/a"], "same name"),
        (["new", "{config}", "--run", "nowhere"], "nowhere has no result.json; make it with: facecrafter evaluate"),
        (["new", "{config}", "--run", "out/control"], "make it with: facecrafter evaluate control CONFIG, as"),
        (["simulate", "--sets", "3", "--sets-a-participant", "4"], "cannot see 4 of 3"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(config: Path, arguments: list[str], words: str) -> None:
    done = run(*(one.replace("{config}", str(config)) for one in arguments))
    assert done.exit_code == 1 and words in done.output and "Traceback" not in done.output
    assert done.output.strip().splitlines()[-1].startswith("error: ")


def test_simulate_plans_and_checks() -> None:
    planned = run("simulate", "--studies", 10, "--participants", 40, "--methods", 3)
    assert planned.exit_code == 0 and "simulated: 200 answers a question, 6.7 a set" in planned.output
    assert "points is found in 80% of studies" in planned.output
    checked = run("simulate", "--check", "--studies", 10, "--spread", 0)
    assert "selection rates 9" in checked.output or "selection rates 100" in checked.output
    assert "worths" in checked.output and "false alarms at 5 %" in checked.output


def test_damaged_databases_are_named(made: Callable[..., tuple[Path, Manifest]], tmp_path: Path) -> None:
    study = made()[1]
    (tmp_path / FILE).write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(OutputError, match="cannot be used"):
        open_database(tmp_path, study.digest)
