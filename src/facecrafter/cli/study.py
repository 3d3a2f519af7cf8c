"""`study`: a user study of images of several methods, from building it to its report."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facecrafter.cli.application import study_app
from facecrafter.cli.options import Overwrite
from facecrafter.cli.printing import bar
from facecrafter.errors import ConfigError, DataError, counted
from facecrafter.interruption import stating
from facecrafter.io import check_free, command, write_whole

if TYPE_CHECKING:
    from facecrafter.study.simulate import Plan
    from facecrafter.study.store import Store

DATABASE_URL = "FACECRAFTER_STUDY_DATABASE"
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that `study new` wrote.", file_okay=False)]
Database = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_URL, help="URL of a PostgreSQL database in place of the folder's SQLite file.", metavar="URL"
    ),
]


class DesignName(StrEnum):
    """What one trial asks for."""

    choose = "choose"
    ranking = "ranking"
    pairs = "pairs"


@study_app.command("new")
def study_new(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of a study, as configs/mini/study.yaml.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", help="Further folders of --methods.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the study.", file_okay=False)] = Path("study"),
    methods: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folders of images, a method each, called by the folder's name."),
    ] = None,
    references: Annotated[Path | None, typer.Option(help="With --methods: folder of source and target photos.")] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Or a folder that `evaluate control` or `evaluate diversity` wrote."),
    ] = None,
    ranking: Annotated[bool, typer.Option("--ranking", help="Ask for an order of all methods.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Ask for the better of two methods at a time.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Build a study from images of several methods.

    Every image is checked, loses its metadata, and gets a name that tells nothing.

    \b
    facecrafter study new configs/mini/study.yaml --out studies/mini
    facecrafter study new study.yaml --methods pictures/a pictures/b --references pictures/photos --out studies/ab
    facecrafter study new study.yaml --run out/evaluation/control --run out/evaluation/diversity --pairs
    """
    from facecrafter.config import check, read
    from facecrafter.study.build import build
    from facecrafter.study.config import StudyConfig

    given = [*(methods or []), *(more or [])]
    if more and not methods:
        raise ConfigError(f"'{more[0]}' belongs to no option; give folders of images after --methods")
    if ranking and pairs:
        raise ConfigError("a study is a ranking or of pairs; give one of --ranking and --pairs")
    content = read(config)
    if run or given:
        content = {key: value for key, value in content.items() if key not in ("runs", "methods", "references")}
    if run:
        content["runs"] = run
    if given:
        names = [folder.resolve().name for folder in given]
        if len(set(names)) < len(names):
            raise ConfigError("two folders of --methods have the same name; name the methods in the config")
        content["methods"] = dict(zip(names, given, strict=True))
    if references:
        content["references"] = references
    if ranking or pairs:
        content["design"] = "ranking" if ranking else "pairs"
    with bar(100, "sets") as step:
        made = build(check(config, content, StudyConfig), out, overwrite, lambda share: step(share * 100))
    for kind, group in made.groups.items():
        typer.echo(f"{kind}: {len(group.sets)} sets of {', '.join(group.methods)}")
    if not made.config.contact:
        typer.echo("`contact` is empty: participants have nobody whom they can ask", err=True)
    typer.echo(f"{out}: start it with: {command('study', 'serve', out)}")


@study_app.command("serve")
def study_serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8020,
    name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name under which a proxy reaches it.")
    ] = None,
    database: Database = None,
) -> None:
    """Serve a study until Ctrl-C.

    Answers are on the disk once they are acknowledged.

    Beyond this machine put a proxy with HTTPS before it, and give its name with --name.
    """
    from facecrafter import web

    web.check_installed("study", ["alembic"])
    from facecrafter.study.server import MOST_CONNECTIONS, make_app
    from facecrafter.web.binding import Binding
    from facecrafter.web.server import serve

    binding = Binding(host, port, names=tuple(name or ()), own_access=True)
    store = _store(folder, database)
    access = store.study.config.access
    typer.echo(f"admin token: {folder / 'admin-token'}", err=True)
    if access == "links":
        typer.echo(f"by invitation: make links with: {command('study', 'links', folder, '-n', '21')}", err=True)
    try:
        app = make_app(folder, store, binding)
        with stating(lambda: "every acknowledged answer is saved"):
            serve(app, lambda address: typer.echo(address), most_connections=MOST_CONNECTIONS)
    finally:
        store.database.close()


