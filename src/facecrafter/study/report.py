"""The report of a study: tables as Markdown and CSV, and one page with charts that needs nothing beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from facecrafter.errors import counted
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.report import charts
from facecrafter.evaluation.report.page import sorting, template_environment
from facecrafter.evaluation.report.tables import UNKNOWN, Cell, Grid, shown
from facecrafter.evaluation.report.text import escaped, grid_as_markdown
from facecrafter.io import check_free, write_whole
from facecrafter.study import statistics, worth
from facecrafter.study.answers import Choices, Given, choices, given
from facecrafter.study.export import plain
from facecrafter.study.manifest import Manifest
from facecrafter.study.statistics import Means, Pair, Test
from facecrafter.study.status import Status, status_of
from facecrafter.study.store import Store

FILES = ("report.html", "study.md", "study.csv")
ALPHA = 0.05
HOW = (
    "In brackets the 95 % interval; bold is the best of the column. Intervals and the tests 'by participants and sets' "
    "take into account that answers of one participant, and answers about one set, are alike: the variance is that of "
    "a bootstrap over participants plus that over sets less that over answers. Cochran's Q and Friedman's test take "
    "answers as independent, and then find differences too often. Differences between two methods are corrected by "
    "Holm within a question; their intervals are not. A worth is the probability of being preferred among all methods "
    "(Plackett-Luce; Bradley-Terry in pairs). Alpha is Krippendorff's: 1 is full agreement, 0 that of chance."
)


@dataclass(frozen=True)
class Result:
    """What one question's answers say.

    Attributes:
        key, text: of the question.
        methods: their names.
        choices: the counted answers.
        flagged: of them, ``(N,)``, those of participants who failed an attention check.
    """

    key: str
    text: str
    methods: tuple[str, ...]
    choices: Choices
    flagged: np.ndarray

    @cached_property
    def rates(self) -> Means:
        """Selection rates."""
        return statistics.rates(self.choices)

    @cached_property
    def main(self) -> Means:
        """What differences are tested of: mean ranks of a ranking, else selection rates."""
        return statistics.mean_ranks(self.choices) if self.choices.is_ranking else self.rates

    @cached_property
    def intervals(self) -> list[Interval]:
        """The selection rate of each method."""
        return [statistics.rate_interval(self.rates, method) for method in range(len(self.methods))]

    @cached_property
    def worths(self) -> list[Interval]:
        """The worth of each method."""
        return worth.fit(self.choices).worths

    @cached_property
    def attentive(self) -> list[float | None]:
        """Selection rates without the participants who failed an attention check; None without any other."""
        kept = self.choices.of(~self.flagged)
        if not len(kept):
            return [None] * len(self.methods)
        return [float(value) if np.isfinite(value) else None for value in statistics.rates(kept, draws=2).values]

    @cached_property
    def tests(self) -> list[Test]:
        """The tests of any difference."""
        usual = statistics.usual(self.choices)
        return [statistics.wald(self.main), *([usual] if usual else [])]

    @cached_property
    def pairs(self) -> list[Pair]:
        """All differences between two methods."""
        return statistics.pairs(self.main, len(self.methods) - 1 if self.choices.is_ranking else 1)


@dataclass(frozen=True)
class Report:
    """A study, how far it is, and what each question's answers say; questions without an answer are left out."""

    study: Manifest
    status: Status
    results: list[Result]
    failed: int
    seconds: float | None
    simulated: bool = False


def gather(store: Store, simulated: bool = False) -> Report:
    """Read all answers of a study.

    Args:
        store: the study and its answers.
        simulated: whether no person gave them.
    """
    config = store.study.config
    with store.database.reading() as session:
        answers = given(session)
    results = []
    for question in config.questions:
        group = store.study.group(question.key)
        width = 2 if config.design == "pairs" else len(group.methods)
        found = choices(answers, question.key, len(group.methods), width, width if config.design == "ranking" else 1)
        own = [one for one in answers if one.trial.question == question.key and one.trial.kind == "answer"]
        flagged = np.array([one.failed_checks > 0 for one in own], bool)
        if len(found):
            results.append(Result(question.key, question.text, group.methods, found, flagged))
    return Report(store.study, status_of(store), results, _failed(answers), _seconds(answers), simulated)


def _failed(answers: Sequence[Given]) -> int:
    return len({one.participant.number for one in answers if one.failed_checks})


def _seconds(answers: Sequence[Given]) -> float | None:
    times = [one.answer.milliseconds for one in answers if one.trial.kind == "answer"]
    return float(np.median(times)) / 1000 if times else None


