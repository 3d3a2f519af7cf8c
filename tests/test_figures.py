"""What README.md and docs/results.md say was measured is what the records of docs/results say.

``python tests/test_figures.py`` writes the records' figures into both, after a measurement was made again.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facecrafter.evaluation import words
from facecrafter.evaluation.result import HeldoutResult, Setting, read_file

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS, SPEED = "README.md", "docs/results.md", "docs/speed.md"
RECORD = read_file(ROOT / "docs" / "results" / "mini.json")
assert isinstance(RECORD, HeldoutResult) and RECORD.words is not None
SETTINGS = tuple(RECORD.settings.values())
ALONE, POSED, WHOLE = SETTINGS
DEGREES = (("error", 1), ("correlation", 2))
WORDED = RECORD.words.settings[words.WORDS_ONLY]

# Figures that nothing measured: names, versions, and what is asked for rather than found.
PLAIN = ("128 px", "Python 3.11", "(Eq. 6)", "(Eq. 2-5)", "Stable Diffusion 1.5")
NUMBER, LIST = r"(-?\d[\d.]*(?:\s%)?)", r"([a-z][^|.]*?)"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _by_class(scores: Setting) -> str:
    """Every class of the targets, the most frequent first."""
    rows = sorted(scores.emotion_by_class.items(), key=lambda row: -row[1].faces)
    return ", ".join(f"{name} {_percent(one.agreement.value or 0)} of {one.faces}" for name, one in rows)


def _time(speed: str) -> str:
    """Seconds an image in the table of speeds, as a share of those of ``exact``."""
    rows = re.findall(r"^\| (\S[^|]*) \|.* (\S+) \|$", (ROOT / SPEED).read_text(encoding="utf-8"), re.MULTILINE)
    seconds = dict(rows)
    return f"{float(seconds[speed]) / float(seconds['exact']):.2f}"


def _row(name: str, form: str, *keys: str) -> tuple[str, str, list[str]]:
    """A row of the first table of docs/results.md: the settings' cells, the keys within one in the cell's form."""
    cells = [f"{getattr(setting, key):{form}}" for setting in (ALONE, POSED, WHOLE) for key in keys]
    return RESULTS, name, cells


def _figures() -> list[tuple[str, str, list[str]]]:
    """A document, a piece of one of its lines with ``{}`` for each figure, and the figures by the records."""
    share = [f"{one.blendshape_rmse / ALONE.blendshape_rmse:.2f}" for one in (POSED, WHOLE)]
    errors = [f"{one.blendshape_rmse:.3f}" for one in (ALONE, POSED, WHOLE)]
    followed = [n for n, one in WORDED.classes.items() if one.read_as_asked.value > 0.5]
    people, targets = RECORD.config["identities"], RECORD.config["targets"]
    return [
        (README, "on {} held-out people, {} target photos each", [f"{people}", f"{targets}"]),
        (README, "AUC {} with identity alone, {} with a target", [f"{one.auc:.3f}" for one in (ALONE, WHOLE)]),
        (
            README,
            "yaw {}° off on average (correlation {})",
            [f"{getattr(WHOLE, f'yaw_{k}'):.{n}f}" for k, n in DEGREES],
        ),
        (README, "pitch {}° (correlation {})", [f"{getattr(WHOLE, f'pitch_{k}'):.{n}f}" for k, n in DEGREES]),
        (README, "blendshape RMSE {}, {} of that", [errors[2], share[1]]),
        (README, "target's class in {}: {} |", [_percent(WHOLE.emotion_agreement), _by_class(WHOLE)]),
        (README, "from the {} others", [f"{people - 1}"]),
        (README, "landmarks alone bring {} of", [_percent(POSED.emotion_agreement)]),
        (
            README,
            "read as asked in {} (a guess: {})",
            [_percent(WORDED.mean.read_as_asked.value), f"{100 * words.CHANCE:.3g} %"],
        ),
        (README, "more than half of the images for {} only", [_listed(followed)]),
        (README, "at {} of its time by", [_time("refresh")]),
        (README, "at {} by a trained student", [_time("distilled")]),
        (
            RESULTS,
            "| images in which a face is found | {} | {} | {} |",
            [_percent(s.face_found) for s in SETTINGS],
        ),
        _row("| identity cosine, own person / other people | {} / {} | {} / {} | {} / {} |", ".3f", "same", "other"),
        _row("| identity AUC | **{}** | **{}** | **{}** |", ".3f", "auc"),
        (RESULTS, "| yaw error, correlation with the target | {}°, {} | {}°, {} | {}°, **{}** |", _angles("yaw")),
        (RESULTS, "| pitch error, correlation | {}°, {} | {}°, {} | {}°, {} |", _angles("pitch")),
        (
            RESULTS,
            "conditions off) | {} | {} ({}) | {} (**{}**) |",
            [errors[0], errors[1], share[0], errors[2], share[1]],
        ),
        (
            RESULTS,
            "| emotion class as the target's | {} | {} | {} |",
            [_percent(s.emotion_agreement) for s in SETTINGS],
        ),
        _row("| valence / arousal RMSE | {} / {} | {} / {} | {} / {} |", ".2f", "valence_rmse", "arousal_rmse"),
        (RESULTS, "by landmarks alone: {}.", [_by_class(POSED)]),
        (RESULTS, "with the emotion condition too: {}.", [_by_class(WHOLE)]),
    ]


def _angles(axis: str) -> list[str]:
    return [f"{getattr(one, f'{axis}_{key}'):.{places}f}" for one in SETTINGS for key, places in DEGREES]


FIGURES = _figures()


def _pattern(piece: str, figures: list[str]) -> re.Pattern[str]:
    kinds = [NUMBER if re.fullmatch(NUMBER, figure) else LIST for figure in figures]
    # A line may end wherever a space stands.
    first, *parts = (re.sub(r"(\\ )+", r"\\s+", re.escape(part)) for part in piece.split("{}"))
    return re.compile(first + "".join(kind + part for kind, part in zip(kinds, parts, strict=True)))


def _on_one_line(figure: str) -> str:
    return re.sub(r"\s+", " ", figure)


def _renewed(found: re.Match[str], figures: list[str]) -> str:
    """The text of a match with other figures in it, and with its line ends where they are."""
    text, end = "", found.start()
    for number, figure in enumerate(figures, 1):
        text += found.string[end : found.start(number)] + figure
        end = found.end(number)
    return text + found.string[end : found.end()]


@pytest.mark.parametrize(("document", "piece", "figures"), FIGURES, ids=[piece for _, piece, _ in FIGURES])
def test_a_figure_is_the_records(document: str, piece: str, figures: list[str]) -> None:
    found = _pattern(piece, figures).finditer((ROOT / document).read_text(encoding="utf-8"))
    assert [[_on_one_line(figure) for figure in match.groups()] for match in found] == [figures]


@pytest.mark.parametrize("document", [README, RESULTS])
def test_the_table_of_words_is_the_records(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    table = text.partition("<!-- table model -->\n\n")[2].partition("\n\n<!-- end of table -->")[0]
    assert table == words.as_markdown(RECORD.words, RECORD.independent)


def test_the_readme_has_no_figure_beside_these() -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    text = re.sub(r"<!-- table model -->.*?<!-- end of table -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```|^ {4}.*?$|`[^`]*`|\]\(.*?\)", "", text, flags=re.DOTALL | re.MULTILINE)
    for piece in PLAIN:
        assert piece in text, f"{piece!r} is not in {README} any more"
        text = text.replace(piece, "")
    for document, piece, figures in FIGURES:
        if document == README:
            text = _pattern(piece, figures).sub("", text)
    assert re.findall(r".*(?<![\w.-])\d.*", text) == []


def renew() -> None:
    """Write the records' figures into the documents. The table of words is `facecrafter evaluate publish`'s."""
    for document in (README, RESULTS):
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        for of, piece, figures in FIGURES:
            if of == document:
                text = _pattern(piece, figures).sub(lambda found, figures=figures: _renewed(found, figures), text)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    renew()