@study_app.command("links")
def study_links(
    folder: Folder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="How many.")] = 21,
    address: Annotated[str, typer.Option(help="Where participants reach the server.")] = "http://127.0.0.1:8020",
    database: Database = None,
) -> None:
    """Print new personal links to a study.

    Each is for one participant of a study with `access: links`.
    """
    store = _store(folder, database)
    if store.study.config.access != "links":
        raise ConfigError(f"{folder} has `access: {store.study.config.access}`; personal links need `access: links`")
    for code in store.invite(count):
        typer.echo(f"{address.rstrip('/')}/i/{code}")
    store.database.close()


@study_app.command("status")
def study_status(folder: Folder, database: Database = None) -> None:
    """Show how many took part, and how evenly sets are answered."""
    from facecrafter.study.status import status_of

    store = _store(folder, database)
    found = status_of(store)
    store.database.close()
    typer.echo(
        f"{counted(found.participants, 'participant')}, {found.finished} finished, {found.withdrawn} withdrew; "
        f"{counted(found.answers, 'answer')}"
    )
    for one in found.questions:
        if not one.answers:
            typer.echo(f"{one.question}: no answers yet")
            continue
        typer.echo(
            f"{one.question}: {counted(one.answers, 'answer')}, {one.fewest} to {one.most} a set; "
            f"methods over positions: p {one.positions_p:.2f}"
        )


@study_app.command("export")
def study_export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="CSV to write.", dir_okay=False)],
    database: Database = None,
    overwrite: Overwrite = False,
) -> None:
    """Write every answer of a study as a row of CSV.

    Attention checks and practice are included, and the methods are named.
    """
    from facecrafter.study.export import as_csv

    check_free([out], overwrite)
    store = _store(folder, database)
    text = as_csv(store)
    store.database.close()
    write_whole(out, text.encode())
    typer.echo(f"{counted(text.count(chr(10)) - 1, 'answer')}: {out}")