def write(report: Report, out: Path, overwrite: bool = False) -> list[Path]:
    """Write :data:`FILES`. A report of no answers is replaced by the next one.

    Args:
        report: of :func:`gather`.
        out: the folder.
        overwrite: replace files of these names.

    Raises:
        OutputError: a file exists, or cannot be written.
    """
    paths = [out / name for name in FILES]
    check_free(paths, overwrite or _says_nothing(paths[-1], report))
    for path, text in zip(paths, (as_html(report), as_markdown(report), as_csv(report)), strict=True):
        write_whole(path, text.encode("utf-8", "replace"))
    return paths


def _says_nothing(table: Path, report: Report) -> bool:
    """Whether the report that is there is of this program and of no answers."""
    try:
        return table.read_bytes() == as_csv(replace(report, results=[])).encode()
    except OSError:
        return False


# --- words ------------------------------------------------------------------------------------------------------------


def summary(report: Report) -> list[str]:
    """The study in sentences: who took part, the design, how many answers a set, what was flagged."""
    config, status = report.study.config, report.status
    simulated = ["These answers are simulated, by known preferences. No person took part."] if report.simulated else []
    trial = {
        "choose": "the best of all methods' images",
        "ranking": "all methods' images in order",
        "pairs": "the better of two methods' images",
    }
    planned = config.sets_a_participant * status.participants / config.sets
    lines = [*simulated, _people(status)]
    if not report.results:
        return lines
    lines.append(
        f"Each was dealt {config.sets_a_participant} of {config.sets} sets a question and chose "
        f"{trial[config.design]}, in balanced positions: {planned:.1f} answers a set and question if all had finished."
    )
    if report.seconds is not None:
        lines.append(f"The median answer took {report.seconds:.1f} seconds.")
    if config.attention_checks:
        lines.append(
            f"Participants who failed an attention check: {report.failed}. Their answers are counted; the column "
            "'Without flagged' shows the rates without them."
        )
    return lines


def _people(status: Status) -> str:
    taken = f"{counted(status.participants, 'participant')} took part, and {status.finished} finished."
    if not status.withdrawn:
        return taken
    return f"{taken} {status.withdrawn} more withdrew, which deleted their answers."


def _p(value: float) -> str:
    return UNKNOWN if not np.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _percent(value: Interval) -> Cell:
    if value.value is None:
        return Cell(UNKNOWN)
    small = "" if value.low is None or value.high is None else f"[{value.low * 100:.0f}, {value.high * 100:.0f}]"
    return Cell(f"{value.value * 100:.0f} %", small, repr(value.value))


def _ranks(result: Result) -> list[Interval]:
    count = len(result.methods)
    return [statistics.mean_interval(result.main, method, 1, count) for method in range(count)]


def table(result: Result) -> Grid:
    """Every method's selection rate, worth and, in a ranking, mean rank."""
    ranking = result.choices.is_ranking
    first = "Placed first" if ranking else "Selection rate"
    headings = ["Method", first, "Worth", *(["Mean rank"] if ranking else []), "Without flagged", "Shown"]
    grid = Grid("Choices", headings, sortable=True)
    ranks = _ranks(result) if ranking else []
    best = max(one.value or 0 for one in result.intervals)
    for number, name in enumerate(result.methods):
        rate, without = _percent(result.intervals[number]), result.attentive[number]
        cells = [
            Cell(rate.text, rate.small, rate.sort, result.intervals[number].value == best),
            _percent(result.worths[number]),
        ]
        if ranking:
            one = ranks[number]
            small = "" if one.low is None or one.high is None else f"[{one.low:.2f}, {one.high:.2f}]"
            cells.append(Cell(shown(one.value, 2), small, repr(one.value)))
        cells.append(_percent(Interval(without)))
        cells.append(Cell(f"{int(result.rates.shown[number]):,}", sort=repr(float(result.rates.shown[number]))))
        grid.rows.append((name, cells))
    return grid


def tests(report: Report) -> Grid:
    """The tests of any difference, a row each."""
    grid = Grid("Is there any difference between methods?", ["Question", "Test", "Statistic", "Freedom", "p"])
    for result in report.results:
        for one in result.tests:
            statistic = UNKNOWN if not np.isfinite(one.statistic) else f"{one.statistic:.2f}"
            cells = [Cell(one.name, kind="name"), Cell(statistic), Cell(", ".join(map(str, one.freedom)))]
            grid.rows.append((result.key, [*cells, Cell(_p(one.p), strong=one.p < ALPHA)]))
    return grid


