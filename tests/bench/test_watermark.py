"""The watermark's table counts what was found, and the one in the docs is that of the stored result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from facecrafter.bench import watermark as bench
from facecrafter.bench.watermark import Alarms, Cost, Survival, Watermarking
from facecrafter.cli import app
from facecrafter.errors import DataError
from facecrafter.pipelines import watermark

ROOT = Path(__file__).resolve().parents[2]
RESULT = Watermarking(
    [Cost("generated, 128 px", 4, 38.53, 38.41)],
    [
        Survival("generated, 128 px", "none", 4, 4),
        Survival("generated, 128 px", "JPEG 75", 4, 3),
        Survival("contact sheet of 4", "none", 2, 2, 8, 7),
    ],
    [Alarms("photos", 1500, 0, 2.345, 0.91, 1.66)],
)
TABLE = """\
| Found after | generated, 128 px |
| --- | ---: |
| PSNR in dB, mean (lowest) | 38.5 (38.4) |
| none | 4 of 4 |
| JPEG 75 | 3 of 4 |

| Sheets | then | found marked | marked images placed |
| --- | ---: | ---: | ---: |
| contact sheet of 4 | none | 2 of 2 | 7 of 8 |

| Without the mark | searched | alarms | highest score | seconds | slowest |
| --- | ---: | ---: | ---: | ---: | ---: |
| photos | 1500 | 0 | 2.3 | 0.9 | 1.7 |"""


def test_the_table() -> None:
    assert bench.table(RESULT) == TABLE
    assert bench.read(json.loads(json.dumps(vars(RESULT), default=vars))) == RESULT


def smooth(seed: int, size: int = 128) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def test_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        (tmp_path / "photos" / str(index)).mkdir(parents=True)
        Image.fromarray(smooth(index)).save(tmp_path / "photos" / str(index) / "a.png")
    made = [smooth(10 + index) for index in range(4)]
    pairs = [(np.hstack([watermark.mark(made[0]), watermark.mark(made[1])]), 2)]
    few = {name: bench.TREATMENTS[name] for name in ("none", "resize 25 %")}
    monkeypatch.setattr(bench, "TREATMENTS", few)
    monkeypatch.setattr(bench, "SHEET_TREATMENTS", ("none",))
    monkeypatch.setattr(bench, "EXAMPLES", ("camera",))
    monkeypatch.setattr(bench, "generated", lambda photos, count: made[:count])
    monkeypatch.setattr(bench, "_sheets", lambda marked, photos: iter([("two", pairs)]))
    result = bench.watermarking(tmp_path / "photos", photos=3, marked=4, sizes=(256,), progress=lambda line: None)
    assert [(one.carriers, one.images) for one in result.costs] == [("generated, 128 px", 4), ("photos, 256 px", 1)]
    assert all(one.psnr_mean >= one.psnr_min > 38 for one in result.costs)
    assert result.survival == [
        Survival("generated, 128 px", "none", 4, 4),
        Survival("generated, 128 px", "resize 25 %", 4, 0),
        Survival("photos, 256 px", "none", 1, 1),
        Survival("photos, 256 px", "resize 25 %", 1, 1),
        Survival("two", "none", 1, 1, 2, 2),
    ]
    assert [(one.images, one.searched, one.alarms) for one in result.alarms] == [
        ("photos", 3, 0),
        ("scikit-image's images", 1, 0),
    ]
    assert all(0 < one.seconds <= one.slowest and one.highest < 5 for one in result.alarms)


@pytest.mark.parametrize("treatment", bench.TREATMENTS)
def test_treatments_keep_images_as_images(treatment: str) -> None:
    image = smooth(0)
    treated = bench.TREATMENTS[treatment](image, np.random.default_rng(0))
    assert treated.dtype == np.uint8 and treated.ndim == 3 and treated.shape[2] == 3
    assert (treated.shape == image.shape and np.array_equal(treated, image)) == (treatment == "none")


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are 0 photos in .*; name a folder of at least 5"):
        bench.watermarking(tmp_path)


def test_the_command_writes_the_result_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "watermarking", lambda *_, **__: RESULT)
    document, out = tmp_path / "a.md", tmp_path / "a.json"
    document.write_text("before\n<!-- table watermark -->\nold\n<!-- end of table -->\nafter\n")
    command = ["bench", "watermark", str(tmp_path), "--out", str(out), "--document", str(document)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and TABLE in done.stdout
    assert document.read_text() == f"before\n<!-- table watermark -->\n\n{TABLE}\n\n<!-- end of table -->\nafter\n"
    assert bench.read(json.loads(out.read_text())) == RESULT
    document.write_text("no place")
    out.unlink()
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and "has no place for watermark" in refused.stderr and not out.exists()


def test_the_document_has_the_stored_result() -> None:
    stored = bench.read(json.loads((ROOT / "docs" / "results" / "watermark.json").read_text()))
    assert f"<!-- table watermark -->\n\n{bench.table(stored)}\n\n<!--" in (ROOT / "docs" / "watermark.md").read_text()
    assert sum(one.searched for one in stored.alarms) >= 1500
    assert sum(one.alarms for one in stored.alarms) == 0
    assert min(one.psnr_min for one in stored.costs) >= 38
