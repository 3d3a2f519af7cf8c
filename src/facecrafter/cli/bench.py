"""`bench`: what things cost, both sides in one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from facecrafter.cli.application import bench_app
from facecrafter.cli.options import Scale
from facecrafter.interruption import stating
from facecrafter.io import check_free, write_whole


@bench_app.command("training")
def bench_training(
    scale: Annotated[Scale, typer.Option(help="mini or arc2face.")] = Scale.arc2face,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of each, a round.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="How often each candidate is timed, in turn.")] = 2,
    bfloat16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Time a training step beside a ControlNet's.

    Both are on the same base with random weights, in turn; the result is ratios.
    """
    from facecrafter.bench.training import ratios, training

    with _bench_file(out) as record:
        record.update(scale=scale.value, batch=batch, steps=steps, rounds=rounds, bfloat16=bfloat16)
        record["candidates"] = ratios(training(scale.value, batch, steps, "bf16" if bfloat16 else "no", rounds))
        for row in record["candidates"]:
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
    """Time an image at every speed beside diffusers' loops.

    All are on the same base with random weights.
    """
    from facecrafter.bench.sampling import lines, sampling
    from facecrafter.pipelines.devices import usable_device

    device = usable_device(device)
    with _bench_file(out) as record:
        record.update(scale=scale.value, steps=steps, rounds=rounds, device=device, bfloat16=bfloat16, batches=[])
        for size in batch:
            costs, where = sampling(scale.value, size, steps, rounds, device, bfloat16, only or ())
            record["batches"].append({"batch": size, "candidates": costs, "profile": where})
            for line in lines(size, costs, where):
                typer.echo(line)


@bench_app.command("prepare")
def bench_prepare(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of photos, as for `data prepare`.", file_okay=False)
    ],
    photos: Annotated[int, typer.Option(min=1, help="How many of them.")] = 400,
    workers: Annotated[list[int], typer.Option(min=1, help="Processes; may be repeated.")] = [1, 2],  # noqa: B006
    recogniser: Annotated[str, typer.Option(help="Whose embeddings to store.")] = "dlib",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Measure the photos a second of `data prepare`.

    Beside it stands what its estimators take by themselves.
    """
    from facecrafter.bench.prepare import lines, preparing

    with _bench_file(out) as record:
        record.update(device="cpu", preparing=preparing(source, photos, workers, recogniser))
        for line in lines(record["preparing"]):
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
    """Measure the watermark: cost, survival, false finds.

    The table goes into a document between its lines <!-- table watermark --> and <!-- end of table -->.

    \b
    facecrafter bench watermark lfw-deepfunneled/ --out docs/results/watermark.json --document docs/watermark.md
    """
    from facecrafter.bench.watermark import table, watermarking
    from facecrafter.document import read_document, with_table

    if document:
        with_table(document, read_document(document), "watermark", "")
    with _bench_file(out) as record:
        record["device"] = "cpu"
        result = watermarking(source, photos, marked, workers=workers, progress=lambda line: typer.echo(line, err=True))
        record.update(vars(result))
        typer.echo(table(result))
        if document:
            write_whole(document, with_table(document, read_document(document), "watermark", table(result)).encode())


@bench_app.command("studio")
def bench_studio(
    previews: Annotated[int, typer.Option(min=1, help="How many are timed.")] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Time previews of the studio, and watch its memory."""
    from facecrafter.web import check_installed

    check_installed("studio")
    from tqdm import tqdm

    from facecrafter.bench.studio import waiting

    with _bench_file(out) as record:
        waits = waiting(previews, lambda numbers: tqdm(numbers, desc="previews"))
        record.update(device="cpu", median=waits.median, p95=waits.p95, **vars(waits))
        typer.echo(f"{previews} previews: median {waits.median:.2f} s, 95 % within {waits.p95:.2f} s")
        before, after = waits.memory_mib
        typer.echo(f"the server's memory: {before:.0f} MiB after the first previews, {after:.0f} MiB after the last")


@bench_app.command("start")
def bench_start(
    repeats: Annotated[int, typer.Option(min=1, help="How often each is started.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON to write.", dir_okay=False)] = None,
) -> None:
    """Time the import, the help, and the first image."""
    from facecrafter.bench.start import lines, starting

    with _bench_file(out) as record:
        record["starts"] = starting(repeats)
        for line in lines(record["starts"]):
            typer.echo(line)


@contextmanager
def _bench_file(out: Path | None) -> Iterator[dict[str, Any]]:
    """Gives a dictionary to fill; it is written, with what it was measured on, where a file is wanted."""
    record: dict[str, Any] = {}
    if out is not None:
        check_free([out], False)
    with stating(lambda: "nothing is kept of what was measured"):  # files in between are in temporary folders
        yield record
    if out is None:
        return
    import json

    from facecrafter.provenance import environment

    whole = {"environment": environment(record.get("device")), **record}
    write_whole(out, (json.dumps(whole, indent=2, default=vars) + "\n").encode())
