"""`perceive`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import app
from facecrafter.cli.options import EmoNet, Format, Which
from facecrafter.cli.printing import MANY, bar, say_skipped, show
from facecrafter.errors import FaceCrafterError
from facecrafter.interruption import deferred, stating
from facecrafter.io import written


@app.command()
def perceive(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Images, and folders of images.")],
    choose: Annotated[
        Which | None, typer.Option(help="Which faces of a photo: largest, centre, or all, which is the default.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print the results.")] = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Folder for one PNG a face that shows all that was read.", file_okay=False)
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The images already are tight face crops; 48 px are enough.")
    ] = False,
    emonet: EmoNet = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace PNGs that are there.")] = False,
) -> None:
    """Read the pose, emotion, valence and arousal of faces in photos.

    Valence goes from unpleasant -1 to pleasant 1, arousal from calm -1 to excited 1. Without --emonet both are derived
    from the probabilities of eight emotions, which come from the pixels and the movements of the face. Angles are in
    degrees: yaw to the image's right, pitch up, roll counter-clockwise. The box is in pixels of the photo; the
    largest face is number 1.

    \b
    facecrafter perceive me.jpg
    facecrafter perceive me.jpg --out out/me
    facecrafter perceive holiday/ --format csv > holiday.csv
    facecrafter perceive crops/ --aligned --emonet emonet_8.pth --format csv

    With --aligned no face is looked for: angles and box stay empty, and the emotion is read off the pixels alone.

    Rows of csv and json are printed as they are read, a table at the end, also where the command is stopped before it.

    What cannot be read (no image, a damaged one, no face in it) is listed on stderr and left out. The exit code is 1
    only when nothing at all could be read.
    """
    if aligned and choose:
        raise typer.BadParameter("with --aligned an image is one face; leave out --choose")
    if overwrite and not out:
        raise typer.BadParameter("--overwrite has no effect without --out")

    from facecrafter.estimators import emotion_estimator
    from facecrafter.pipelines import perceive as faces

    estimator = emotion_estimator.estimator(emonet)
    sources, lacking = faces.find_sources(photos)
    printer = faces.Printer(form.value, show)

    def stopped() -> str:
        if not printer.ended:
            say_skipped(printer.end(lacking, len(sources) - printer.images).skipped)
        pngs = f", and {len(written(out))} PNG are in {out}" if out else ""
        return f"{printer.images} of {len(sources)} images were read; {printer.rows} rows are printed{pngs}"

    with stating(stopped):
        with bar(len(sources), "images") if len(sources) >= MANY else nullcontext() as progress:
            faces.perceive(
                sources,
                estimator,
                which=choose.value if choose else "all",
                aligned=aligned,
                out=out,
                overwrite=overwrite,
                progress=progress,
                tell=printer.update,
            )
        with deferred():
            survey = printer.end(lacking)
            say_skipped(survey.skipped)
    if not survey.rows:
        raise FaceCrafterError(f"no face could be read; {len(survey.skipped)} skipped, see above")
    if out:
        typer.echo(f"written to {out}: {len(survey.rows)} PNG", err=True)
