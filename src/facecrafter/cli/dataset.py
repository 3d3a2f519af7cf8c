"""`dataset`: plan, make and audit face data sets that are balanced by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import dataset_app
from facecrafter.cli.options import Overwrite
from facecrafter.errors import counted

OUT = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a data set.", file_okay=False)]


@dataset_app.command("plan")
def dataset_plan(
    config: Annotated[Path, typer.Argument(metavar="PLAN.YAML", help="What the data set is to hold.", dir_okay=False)],
    out: Annotated[
        Path | None, typer.Argument(metavar="PLAN.PARQUET", help="The plan. [default: beside the YAML]", dir_okay=False)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.0001, help="Images a second of one worker, for the estimate.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Plan a data set: who is shown how, and what it will cost.

    Every image gets an id. Nothing is made yet.

    \b
    identities:
      - {prepared: data/people, count: 100}      # of `data synthesise`, or of `data prepare` for photos of your own
    away_from: [data/lfw]                        # nobody resembles the model's training people
    cells:
      yaw: [-30, 0, 30]
      expression: [neutral, jawOpen=0.6]
      emotion: [neutral, happy, sad]
    images: 200                                  # in each cell, over all people

    \b
    facecrafter dataset plan plan.yaml
    facecrafter dataset make plan.parquet data/set
    """
    from facecrafter.config import check, read
    from facecrafter.datasets import cost
    from facecrafter.datasets.checks import check_inputs
    from facecrafter.datasets.config import PlanConfig
    from facecrafter.datasets.plan import people_path, write_plan
    from facecrafter.io import check_free, command

    cost.check_rate(rate)
    settings = check(config, read(config), PlanConfig)
    place = out or config.with_suffix(".parquet")
    check_free([place, people_path(place)], overwrite)
    check_inputs(settings, config, place)
    plan = write_plan(settings, place)
    chosen = plan.chosen
    for line in cost.lines(settings, plan.images, plan.cells, len(chosen.people), rate):
        typer.echo(line)
    if chosen.near or chosen.resembling:
        near = counted(chosen.near, "person", "people")
        typer.echo(
            f"left out: {near} too near to another one, {chosen.resembling} to a training person "
            f"(nearer than {settings.least:g})"
        )
    typer.echo(f"the plan is {plan.path}; make it with: {command('dataset', 'make', plan.path, 'OUT')}")


@dataset_app.command("make")
def dataset_make(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.PARQUET", help="Of `dataset plan`.", dir_okay=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.", file_okay=False)],
    workers: Annotated[int, typer.Option(min=0, help="Processes, or actors of Ray; 0 for one a core.")] = 0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster: HOST:PORT, auto, or local for one of its own.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again instead of going on.")] = False,
) -> None:
    """Make what a plan asks for, and label it.

    A stopped run goes on where it was. Shards are WebDataset tars, index.parquet has a row an image, and rejected.csv
    lists the images that missed their cell at every attempt. The folder can be trained on as one of `data prepare`.

    \b
    facecrafter dataset make plan.parquet data/set --workers 4
    facecrafter dataset make plan.parquet data/set --ray 10.0.0.1:6379
    """
    from facecrafter.datasets.make import make

    done = make(plan, out, workers=workers, ray=ray, device=device, overwrite=overwrite)
    counts = done.counts
    if done.damaged:
        some = ", ".join(done.damaged[:5]) + (", ..." if len(done.damaged) > 5 else "")
        shards = counted(len(done.damaged), "shard")
        typer.echo(f"{shards} of an earlier run had been damaged, and were made again: {some}")
    typer.echo(f"{counts.images} of {done.planned} images are in {done.folder} ({done.seconds:.0f} s)")
    if counts.images:
        typer.echo(f"an image was made {counts.attempts / counts.images:.2f} times until it was in its cell")
    if counts.rejected:
        typer.echo(f"{counts.rejected} missed their cell at every attempt; {done.folder / 'rejected.csv'} lists why")
    for name in done.empty:
        typer.echo(f"a cell that no image reached: {name}", err=True)