@study_app.command("report")
def study_report(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder for report.html, study.md and study.csv.", file_okay=False)],
    database: Database = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the report of a study's answers.

    Selection rates and worths with intervals, tests of differences, bias by position, agreement.
    """
    from facecrafter.study import report

    store = _store(folder, database)
    found = report.gather(store)
    for path in report.write(found, out, overwrite):
        typer.echo(path)
    if not found.results:
        typer.echo(
            f"{folder} has no answers yet, and the report says no more; make it again once there are some", err=True
        )
    store.database.close()


@study_app.command("rehearse")
def study_rehearse(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder for the report.", file_okay=False)],
    participants: Annotated[int, typer.Option(min=1, max=5000, help="Simulated people, up to 200 at once.")] = 21,
    seed: Annotated[int, typer.Option(min=0, help="Of their choices.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Let simulated people go through a study, and report.

    They come over HTTP, reload, send twice, undo, and some leave for good. Their answers go into a database that is
    thrown away, and every one that was acknowledged is looked for in it.
    """
    from facecrafter import web

    web.check_installed("study", ["alembic"])
    from facecrafter.study import report
    from facecrafter.study.rehearsal import rehearsed

    check_free([out / name for name in report.FILES], overwrite)
    with rehearsed(folder, participants, seed) as store:
        found = report.gather(store, simulated=True)
        paths = report.write(found, out, overwrite)
        typer.echo(report.summary(found)[1])  # who took part, after that nobody did in person
    typer.echo("no acknowledged answer is lost or doubled; all of them are simulated")
    for path in paths:
        typer.echo(path)


@study_app.command("simulate")
def study_simulate(
    participants: Annotated[int, typer.Option(min=2, help="People who take part.")] = 21,
    sets: Annotated[int, typer.Option(min=1, help="Sets of images.")] = 30,
    sets_a_participant: Annotated[int, typer.Option(min=1, help="Of them, those that a participant sees.")] = 5,
    methods: Annotated[int, typer.Option(min=2, max=20, help="Methods that are compared.")] = 5,
    design: Annotated[DesignName, typer.Option(help="What one trial asks for.")] = DesignName.choose,
    spread: Annotated[
        float,
        typer.Option(
            min=0, max=3, help="How far participants, and sets, differ: the deviation of the logarithms of worths."
        ),
    ] = 0.5,
    studies: Annotated[int, typer.Option(min=10, help="Simulated for each line.")] = 200,
    check: Annotated[
        bool, typer.Option("--check", help="Rather measure how often intervals hold the truth, and false alarms.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="One seed gives the same numbers.")] = 0,
) -> None:
    """Estimate which difference a study of some size would find.

    It plans one question, with so many people and sets.

    The first method is preferred to all others, who are alike. Answers are simulated; nobody's are read or written.

    \b
    facecrafter study simulate                                  # the paper's design
    facecrafter study simulate --participants 60 --methods 3
    facecrafter study simulate --check --studies 500            # coverage of the intervals
    """
    from facecrafter.study.simulate import Plan

    if sets_a_participant > sets:
        raise ConfigError(f"a participant cannot see {sets_a_participant} of {sets} sets; lower --sets-a-participant")
    plan = Plan(participants, sets, sets_a_participant, methods, design.value, spread, spread)
    answers = participants * sets_a_participant
    typer.echo(
        f"simulated: {answers} answers a question, {answers / sets:.1f} a set, {methods} methods, spread {spread}"
    )
    if check:
        _show_coverage(plan, studies, seed)
    else:
        _show_power(plan, studies, seed)


def _show_power(plan: Plan, studies: int, seed: int) -> None:
    from facecrafter.study.simulate import POWER, power, smallest_found

    differences = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
    with bar(studies * len(differences), "studies") as step:
        found = power(plan, differences, studies, seed, step)
    what = "being placed first, tested by mean ranks" if plan.design == "ranking" else "selection rate"
    typer.echo(f"difference in {what} | any difference found | the best found better than another (Holm)")
    for one in found:
        typer.echo(f"{one.difference * 100:4.0f} points | {one.any_difference:4.0%} | {one.best:4.0%}")
    smallest = smallest_found(found)
    if smallest is None:
        typer.echo(f"none of these differences is found in {POWER:.0%} of studies")
    else:
        typer.echo(f"a difference of {smallest * 100:.0f} points is found in {POWER:.0%} of studies")


def _show_coverage(plan: Plan, studies: int, seed: int) -> None:
    import numpy as np

    from facecrafter.study.simulate import coverage

    what = "mean ranks" if plan.design == "ranking" else "selection rates"
    uneven = np.log(1 / np.arange(1.0, plan.methods + 1))
    for name, logs in (("methods alike", np.zeros(plan.methods)), ("methods of worths 1, 1/2, 1/3 ...", uneven)):
        with bar(studies, name) as step:
            found = coverage(plan, logs, studies, seed, step)
        worths = "" if found.worths is None else f", worths {found.worths:.1%}"
        typer.echo(f"{name}, {studies} studies: 95 % intervals hold the truth: {what} {found.means:.1%}{worths}")
        for test, share in found.false_alarms.items():
            typer.echo(f"  false alarms at 5 %: {share:.1%}, {test}")


def _store(folder: Path, url: str | None) -> Store:
    from facecrafter import web

    web.check_installed("study", ["alembic"])
    from facecrafter.study import manifest
    from facecrafter.study.database import open_database
    from facecrafter.study.store import Store

    study = manifest.read(folder)
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder} cannot be written to; change its permissions")
    return Store(study, open_database(folder, study.digest, url))
