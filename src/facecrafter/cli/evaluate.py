"""`evaluate`: models and methods on held-out people, and the tables of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facecrafter.cli.application import evaluate_app
from facecrafter.cli.options import (
    EmoNet,
    EmotionScale,
    IdentityScale,
    LandmarkScale,
    Overwrite,
    Scheduler,
    SpeedOption,
    Steps,
    TableConfig,
    Weights,
)
from facecrafter.errors import ConfigError, counted
from facecrafter.interruption import stating
from facecrafter.io import command, written


@evaluate_app.command("model")
def evaluate_model(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `data prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json and grids.", file_okay=False)],
    model: Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")] = "mini",
    weights: Weights = None,
    identities: Annotated[int, typer.Option(min=2, help="People held out of training.")] = 100,
    targets: Annotated[int, typer.Option(min=1, help="Target photos for each.")] = 5,
    words: Annotated[
        int, typer.Option(min=0, help="People asked for each emotion in words, at most; 0 leaves it out.")
    ] = 60,
    steps: Steps = None,
    scheduler: Scheduler = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses people and targets.")] = 0,
    identity_scale: IdentityScale = None,
    landmark_scale: LandmarkScale = None,
    emotion_scale: EmotionScale = None,
    speed: SpeedOption = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Faster, and a little less exact.")] = False,
    controls: Annotated[Path | None, typer.Option(help="Controls file in place of the model's own.")] = None,
    emonet: EmoNet = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Measure a model on held-out people.

    Identity, pose, expression, emotion, emotion asked in words alone, and how near images are to photos.
    """
    from facecrafter.evaluation import appearance as by_appearance
    from facecrafter.evaluation import words as by_words
    from facecrafter.evaluation.heldout import Protocol
    from facecrafter.evaluation.heldout import evaluate as measure
    from facecrafter.models.pretrained import folder_of
    from facecrafter.pipelines.settings import Settings

    folder = folder_of(model, weights)
    sampling = Settings(
        identity_scale, landmark_scale, emotion_scale, steps, scheduler, 16, speed.value if speed else None
    )
    protocol = Protocol(identities, targets, sampling, seed, bfloat16, words=words)
    result = measure(folder, data, out, protocol, controls=controls, device=device, overwrite=overwrite, emonet=emonet)
    for setting, scores in result.settings.items():
        typer.echo(setting)
        for name, value in scores.model_dump(exclude={"emotion_by_class"}).items():
            typer.echo(f"  {name}: {'none' if value is None else value if name == 'images' else f'{value:.3f}'}")
        for name, one in scores.emotion_by_class.items():
            typer.echo(f"  emotion_agreement, {name} targets: {one.agreement.value:.3f} of {one.faces}")
    if result.words is not None:
        typer.echo("\n" + by_words.as_markdown(result.words, result.independent) + "\n")
    if result.independent is not None:
        for setting, images in result.independent.targets.items():
            share = "none" if images.agreement.value is None else f"{images.agreement.value:.3f}"
            network = result.independent.network
            typer.echo(f"{setting}: {network} reads the class of the target's photo in {share} of {images.faces}")
    if result.appearance is not None:
        typer.echo("\n" + by_appearance.as_markdown(result.appearance) + "\n")
    typer.echo(f"{out / 'result.json'} has the estimators; {out / 'grid.png'} shows the images")


@evaluate_app.command("emotion")
def evaluate_emotion(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of labelled photos that `data prepare` wrote.")],
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
    overwrite: Overwrite = False,
) -> None:
    """Measure the emotion estimator on images of known labels.

    They are FER2013's validation images, and photos of held-out people.

    For every set and reader: accuracy, calibration, recall of each class, and the confusion matrix (rows are what
    people say). Then how far the answer moves, as the mean total variation distance, when the same face is given in
    another image.
    """
    from facecrafter.evaluation.emotions import evaluate as measure
    from facecrafter.evaluation.emotions import report

    result = measure(data, fer2013, votes, labels, out, estimator, variations=variations, overwrite=overwrite)
    for line in report(result):
        typer.echo(line)
    typer.echo(f"{result.faces_a_second:.0f} faces a second; {out} has the confusion matrices and the mistakes")


@evaluate_app.command("people")
def evaluate_people(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `data synthesise` wrote.")],
    people: Annotated[int, typer.Option(min=1, help="People, at most.")] = 400,
) -> None:
    """Check whether people who do not exist show what was asked.

    A network that guided none of them reads them.

    For each emotion the share of images that are read as asked: by the project's estimator, which the directions of
    `data synthesise` were fitted to, and by face-api's network, which had no part in them.

    \b
    facecrafter weights fetch face_expression
    facecrafter evaluate people data/people
    """
    from facecrafter.evaluation import people as asked

    found = asked.read(data, people)
    typer.echo(asked.as_markdown(found))
    count = len({one.person for one in found})
    about = "; in brackets the 95 % bootstrap interval over people" if count > 1 else ""
    typer.echo(f"\n{counted(count, 'person', 'people')}{about}")


