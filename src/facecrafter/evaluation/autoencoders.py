"""How well autoencoders give photos of held-out people back: what a model can reach at best, whatever its denoiser."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data.shards import Prepared
from facecrafter.data.sources import shrunk
from facecrafter.errors import DataError
from facecrafter.evaluation import bootstrap, frechet
from facecrafter.evaluation.judges import Judges, JudgesConfig
from facecrafter.evaluation.pairs import held_out_photos
from facecrafter.evaluation.record import Interval, Number, Record
from facecrafter.evaluation.result import RESULT, Result
from facecrafter.evaluation.words import cell
from facecrafter.io import check_free, write_whole

Images = NDArray[np.uint8]
Array = NDArray[np.float64]

SHEET = "reconstructions.png"
SHOWN = 8  # people on it
AT_ONCE = 16


class Reconstruction(Record):
    """What one autoencoder makes of the photos.

    Attributes:
        size: side of its images in pixels.
        latents: numbers an image; the image has ``3 * size**2``.
        factor: pixels a side of one place of the latents.
        parameters: in millions.
        encoding, decoding: operations an image, in billions.
        psnr: peak signal-to-noise ratio in decibels, the mean over images.
        lpips: distance to the photos (AlexNet), the mean over images.
        frechet: distance of one half of the people's reconstructions to the other half's photos.
        frechet_ratio: that by the same distance of the photos themselves; 1 cannot be distinguished from photos. The
            mean over ten ways to divide the people, with the lowest and the highest.
    """

    size: int
    latents: int
    factor: int
    parameters: float
    encoding: float
    decoding: float
    psnr: Interval
    lpips: Interval
    frechet: Number
    frechet_ratio: Interval


class AutoencodersResult(Result):
    """Autoencoders side by side on the same photos."""

    images: int
    people: int
    judges: dict[str, str]
    autoencoders: dict[str, Reconstruction]


def evaluate(
    folders: dict[str, Path], prepared: Prepared, out: Path, most: int = 600, seed: int = 0, overwrite: bool = False
) -> AutoencodersResult:
    """Measure autoencoders and write ``result.json`` and a sheet of reconstructions.

    Args:
        folders: model folders by name; of each the autoencoder is read.
        prepared: photos, some of held-out people, as large as the largest autoencoder's images.
        out: where the result goes.
        most: photos, at most.
        seed: of how the people are divided.
        overwrite: replace the result that is there.

    Raises:
        DataError: fewer than four people are held out, or the photos are too small.
        CheckpointError: an autoencoder is missing or damaged.
        OutputError: ``out`` holds a result already, or cannot be written.
    """
    from facecrafter.provenance import environment

    check_free([out / RESULT, out / SHEET], overwrite)
    made_with = environment("cpu")
    images, persons = held_out_photos(prepared, most)
    splits = list(frechet.halves(persons, seed))
    judges = Judges(JudgesConfig())
    found, sheet = {}, []
    for name, folder in folders.items():
        autoencoder = _load(folder)
        photos = _at_size(images, _size(autoencoder), name)
        made = _reconstructed(autoencoder, photos)
        found[name] = _measured(autoencoder, photos, made, persons, judges, splits)
        sheet.extend([photos[:SHOWN], made[:SHOWN]])
    result = AutoencodersResult(
        environment=made_with,
        config={"most": most, "seed": seed, "models": list(folders)},
        images=len(images),
        people=len(set(persons)),
        judges={role: judges.names[role] for role in ("lpips", "frechet")},
        autoencoders=found,
    )
    write_whole(out / SHEET, _sheet(sheet))
    result.write(out)
    return result


def as_markdown(result: AutoencodersResult) -> str:
    """The result as a table."""
    rows = [
        "| autoencoder | px | latents | factor | parameters | decoding | PSNR | LPIPS | Frechet ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in result.autoencoders.items():
        rows.append(
            f"| {name} | {one.size} | {one.latents} | {one.factor} | {one.parameters:.1f} M | {one.decoding:.2f} G "
            f"| {cell(one.psnr, '.2f')} | {cell(one.lpips, '.3f')} | {cell(one.frechet_ratio, '.2f')} |"
        )
    return "\n".join(rows)


def _load(folder: Path) -> Any:
    from facecrafter.models import checkpoint

    return checkpoint.load_part(folder / "autoencoder.safetensors", "autoencoder", "mini")


def _size(autoencoder: Any) -> int:
    from facecrafter.models import scales

    return scales.fitting(scales.SCALES["mini"], autoencoder).size


def _at_size(images: Images, size: int, name: str) -> Images:
    stored = images.shape[1]
    if stored < size:
        way_out = f"prepare them with --size {size}"
        raise DataError(f"{name} makes images of {size} px, and the photos are of {stored}; {way_out}")
    return shrunk(images, size)


def _reconstructed(autoencoder: Any, photos: Images) -> Images:
    import torch
    from tqdm import tqdm

    made = np.empty_like(photos)
    for start in tqdm(range(0, len(photos), AT_ONCE), desc="reconstructing"):
        images = torch.from_numpy(photos[start : start + AT_ONCE]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            decoded = autoencoder.decode(autoencoder.encode(images).latent_dist.mode()).sample
        values = (decoded.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        made[start : start + AT_ONCE] = values.permute(0, 2, 3, 1).numpy()
    return made


def _measured(
    autoencoder: Any, photos: Images, made: Images, persons: Sequence[str], judges: Judges, splits: frechet.Halves
) -> Reconstruction:
    apart = np.array([np.square(one.astype(float) - other).mean() for one, other in zip(photos, made, strict=True)])
    psnr = 20 * np.log10(255) - 10 * np.log10(np.maximum(apart, 1e-6))
    own, theirs = judges.features(photos), judges.features(made)
    distances = frechet.distances(theirs, persons, own, persons, splits)
    size = photos.shape[1]
    channels, side, _ = autoencoder.latent_shape(size)
    encoding, decoding = _operations(autoencoder, size)
    return Reconstruction(
        size=size,
        latents=channels * side**2,
        factor=autoencoder.factor,
        parameters=sum(one.numel() for one in autoencoder.parameters()) / 1e6,
        encoding=encoding,
        decoding=decoding,
        psnr=bootstrap.mean(psnr, persons),
        lpips=bootstrap.mean(judges.lpips(list(photos), list(made)), persons),
        frechet=float(distances[:, 1].mean()),
        frechet_ratio=frechet.ratio(distances),
    )


def _operations(autoencoder: Any, size: int) -> tuple[float, float]:
    """Billions of multiplications and additions of encoding and decoding an image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as encoding:
        latents = autoencoder.encode(torch.zeros(1, 3, size, size)).latent_dist.mode()
    with torch.inference_mode(), FlopCounterMode(display=False) as decoding:
        autoencoder.decode(latents)
    return encoding.get_total_flops() / 1e9, decoding.get_total_flops() / 1e9


def _sheet(rows: Sequence[Images]) -> bytes:
    """Photos above what each autoencoder makes of them, as PNG; all at the largest size."""
    side, content = max(row.shape[1] for row in rows), io.BytesIO()
    sheet = Image.new("RGB", (side * SHOWN, side * len(rows)))
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            sheet.paste(Image.fromarray(image).resize((side, side)), (across * side, down * side))
    sheet.save(content, "PNG")
    return content.getvalue()
