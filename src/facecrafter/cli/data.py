"""`data prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import data_app
from facecrafter.cli.options import Choose, EmoNet, Only
from facecrafter.cli.printing import refuse_given
from facecrafter.errors import counted


@data_app.command("prepare")
def data_prepare(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Folder of people (Name/photo.jpg or .mp4) or of photos, or its tar."),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder for the shards.")] = None,
    size: Annotated[int, typer.Option(help="Side of the stored images in pixels.")] = 128,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    recogniser: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Whose embeddings to store: dlib, sface, arcface; may be repeated."),
    ] = ["dlib"],  # noqa: B006
    arcface: Annotated[Path | None, typer.Option(help="arcface.onnx, for that recogniser.")] = None,
    choose: Annotated[Choose, typer.Option(help="Which of several faces in a photo.")] = Choose.centre,
    interval: Annotated[float, typer.Option(help="Seconds between the frames that are taken of a video.")] = 1.0,
    emonet: EmoNet = None,
    only: Annotated[
        Only | None, typer.Option(help="Renew this in a prepared folder, which SOURCE then is, and nothing else.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again instead of going on.")] = False,
) -> None:
    """Find, align and describe every face of a folder.

    A stopped run goes on where it was.

    \b
    facecrafter data prepare lfw.tar.gz data/lfw
    facecrafter data prepare data/lfw --only emotion                        # after the estimator has changed
    facecrafter data prepare data/lfw --only emotion --emonet emonet_8.pth
    """
    if (out is None) != (only is not None):
        raise typer.BadParameter("give SOURCE and OUT, or with --only the prepared folder alone")
    if arcface and "arcface" not in recogniser:
        raise typer.BadParameter("--arcface has no effect without --recogniser arcface")
    refuse_given(ctx, ("size", "workers", "recogniser", "choose", "interval", "overwrite") if only else (), "--only")
    from facecrafter.data.prepare import prepare, renew_emotions

    if out is None:
        renewed = renew_emotions(source, emonet)
        typer.echo(f"the emotions of {renewed.prepared} images in {renewed.folder} are new ({renewed.seconds:.0f} s)")
        return
    done = prepare(
        source,
        out,
        size=size,
        workers=workers,
        recognisers=recogniser,
        arcface=arcface,
        choose=choose.value,
        interval=interval,
        emonet=emonet,
        overwrite=overwrite,
    )
    typer.echo(f"{done.prepared} of {done.photos} images are in {done.folder} ({done.seconds:.0f} s)")
    if done.rejected:
        typer.echo(f"{done.rejected} were left out; {done.folder / 'rejected.csv'} says why")


@data_app.command("synthesise")
def data_synthesise(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    people: Annotated[int, typer.Option(help="How many people to try; about a quarter are left out.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed makes other people.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the stored images in pixels, at most 512.")] = 256,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    directions: Annotated[Path | None, typer.Option(help="File of directions, in place of the shipped one.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again instead of going on.")] = False,
) -> None:
    """Make people who do not exist, to train on.

    Each has up to twelve images. A stopped run goes on where it was.

    \b
    facecrafter weights fetch face_generator_synthesis
    facecrafter data synthesise data/people --people 5000
    facecrafter data synthesise data/people --people 9000                   # 4000 more
    """
    from facecrafter.data.synthesis.directions import ASSET
    from facecrafter.data.synthesis.run import synthesise

    done = synthesise(
        out, file=directions or ASSET, people=people, seed=seed, size=size, workers=workers, overwrite=overwrite
    )
    tried = counted(done.people, "person", "people")
    typer.echo(f"{done.images} images are in {done.folder} ({tried} tried, {done.seconds:.0f} s)")
    typer.echo(f"{done.rejected} people or edits were left out; {done.folder / 'rejected.csv'} says why")
    typer.echo(f"{done.folder / 'report.html'} shows what came of it")


@data_app.command("warp")
def data_warp(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A prepared folder of photos.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    copies: Annotated[int, typer.Option(help="Images of each photo.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed draws other expressions and poses.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again instead of going on.")] = False,
) -> None:
    """Move the faces of photos, to train on what photos rarely show.

    Each image has one to three blendshapes set at random, and some heads are turned further. Held-out people are left
    out. A stopped run goes on where it was.

    \b
    facecrafter data warp data/lfw data/lfw-warped
    """
    from facecrafter.data.warping import warp

    done = warp(source, out, seed=seed, copies=copies, workers=workers, overwrite=overwrite)
    typer.echo(f"{done.images} images are in {done.folder} ({done.seconds:.0f} s)")
    if done.rejected:
        typer.echo(f"{done.rejected} were left out; {done.folder / 'rejected.csv'} says why")


@data_app.command("directions")
def data_directions(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="File of directions; the shipped one if none is named.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit directions and write FILE first, about 40 minutes.")] = False,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Learn what they lack for emotions again and write FILE, 11 minutes on one core; --fit does it too.",
        ),
    ] = False,
    ages: Annotated[
        Path | None, typer.Option(help="With --fit: UTKFace's folder, to fit age and sex; else those shipped are kept.")
    ] = None,
    people: Annotated[int, typer.Option(help="On how many people to measure the reach.")] = 12,
) -> None:
    """Measure how far faces are moved before the person is lost.

    Prints CSV, a row for each direction of `data synthesise`.

    \b
    facecrafter data directions > reach.csv
    facecrafter data directions my.safetensors --fit --ages UTKFace
    """
    if (fit or learn) and file is None:
        raise typer.BadParameter(f"{'--fit' if fit else '--learn'} needs a FILE to write")
    if ages is not None and not fit:
        raise typer.BadParameter("--ages has no effect without --fit")
    from tqdm import tqdm

    from facecrafter.data.synthesis import directions as fitted
    from facecrafter.data.synthesis import fitting
    from facecrafter.data.synthesis.learning import with_learned
    from facecrafter.data.synthesis.people import Recipe
    from facecrafter.data.synthesis.run import maker
    from facecrafter.io import check_free

    if (fit or learn) and file is not None:
        check_free([file])
        made = maker(Recipe())
        linear = made.directions
        if fit:
            age, sex = fitting.aged(ages, made.reader, 2100) if ages else (linear.age, linear.sex)
            linear = fitting.make(made, age, sex, progress=lambda items, total: tqdm(items, total=total))
        learned = with_learned(made, linear, progress=lambda items, total: tqdm(items, total=total, desc="steps"))
        fitted.save(learned, file)
        made.close()
    made = maker(Recipe(), file or fitted.ASSET)
    typer.echo("edit,strength,change,sface,usable")
    for one in fitting.reach(made, people):
        typer.echo(f"{one.name},{one.strength:g},{one.change:.4f},{one.sface:.3f},{one.usable:.3f}")
    made.close()