@evaluate_app.command("autoencoder")
def evaluate_autoencoder(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Folder that `data prepare` wrote, as large as the autoencoders' images."),
    ],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="mini, or folders with an autoencoder.safetensors.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for result.json and reconstructions.png.", file_okay=False)],
    images: Annotated[int, typer.Option(min=8, help="Photos of held-out people, at most.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Divides the people in halves.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Compare how well autoencoders give held-out photos back.

    The autoencoders are of the mini scale.

    PSNR, LPIPS, and how far reconstructions are from other people's photos as a ratio to how far photos are (Frechet;
    1 cannot be distinguished from photos). Nothing that a denoiser makes can be better.

    \b
    facecrafter evaluate autoencoder data/lfw mini runs/mini/autoencoder-256/model --out out/autoencoders
    """
    from facecrafter.data import shards
    from facecrafter.evaluation import autoencoders
    from facecrafter.models.pretrained import folder_of

    result = autoencoders.evaluate(
        {name: folder_of(name) for name in models}, shards.load(data), out, images, seed, overwrite
    )
    typer.echo(autoencoders.as_markdown(result))
    typer.echo(f"\n{result.images} photos of {result.people} people; {out / autoencoders.SHEET} shows some")


@evaluate_app.command("numbers")
def evaluate_numbers(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `data prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json.", file_okay=False)],
    model: Annotated[str, typer.Option(help="mini, arc2face, or a model folder.")] = "mini",
    weights: Weights = None,
    people: Annotated[int, typer.Option(min=2, help="People held out of training, at most.")] = 60,
    steps: Steps = None,
    scheduler: Scheduler = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses people, and is the images'.")] = 0,
    identity_scale: IdentityScale = None,
    landmark_scale: LandmarkScale = None,
    emotion_scale: EmotionScale = None,
    speed: SpeedOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Measure how images follow numbers, and emotions in words.

    The numbers are a pose and an expression; about 120 images a person are made.

    Images, and what was read in them, are kept: a stopped run goes on.
    """
    from facecrafter.data import shards
    from facecrafter.evaluation import numbers
    from facecrafter.faces import gain
    from facecrafter.models.pretrained import folder_of, load_folder
    from facecrafter.pipelines.devices import usable_device
    from facecrafter.pipelines.generator import FaceCrafterGenerator
    from facecrafter.pipelines.settings import Settings

    sampling = Settings(
        identity_scale, landmark_scale, emotion_scale, steps, scheduler, speed=speed.value if speed else None
    )
    folder, place = folder_of(model, weights), usable_device(device)
    loaded, turns = load_folder(folder).to(place), gain.load(folder)
    prepared = shards.load(data, recogniser=loaded.scale.recogniser)
    kind = place.partition(":")[0]
    with stating(lambda: _cached(out / numbers.CACHE)):
        made_by = FaceCrafterGenerator(loaded, model, settings=sampling)
        result = numbers.evaluate(
            made_by, prepared, out, people, seed, overwrite, turns, kind, made_by.settings.described()
        )
    typer.echo(f"{numbers.as_markdown(result)}\n\n{out / 'result.json'} has the estimators")


@evaluate_app.command("control")
def evaluate_control(config: TableConfig, overwrite: Overwrite = False) -> None:
    """Make table 1: control, identity and leakage by method.

    Each of the people takes the pose and expression of each target, by every method in the config.

    Images, and what was measured on them, are kept: a stopped run goes on, and another metric generates nothing
    again.
    """
    _make_table(config, "control", overwrite)


@evaluate_app.command("diversity")
def evaluate_diversity(config: TableConfig, overwrite: Overwrite = False) -> None:
    """Make table 2: how much images of one person differ.

    Several images a person are made by identity alone; it measures how close to photos they are too.
    """
    _make_table(config, "diversity", overwrite)


@evaluate_app.command("compare")
def evaluate_compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders that `evaluate control` or `evaluate diversity` wrote.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the comparison.", file_okay=False)],
    overwrite: Overwrite = False,
) -> None:
    """Compare the methods of several runs.

    Differences are over the pairs that the runs share.
    """
    from facecrafter.evaluation.report import compare

    for path in compare(runs, out, overwrite):
        typer.echo(path)


@evaluate_app.command("publish")
def evaluate_publish(
    document: Annotated[Path, typer.Argument(metavar="DOCUMENT", help="Markdown file with a place for each table.")],
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Of `evaluate control`, `diversity`, `model` or `numbers`.")
    ],
    paper: Annotated[bool, typer.Option(help="Show the paper's own table below the first of each kind.")] = True,
) -> None:
    """Put measured tables into a document.

    Each goes between its lines <!-- table NAME --> and <!-- end of table -->, NAME being the last part of the run's
    folder.

    \b
    facecrafter evaluate publish docs/tables.md out/evaluation/control out/evaluation/diversity
    facecrafter evaluate publish docs/results.md out/evaluation/model       # emotions asked in words
    facecrafter evaluate publish docs/controls.md out/numbers               # how numbers are followed
    """
    from facecrafter.evaluation.report import publish

    publish(runs, document, paper)
    typer.echo(f"{document} has {counted(len(runs), 'table')}")


def _make_table(config: Path, table: str, overwrite: bool) -> None:
    from facecrafter.evaluation import config as tables
    from facecrafter.evaluation import report

    settings = tables.load(config)
    if settings.table != table:
        raise ConfigError(f"{config} is of the other table; run: {command('evaluate', settings.table, config)}")
    with stating(lambda: _cached(settings.cache_folder)):
        tables.run(settings, overwrite=overwrite)
    for path in report.write(settings.out, overwrite):
        typer.echo(path)


def _cached(cache: Path) -> str:
    """What of a table that was stopped is there already."""
    made = len(written(cache))
    return f"{made} new files are kept in {cache}; run the same command again, it goes on from there"
