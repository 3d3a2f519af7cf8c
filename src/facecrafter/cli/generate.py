"""`generate`, `inspect` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import app
from facecrafter.cli.options import (
    DEFAULTS,
    Choose,
    EmoNet,
    EmotionScale,
    Expression,
    IdentityScale,
    LandmarkScale,
    Pitch,
    Preset,
    Presets,
    Roll,
    Scheduler,
    SpeedOption,
    Steps,
    Through,
    Weights,
    Yaw,
)
from facecrafter.cli.printing import bar, complain, picked, refuse_given, show
from facecrafter.errors import FaceCrafterError, printable
from facecrafter.io import check_free, name_as_text


@app.command()
def generate(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the images.", file_okay=False)],
    identity: Annotated[
        list[Path] | None,
        typer.Option(metavar="PHOTO", help="Photo of the person, or a folder of photos; several are averaged."),
    ] = None,
    target: Annotated[Path | None, typer.Option(help="Photo whose pose, expression and emotion to take.")] = None,
    landmarks_from: Annotated[Path | None, typer.Option(help="Photo whose pose and expression to take.")] = None,
    emotion_from: Annotated[Path | None, typer.Option(help="Photo whose emotion to take.")] = None,
    emotion: Annotated[str | None, typer.Option(help="In words: happy, angry, or happy:0.8,surprise:0.2.")] = None,
    valence: Annotated[float | None, typer.Option(help="Unpleasant -1 to pleasant 1; with --arousal.")] = None,
    arousal: Annotated[float | None, typer.Option(help="Calm -1 to excited 1; with --valence.")] = None,
    yaw: Yaw = None,
    pitch: Pitch = None,
    roll: Roll = None,
    expression: Expression = None,
    preset: Preset = None,
    presets: Presets = None,
    relative: Annotated[bool, typer.Option("--relative", help="Add the numbers to the photo's own.")] = False,
    keep_expression: Annotated[
        bool, typer.Option("--keep-expression", help="Start from the photo's own expression.")
    ] = False,
    emotion_through: Annotated[
        Through | None, typer.Option(help="What an emotion in words moves. [default: both]")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse numbers that would not be followed.")] = False,
    free: Annotated[
        bool,
        typer.Option("--free", help="Without a pose, leave it to the model; else each seed draws a plausible one."),
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Measure the images: asked, landmarks, got, identity; a table and a chart."),
    ] = False,
    best_of: Annotated[
        int,
        typer.Option(
            min=1, max=16, help="Make so many of each image; keep the closest that is no less like the person."
        ),
    ] = 1,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FIRST:LAST:COUNT", help="A strip, as yaw=-30:30:7; two of them are a grid."),
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="With --sweep, a loop too.")] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(help="CSV of identity,target[,emotion,valence,arousal,seed,yaw,pitch,roll,expression,preset]."),
    ] = None,
    identity_scale: IdentityScale = None,
    landmark_scale: LandmarkScale = None,
    emotion_scale: EmotionScale = None,
    steps: Steps = None,
    scheduler: Scheduler = None,
    count: Annotated[int | None, typer.Option("-n", min=1, help="How many images. [default: 4]")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first; the others follow it. With --pairs: draws other seeds.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images made at once.")] = 8,
    speed: SpeedOption = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Faster, and a little less exact.")] = False,
    model: Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")] = "mini",
    weights: Weights = None,
    controls: Annotated[Path | None, typer.Option(help="Controls file in place of the model's own.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    choose: Annotated[Choose, typer.Option(help="Which of several faces in a photo.")] = Choose.largest,
    face: Annotated[
        int | None, typer.Option(min=1, help="Which face of the identity's photo; 1 is the largest.")
    ] = None,
    face_at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The same by a point in the face, in pixels of the photo.")
    ] = None,
    target_face: Annotated[
        int | None, typer.Option(min=1, help="Which face of the target, or of the photo given in its place.")
    ] = None,
    target_face_at: Annotated[str | None, typer.Option(metavar="X,Y", help="The same by a point in the face.")] = None,
    emonet: EmoNet = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace images that are there.")] = False,
) -> None:
    """Make images of a person, or one for each row of a table.

    The same command again keeps what is there and makes what is missing. An image whose photos, settings or model have
    changed since is not there: with --identity its name is taken, which is refused without --overwrite; with --pairs it
    is made under another name.
    """
    shapes, poses = (",".join(words) if words else None for words in (expression, preset))
    conditions = (target, landmarks_from, emotion_from, emotion, valence, arousal, yaw, pitch, roll, shapes, poses)
    if bool(identity) == bool(pairs):
        raise typer.BadParameter("give either --identity or --pairs")
    if pairs and any(value is not None for value in conditions):
        raise typer.BadParameter("with --pairs the conditions come from the table")
    if pairs and count is not None:
        raise typer.BadParameter("with --pairs there is one image a row; leave -n out")
    if sweep and (pairs or count is not None):
        raise typer.BadParameter("--sweep says how many images there are; leave --pairs and -n out")
    if presets and not (preset or pairs):
        raise typer.BadParameter("--presets has no effect without --preset")
    if free and (pairs or sweep or relative or keep_expression or any(value is not None for value in conditions)):
        raise typer.BadParameter("--free has no effect but with --identity alone")
    if free and best_of > 1:
        raise typer.BadParameter("--best-of has no effect with --free: there is nothing to be close to")
    if gif and not sweep:
        raise typer.BadParameter("--gif has no effect without --sweep")
    if emonet and not (pairs or target or emotion_from):
        raise typer.BadParameter("--emonet has no effect without a photo whose emotion to take")
    person_face, other_face = picked(face, face_at, "--face"), picked(target_face, target_face_at, "--target-face")
    if pairs and (person_face or other_face):
        raise typer.BadParameter("with --pairs faces are picked by --choose; crop a photo to pick another one")
    if person_face and (other_face or not (target or landmarks_from or emotion_from)):
        refuse_given(ctx, ["choose"], "the face that is picked")
    count = 4 if count is None else count
    through = emotion_through and emotion_through.value

    from facecrafter.faces.asked import Asked, acting_through, angles_of, asked_of, expression_of, read_presets
    from facecrafter.faces.emotion import emotion_of
    from facecrafter.faces.photo_file import photos_of, taken
    from facecrafter.pipelines.batch import Numbers, generate_pairs, read_pairs
    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.pipelines.images import SHEET
    from facecrafter.pipelines.missing import Summary, generate_many
    from facecrafter.pipelines.report_files import check_reports, lines, measure_all, write_report
    from facecrafter.pipelines.settings import Settings
    from facecrafter.pipelines.sweep import STRIP, cells, check_unswept, generate_sweep, sweep_of
    from facecrafter.request import Request, check_seeds

    settings = Settings(
        identity_scale, landmark_scale, emotion_scale, steps, scheduler, batch_size, speed.value if speed else None
    )

    def report_on(crafter: FaceCrafter, done: Summary) -> None:
        if report:
            measured = list(measure_all(crafter, done.jobs))
            show("".join(f"{line}\n" for line in lines(measured)))
            typer.echo(f"see {write_report(out, measured)[1]}")

    if report:
        check_reports(out, overwrite)
    if relative and keep_expression:
        raise typer.BadParameter("numbers are added to the photo's expression or replace parts of it; give one of both")
    if presets:
        read_presets(presets)
    if pairs:
        rows = len(read_pairs(pairs))
        crafter = FaceCrafter.from_pretrained(model, device, controls, choose.value, weights, bfloat16, emonet)
        with bar(rows, "pairs") as progress:
            numbers = Numbers(relative, keep_expression, presets, through, strict, best_of)
            done = generate_pairs(crafter, pairs, out, seed, settings, overwrite, progress, numbers)
        typer.echo(f"{done.made} made, {done.there} already there, {done.failed} failed: {out / 'results.csv'}")
        report_on(crafter, done)
        if done.failed:
            raise FaceCrafterError(f"{done.failed} of {rows} rows failed; {out / 'results.csv'} says why")
        return
    # What needs no model is checked before one is loaded.
    in_words = emotion_of(emotion, valence, arousal)
    if through:
        acting_through(through, in_words, by_photo=False)
    angles = angles_of(yaw, pitch, roll)
    asked = asked_of(angles, shapes, poses, relative, keep_expression, presets, bool(sweep))
    check_seeds(seed, count)
    sweeps = [sweep_of(one, relative) for one in sweep or ()]
    check_unswept(sweeps, [*angles, *(expression_of(shapes, -1) if shapes else ())])
    swept = cells(asked, sweeps) if sweeps else []
    people = photos_of(identity or [])
    others = (target, landmarks_from, emotion_from)
    whole, landmarks, feeling = (None if path is None else taken(path) for path in others)
    crafter = FaceCrafter.from_pretrained(model, device, controls, choose.value, weights, bfloat16, emonet)

    def request(numbers: Asked | None) -> Request:
        return crafter.request(
            people,
            whole,
            landmarks,
            feeling,
            emotion,
            valence,
            arousal,
            seed,
            settings,
            person_face,
            other_face,
            numbers,
            through,
            strict,
            free,
        )

    if sweeps:
        requests = [(name, request(numbers)) for name, numbers in swept]
        with bar(len(requests), "images") as progress:
            done = generate_sweep(crafter, requests, len(sweeps[-1].values), out, gif, overwrite, progress, best_of)
        typer.echo(f"{done.made} made, {done.there} already there: {out / STRIP}")
        report_on(crafter, done)
        return
    with bar(count, "images") as progress:
        done = generate_many(crafter, request(asked), count, out, overwrite, progress, best_of)
    typer.echo(f"{done.made} made, {done.there} already there: {out / SHEET}")
    report_on(crafter, done)


@app.command()
def inspect(files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Pictures.")]) -> None:
    """Show how images were made, by the text and watermark in them."""
    from facecrafter.pipelines.images import inspect as inspect_file

    failed = False
    for path in files:
        try:
            found = inspect_file(path)
        except FaceCrafterError as error:
            complain(error)
            failed = True
            continue
        typer.echo(f"{printable(name_as_text(path))}\n  watermark: {found.watermark}")
        for name, value in {**found.text, **found.made}.items():
            typer.echo(f"  {printable(name)}: {printable(value)}")
    if failed:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The image to write.", dir_okay=False)] = Path("out/demo.png"),
    model: Annotated[str, typer.Option(help="mini, or a model folder.")] = "mini",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Denoising steps. [default: the model's own; mini {DEFAULTS['steps'][0]}]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the image if it is there.")] = False,
) -> None:
    """Show a photo beside faces generated from it, in one image.

    Each is labelled with what was asked.
    """
    from facecrafter.pipelines.demo import IMAGES, make_demo

    check_free([out], overwrite)
    with bar(IMAGES, "demo") as progress:
        make_demo(out, model, steps, overwrite, progress)
    typer.echo(f"see {out}")