@dataset_app.command("audit")
def dataset_audit(
    out: OUT,
    training: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prepared folder of the training people.", file_okay=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs that are drawn.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Count and measure what a data set holds.

    It writes audit.html and audit.json into the folder: cells, asked against measured, how far people are apart (by the
    likeness that 1 in 10,000 pairs of different people reaches), who resembles a training person, duplicates, and
    apparent age, sex and skin tone.

    \b
    facecrafter dataset audit data/set --training data/lfw
    """
    from facecrafter.datasets.audit import audit
    from facecrafter.datasets.audit_page import as_html, faults
    from facecrafter.datasets.output import AUDIT, AUDIT_PAGE
    from facecrafter.io import check_free, write_whole

    page, numbers = out / AUDIT_PAGE, out / AUDIT
    check_free([page, numbers], overwrite)
    found = audit(out, training, seed)
    write_whole(page, as_html(found, out))
    write_whole(numbers, (found.model_dump_json(indent=2) + "\n").encode())
    for sentence in faults(found):
        typer.echo(sentence)
    typer.echo(f"{found.images} images of {found.people} people; {page} shows what was measured")


@dataset_app.command("card")
def dataset_card(
    out: OUT,
    plan: Annotated[
        Path | None, typer.Option(metavar="PLAN.PARQUET", help="What it was made from, for the recipe.", dir_okay=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the card of an audited data set.

    It is README.md in the folder: recipe, weights, licences, known faults.

    \b
    facecrafter dataset card data/set --plan plan.parquet
    """
    from facecrafter.datasets.audit import open_set
    from facecrafter.datasets.card import card, read_audit
    from facecrafter.datasets.output import AUDIT, CARD
    from facecrafter.datasets.plan import Plan
    from facecrafter.io import check_free, write_whole

    path = out / CARD
    check_free([path], overwrite)
    meta, _ = open_set(out)
    text = card(out, meta, read_audit(out / AUDIT), None if plan is None else Plan(plan))
    write_whole(path, text.encode())
    typer.echo(f"the card is {path}")


@dataset_app.command("bench")
def dataset_bench(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.PARQUET", help="Of `dataset plan`.", dir_okay=False)],
    images: Annotated[int, typer.Option(min=1, help="How many of its images.")] = 64,
    workers: Annotated[list[int], typer.Option(min=1, help="How many; may be repeated.")] = [1, 2],  # noqa: B006
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Compare Ray's actors and Ray Data too; local starts one.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Measure what `dataset make` costs, and how it grows.

    Beside the sampler alone, and with more processes, Ray's actors and Ray Data.

    Parts are in processor time, so that other work on the machine does not count; rates with workers are in wall-clock
    time and want a quiet machine. With --ray the three kinds make the same images in turn, three times.

    \b
    facecrafter dataset bench plan.parquet --ray local
    """
    import json

    from facecrafter.datasets.speed import lines, measure
    from facecrafter.io import check_free, write_whole
    from facecrafter.provenance import environment

    if out is not None:
        check_free([out])
    speed = measure(plan, images, workers, ray, device)
    for line in lines(speed):
        typer.echo(line)
    if out is not None:
        record = {"environment": environment(device), **vars(speed)}
        write_whole(out, (json.dumps(record, indent=2) + "\n").encode())


@dataset_app.command("experiment")
def dataset_experiment(
    photos: Annotated[
        Path, typer.Argument(metavar="PHOTOS", help="Prepared folder of photos, such as LFW's.", file_okay=False)
    ],
    made: Annotated[Path, typer.Argument(metavar="SET", help="Folder of a data set.", file_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder for experiment.json.", file_okay=False)],
    images: Annotated[int | None, typer.Option(min=2, help="Of each kind. [default: as many as both have]")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the training of each.")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws and of the training.")] = 0,
    labels: Annotated[
        Path | None, typer.Option(help="CSV of image,emotion of the photos, to train readers of expressions too.")
    ] = None,
    fer: Annotated[Path | None, typer.Option(help="FER2013, a folder or a tar, to test these on.")] = None,
    votes: Annotated[Path | None, typer.Option(help="CSV of FER+'s votes.", dir_okay=False)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Test whether a data set helps to train recognisers.

    A small one is trained on photos, on as many made images, and on both.

    It is tested on pairs of photos of held-out people; intervals are over people. With labels, readers of expressions
    are trained in the same way and tested on FER+'s validation part. A stopped run goes on.

    \b
    facecrafter dataset experiment data/lfw data/set --out out/helps
    facecrafter dataset experiment data/lfw data/set --out out/helps --labels lfw-emotions.csv --fer fer2013.tar.xz
      --votes fer2013plus-votes.csv
    """
    from facecrafter.data.fer2013 import read_ferplus, read_photos
    from facecrafter.data.shards import load
    from facecrafter.datasets.experiment import compare, lines
    from facecrafter.datasets.expressions import compare_readers, made_faces, reader_lines
    from facecrafter.errors import ConfigError
    from facecrafter.io import check_free, write_whole

    if len({labels is None, fer is None, votes is None}) > 1:
        raise ConfigError("readers of expressions need --labels, --fer and --votes; give all three, or none")
    path, other = out / "experiment.json", out / "expressions.json"
    check_free([path, other], overwrite)
    found = compare(load(photos, "dlib"), load(made, "dlib"), out, images, steps, seed)
    write_whole(path, (found.model_dump_json(indent=2) + "\n").encode())
    for line in lines(found):
        typer.echo(line)
    if labels is not None and fer is not None and votes is not None:
        faces = read_photos(photos, labels)
        test = read_ferplus(fer, votes)
        read = compare_readers(
            faces.only(~faces.held_out), made_faces(made), test.only(test.test & test.clear), out, steps, seed
        )
        write_whole(other, (read.model_dump_json(indent=2) + "\n").encode())
        for line in reader_lines(read):
            typer.echo(line)
