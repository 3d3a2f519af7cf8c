"""An audit as one page of HTML that needs nothing beside it, and as the sections that the card has too."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image

from facecrafter.datasets.audit import FAR, Audit, open_set
from facecrafter.datasets.identities import EMBEDDINGS, MADE, NOBODY, REAL
from facecrafter.datasets.output import read_list, samples
from facecrafter.errors import counted
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.report.page import template_environment
from facecrafter.evaluation.report.tables import Cell, Grid
from facecrafter.faces.face import BLENDSHAPES

SHOWN = 24  # images on the page
ACROSS = 6
SIDE = 112
APPARENT = (
    "Apparent age and sex are what a regression on embeddings, fitted to photos of another set, makes of a face; the "
    "skin tone is that of the image, whose light moves it. None of them is a property of a person{}. They show whether "
    "the set is lopsided, and are no labels."
)
REALS = ("of them a real person", "of them real people")
OTHERS = {
    NOBODY: ("who does not exist", "who do not exist"),
    EMBEDDINGS: ("from an embedding, which may be of a real person", "from embeddings, which may be of real people"),
    MADE: ("from another data set, who may be real", "from another data set, who may be real"),
}
KEPT_ONLY = "Over the images that are in the set: those that missed their cell at every attempt are not among them."


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        texts: sentences.
        terms: numbers by name.
        grids: tables.
        folded: whether the page shows the tables only when they are asked for.
    """

    title: str
    texts: Sequence[str] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    grids: Sequence[Grid] = ()
    folded: bool = False


def as_html(audit: Audit, out: Path) -> bytes:
    """The page of an audit of a data set."""
    content = [*sections(audit), *_neighbours(audit), _images(out)]
    template = template_environment().get_template("audit.html")
    page = template.render(title="Audit of a data set", sections=content, notices=list(faults(audit)))
    return page.encode()


def invented(audit: Audit) -> bool:
    """Whether it is known that nobody in a set exists."""
    return audit.sources is not None and audit.sources.keys() == {NOBODY}


def identities(audit: Audit) -> str:
    """Whose likenesses the images are."""
    if audit.sources is None:
        return "Identities: it is unknown whether they are of real people; the set does not say."
    total = counted(sum(audit.sources.values()), "person", "people")
    parts = [f"{total}, {counted(audit.sources.get(REAL, 0), *REALS)} from photos"]
    parts += [counted(audit.sources[name], *words) for name, words in OTHERS.items() if name in audit.sources]
    return f"Identities: {', '.join(parts)}."


def faults(audit: Audit) -> Iterator[str]:
    """What is wrong with a set, or has to be known of it, a sentence each."""
    if not invented(audit):
        yield identities(audit)
    if empty := [name for name, (there, _) in audit.cells.items() if not there]:
        names = f"{'; '.join(empty[:5])}{'; ...' if len(empty) > 5 else ''}"
        yield f"{counted(len(empty), 'cell is', 'cells are')} empty: {names}."
    if audit.resembling:
        of = f"of {audit.people:,} people"
        near = counted(len(audit.resembling), f"{of} resembles", f"{of} resemble")
        yield f"{near} a training person, nearer than the plan's {audit.apart:g}."
    if audit.identical:
        yield f"{counted(audit.identical, 'image has', 'images have')} the same pixels as another one."
    if audit.alike:
        yield f"{counted(audit.alike, 'image is', 'images are')} like another one of the same person in the same cell."
    if not audit.training:
        yield "Nobody was compared with the training people; give --training to do that."


def sections(audit: Audit) -> list[Section]:
    """The numbers of an audit."""
    share = audit.rejected / max(1, audit.images + audit.rejected)
    missed = f"{audit.rejected} ({share:.1%})"
    apparent = APPARENT.format(", and nobody here is one" if invented(audit) else "")
    counts = {"Images": str(audit.images), "People": str(audit.people), "Missed their cell": missed}
    return [
        Section("Cells", terms=counts, grids=[_cells(audit)]),
        Section("Asked and measured", [KEPT_ONLY], grids=[_followed(audit), *_emotions(audit)]),
        Section("People", [identities(audit), *_far(audit)], _people(audit)),
        Section("Apparent age, sex and skin tone", [apparent], grids=_apparent(audit)),
    ]