def differences(result: Result) -> Grid:
    """Every method less every other, with the corrected p-value."""
    what = "mean rank" if result.choices.is_ranking else "selection rate"
    grid = Grid(f"Differences in {what}", ["Method", "Less", "Difference", "p (Holm)", "Verdict"], sortable=True)
    scale, unit, places = (1, "", 2) if result.choices.is_ranking else (100, " points", 0)
    for one in result.pairs:
        better, worse, gap = _in_favour(one, ranking=result.choices.is_ranking)
        text = UNKNOWN if gap.value is None else f"{gap.value * scale:+.{places}f}{unit}"
        small = "" if gap.low is None or gap.high is None else _ends(gap.low * scale, gap.high * scale, places)
        found = one.p < ALPHA
        cells = [
            Cell(result.methods[worse], kind="name"),
            Cell(text, small, repr(gap.value)),
            Cell(_p(one.p), sort=repr(one.p) if np.isfinite(one.p) else ""),
            Cell("better" if found else "not distinguished", kind="better" if found else ""),
        ]
        grid.rows.append((result.methods[better], cells))
    return grid


def _ends(low: float, high: float, places: int) -> str:
    return f"[{low:+.{places}f}, {high:+.{places}f}]"


def _in_favour(pair: Pair, ranking: bool) -> tuple[int, int, Interval]:
    """The better method, the other one, and their difference: fewer is better of ranks."""
    gap = pair.difference
    if gap.value is None or (gap.value <= 0 if ranking else gap.value >= 0):
        return pair.first, pair.second, gap
    turned = Interval(-gap.value, None if gap.high is None else -gap.high, None if gap.low is None else -gap.low)
    return pair.second, pair.first, turned


def quality(report: Report) -> Grid:
    """How even and how reliable the answers are, a row a question."""
    ranking = report.study.config.design == "ranking"
    headings = ["Question", "Answers", "A set", "Methods over positions, p", "Chosen by position", "p", "Alpha"]
    headings += ["Tau"] if ranking else []
    grid = Grid("Balance, bias by position, and agreement", headings)
    balances = {one.question: one for one in report.status.questions}
    for result in report.results:
        balance, place = balances[result.key], statistics.positions(result.choices)
        alpha, _ = statistics.agreement(result.choices)
        mean = balance.answers / report.study.config.sets
        cells = [
            Cell(f"{balance.answers:,}"),
            Cell(f"{mean:.1f}", f"{balance.fewest} to {balance.most}"),
            Cell(_p(balance.positions_p)),
            Cell(" ".join(map(str, place.counts))),
            Cell(_p(place.p)),
            Cell(shown(alpha, 2)),
        ]
        if ranking:
            cells.append(Cell(shown(statistics.concordance(result.choices), 2)))
        grid.rows.append((result.key, cells))
    return grid


# --- files ------------------------------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """Everything in tables."""
    parts = [f"# {escaped(report.study.config.title)}", *map(escaped, summary(report))]
    for result in report.results:
        parts += [f"## {escaped(result.text)}", grid_as_markdown(table(result)), grid_as_markdown(differences(result))]
    if report.results:
        parts += ["## Tests", grid_as_markdown(tests(report)), "## Quality", grid_as_markdown(quality(report)), HOW]
    else:
        parts.append("There are no answers yet.")
    return "\n\n".join(parts) + "\n"


def as_csv(report: Report) -> str:
    """A line a question, method and measure: ``question,method,measure,value,low,high``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("question", "method", "measure", "value", "low", "high"))
    for result in report.results:
        measures = {"selection_rate": result.intervals, "worth": result.worths}
        if result.choices.is_ranking:
            measures["mean_rank"] = _ranks(result)
        for number, method in enumerate(result.methods):
            for name, values in measures.items():
                one = values[number]
                writer.writerow((result.key, plain(method), name, one.value, one.low, one.high))
            without = ("selection_rate_without_flagged", result.attentive[number], None, None)
            writer.writerow((result.key, plain(method), *without))
    return text.getvalue()


def as_html(report: Report) -> str:
    """One page: charts, tables, and how it was measured."""
    environment = template_environment("facecrafter.study")
    script, digest = sorting(environment)
    sections = [(result, _chart(result), table(result), differences(result)) for result in report.results]
    return environment.get_template("study.html").render(
        title=report.study.config.title,
        summary=summary(report),
        sections=sections,
        tests=tests(report),
        quality=quality(report),
        how=HOW,
        script=script,
        digest=digest,
    )


def _chart(result: Result) -> dict[str, str]:
    entries = tuple(zip(result.methods, result.intervals, strict=True))
    best = max(one.value or 0 for one in result.intervals)
    svg = charts.bars(entries, frozenset(name for name, one in entries if one.value == best))
    alt = "; ".join(f"{name}: {_percent(one).text} {_percent(one).small}" for name, one in entries)
    return {"caption": "Selection rate", "source": charts.uri(svg), "alt": f"Selection rate. {alt}"}