def _cells(audit: Audit) -> Grid:
    grid = Grid("Images of each cell, and those that missed it at every attempt", ["cell", "images", "missed"])
    for name, numbers in audit.cells.items():
        grid.rows.append((name, [Cell(str(number)) for number in numbers]))
    return grid


def _followed(audit: Audit) -> Grid:
    headings = ["asked", "images", "correlation", "slope", "mean absolute error"]
    grid = Grid("Measured against asked, with 95 % intervals over people", headings)
    for name, one in audit.followed.items():
        decimals = 2 if name in (*BLENDSHAPES, "valence", "arousal") else 1
        cells = [str(one.images), _number(one.correlation), _number(one.slope), shown(one.error, decimals)]
        grid.rows.append((name, [Cell(text) for text in cells]))
    return grid


def _emotions(audit: Audit) -> list[Grid]:
    if not audit.emotions:
        return []
    grid = Grid("Read as asked, with 95 % intervals over people", ["emotion", "share"])
    for name, share in audit.emotions.items():
        grid.rows.append((name, [Cell(shown(share, 2))]))
    return [grid]


def _far(audit: Audit) -> list[str]:
    if audit.threshold is None:
        return [f"Too few pairs of two people ({audit.pairs}) for a false accept rate of {FAR:g}."]
    return [
        f"At the cosine that {FAR:g} of {audit.pairs} pairs of two people reach, a pair of one person is recognised."
    ]


def _people(audit: Audit) -> dict[str, str]:
    found = {
        "Judge": audit.judge,
        "Cosine within a person": _number(audit.within),
        "Cosine between two": _number(audit.between),
        f"Threshold at FAR {FAR:g}": _number(audit.threshold),
        "Pairs of one person recognised": shown(audit.recognised, 3),
        "Cosine to the embedding asked for": _number(audit.identity),
    }
    if audit.training:
        found["Training people compared"] = str(audit.training)
        found["Cosine to the nearest, median"] = _number(audit.nearest[0])
        found["Cosine to the nearest, highest"] = _number(audit.nearest[1])
        found[f"People nearer to one than {audit.apart:g}"] = ", ".join(audit.resembling) or "none"
    return found


def _neighbours(audit: Audit) -> Iterator[Section]:
    """The nearest training person of everyone; the card, which may be published, names none of them."""
    if audit.neighbours:
        grid = Grid("The nearest training person of everyone", ["person", "training person", "cosine"])
        for person, one in audit.neighbours.items():
            grid.rows.append((person, [Cell(one.person), Cell(_number(one.cosine))]))
        yield Section("Nearest training people", [], {}, [grid], folded=True)


def _apparent(audit: Audit) -> list[Grid]:
    grids = []
    for title, counts in (("age", audit.ages), ("sex", audit.sexes), ("skin tone", audit.tones)):
        grid = Grid(f"People by apparent {title}", [title, "people"])
        grid.rows.extend((name, [Cell(str(number))]) for name, number in counts.items())
        if counts:
            grids.append(grid)
    return grids


def _images(out: Path) -> Section:
    """The first images, those of the first shard."""
    grid = Grid("The first images", ["", *[""] * ACROSS], kind="cases")
    for first in range(0, len(shots := list(islice(_shots(out), SHOWN))), ACROSS):
        grid.rows.append((f"{first + 1}", shots[first : first + ACROSS]))
    return Section("Images", grids=[grid])


def _shots(out: Path) -> Iterator[Cell]:
    _, count = open_set(out)
    for number in range(count):
        beside = read_list(out, number)
        names = {row["key"]: row for row in beside["rows"]}
        for key, parts in samples(out, number, beside["sha256"]):
            row = names[key]
            alt = f"asked: yaw {row['asked_yaw']:g}, {row['asked_expression']}, {row['asked_emotion']}"
            yield Cell(image=_uri(parts["png"]), alt=alt, small=f"{row['asked_yaw']:g}, {row['asked_emotion']}")


def _uri(png: bytes) -> str:
    content = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def shown(value: Interval, decimals: int) -> str:
    """A number with its interval."""
    if value.value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.value:.{decimals}f}"
    return f"{value.value:.{decimals}f} [{value.low:.{decimals}f}, {value.high:.{decimals}f}]"
