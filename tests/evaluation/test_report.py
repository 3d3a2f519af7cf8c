"""Reports of a made-up result: each number where it belongs, all text escaped, and a page that needs nothing else."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from facecrafter.errors import DataError, FaceCrafterError, OutputError
from facecrafter.evaluation import report
from facecrafter.evaluation.differences import DRAWS
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.report import charts, page, paper, tables
from facecrafter.evaluation.report.cases import CASES, cases
from facecrafter.evaluation.report.sheet import read
from facecrafter.evaluation.report.tables import places
from facecrafter.evaluation.report.text import escaped
from facecrafter.evaluation.result import HeldoutResult

EVIL = '<script>alert("1")</script> & | *x*'
NAMES = ("FaceCrafter", "Control|Net <b>", EVIL)
SLUGS = ("facecrafter", "control-net-b-", "-script-alert-1-script-x-")
PEOPLE, TARGETS = 4, 3
COLUMNS = [
    {
        "key": "expression_rmse",
        "title": "Expression RMSE",
        "unit": "",
        "better": "lower",
        "about": "Of <blendshapes>.",
        "way": "rms",
    },
    {"key": "similarity", "title": "Identity", "unit": "", "better": "higher", "about": "Cosine.", "way": "mean"},
    {
        "key": "frechet",
        "title": "Frechet",
        "unit": "",
        "better": "lower",
        "about": "Against 2,000 images.",
        "way": None,
    },
    {"key": "age", "title": "Age", "unit": "years", "better": None, "about": "", "way": None},
]
VOID = {"meta", "img", "br"}


def draw(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)


def scores_of(method: int) -> list[dict[str, object]]:
    """Rows of a method; the last image of each but the first has no face."""
    random = np.random.default_rng(method)
    rows = []
    for number in range(PEOPLE * TARGETS):
        found = method == 0 or number != PEOPLE * TARGETS - 1
        values = random.random(2) + 0.1 * method
        rows.append(
            {
                "image": f"images/{SLUGS[method]}/{number:05}.png",
                "identity": f"subjects/i{number // TARGETS}.png",
                "target": f"subjects/t{number % TARGETS}.png",
                "seed": number,
                "found": int(found),
                "expression_rmse": values[0] if found else "",
                "similarity": values[1] if found else "",
            }
        )
    return rows


def write_scores(folder: Path, slug: str, rows: list[dict[str, object]]) -> None:
    (folder / "scores").mkdir(exist_ok=True)
    with open(folder / "scores" / f"{slug}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def values_of(rows: list[dict[str, object]], method: int) -> dict[str, dict[str, float | None]]:
    """What the table says: root mean square, mean, and two that come from elsewhere."""
    cells = np.array([[row["expression_rmse"], row["similarity"]] for row in rows if row["found"]], float)
    expression, identity = float(np.sqrt(np.mean(cells[:, 0] ** 2))), float(cells[:, 1].mean())
    return {
        "expression_rmse": {"value": expression, "low": expression - 0.0625, "high": expression + 0.0625},
        "similarity": {"value": identity, "low": identity - 0.03125, "high": identity + 0.03125},
        "frechet": {"value": 40.25 + method, "low": None, "high": None},
        "age": {"value": 33.5, "low": None, "high": None},
    }


def method_of(number: int, rows: list[dict[str, object]]) -> dict:
    groups = {"0 to 15": 0.25 + number, "15 to <90>": 0.75}
    return {
        "name": NAMES[number],
        "kind": "rival",
        "extra_parameters": (2_200_000, 361_000_000, 0)[number],
        "images": len(rows),
        "failures": sum(not row["found"] for row in rows),
        "seconds_an_image": 0.125,
        "key": f"k{number}",
        "values": values_of(rows, number),
        "groups": {
            "yaw": {name: {"count": 6, "failures": 2, "values": {"expression_rmse": x}} for name, x in groups.items()}
        },
        "leakage": {
            "changed": ["identity", "pose", "emotion"],
            "moved": ["identity", "pose", "emotion"],
            "values": [[0.5, 0.1, 0.2], [0.03, 12.5, 0.04], [0.02, 1.5, 0.75]],
            "about": "Mean distances & so on.",
            "probes": 50,
            "failures": 3,
        },
        "curves": {
            "valence": {
                "asked": [-1, 0, 1],
                "perceived": [-0.5, None, 0.625],
                "low": [-0.6, None, 0.5],
                "high": [-0.4, None, 0.75],
            }
        },
        "note": "A note with <tags>." if number == 1 else "",
    }


def make(folder: Path, methods: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A result folder by the schema."""
    result = {
        "version": 2,
        "kind": "control",
        "environment": {"commit": "abc1234-dirty", "device": "CPU, 2 cores", "versions": {"torch": "2.6"}},
        "config": {"identities": PEOPLE, "real": 2000, "data": "faces </pre><i>"},
        "seed": 7,
        "seconds": 812.0,
        "conditions": {"identity": "SFace", "emotion": "eye 2"},
        "real": {"images": 2000, "of": "faces", "digest": "0123abcd"},
        "left_out": ["Jane/1.jpg"],
        "estimators": {"pose": "MediaPipe", "identity": "dlib", "emotion": "eye <3>"},
        "columns": copy.deepcopy(COLUMNS),
        "methods": [],
    }
    for number in range(PEOPLE):
        draw(folder / "subjects" / f"i{number}.png", (60 * number, 0, 200))
    for number in range(TARGETS):
        draw(folder / "subjects" / f"t{number}.png", (0, 60 * number, 200))
    for method in methods:
        rows = scores_of(method)
        for number, row in enumerate(rows):
            draw(folder / str(row["image"]), (20 * number, 100, 80 * method))
        write_scores(folder, SLUGS[method], rows)
        result["methods"].append(method_of(method, rows))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def change(folder: Path, edit) -> Path:
    """Change what result.json holds."""
    path = folder / "result.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "first")


class Reader(HTMLParser):
    """Checks that every element is closed in turn, and keeps elements, tables and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"<{tag}/> is no HTML")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if ("td" in self.open or "th" in self.open) and "svg" not in self.open:
            self.tables[-1][-1][-1] += f" {data}"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(run: Path) -> Reader:
    report.write(run, overwrite=True)
    return Reader((run / "report.html").read_text("utf-8"))


def photos(read_page: Reader) -> list[dict[str, str | None]]:
    """The images that are no charts."""
    return [one for one in read_page.of("img") if one.get("class") != "chart"]


def charts_of(read_page: Reader) -> list[str]:
    """The SVG of every chart."""
    found = [one["src"].partition(",")[2] for one in read_page.of("img") if one.get("class") == "chart"]
    return [base64.b64decode(one).decode() for one in found]


def csv_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- one run ----------------------------------------------------------------------------------------------------------


def test_files_are_written_once(run):
    written = report.write(run)
    assert [path.name for path in written] == list(report.FILES)
    before = [path.read_bytes() for path in written]
    with pytest.raises(OutputError, match=r"table\.md exists already"):
        report.write(run)
    report.write(run, overwrite=True)
    assert [path.read_bytes() for path in written] == before
    assert not list(run.glob("*.partial"))


def test_nothing_is_written_where_one_file_is_taken(run):
    (run / "report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"report\.html exists already"):
        report.write(run)
    assert not (run / "table.md").exists() and (run / "report.html").read_text() == "mine"


def test_csv_holds_every_number(run):
    report.write(run)
    methods = json.loads((run / "result.json").read_text())["methods"]
    outcome = {(line["method"], line["metric"]): line for line in csv_of(run / "table.csv")}
    for method in methods:
        for key, value in method["values"].items():
            line = outcome.pop((method["name"], key))
            for end in ("value", "low", "high"):
                assert line[end] == ("" if value[end] is None else repr(value[end]))
        for key in ("extra_parameters", "failures", "seconds_an_image", "images"):
            assert outcome.pop((method["name"], key))["value"] == repr(method[key])
    assert outcome == {}


def test_markdown_table(run):
    report.write(run)
    text = (run / "table.md").read_text("utf-8")
    methods = json.loads((run / "result.json").read_text())["methods"]
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| Method"))
    headings, _, *rows = (
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[first : first + 5]
    )
    assert headings[1:5] == ["Expression RMSE ↓", "Identity ↑", "Frechet ↓", "Age (years)"]
    expression = [method["values"]["expression_rmse"] for method in methods]
    for row, method, value in zip(rows, methods, expression, strict=True):
        number = f"{value['value']:.3f}"
        if value["value"] == min(one["value"] for one in expression):
            number = f"**{number}**"
        assert row[1] == f"{number} [{value['low']:.3f}, {value['high']:.3f}]"
        assert row[4] == "33.50"  # nobody is better
        assert row[6] == f"{method['failures']} of 12"
    assert [row[5] for row in rows] == ["2.2 M", "361 M", "0"]
    assert rows[0][3] == "**40.25**" and rows[1][3] == "41.25"
    assert rows[1][0] == r"Control\|Net \<b\>"
    for words in (
        "abc1234-dirty",
        "CPU, 2 cores",
        "torch 2.6",
        "Seed: 7",
        "13 min 32 s",
        "dlib",
        "identity SFace, emotion eye 2",
        "left out: 1, ",
        "    identities: 4",
    ):
        assert words in text
    assert paper.NOTE in text and "| FaceCrafter(LMK+EMO) | 6.81 |" in text and "FastComposer" not in text


def test_page_is_whole_and_alone(run):
    read_page = page_of(run)
    text = (run / "report.html").read_text("utf-8")
    assert photos(read_page) and all(image["alt"] for image in read_page.of("img"))
    kinds = {image["src"].partition(",")[0] for image in read_page.of("img")}
    assert kinds == {"data:image/jpeg;base64", "data:image/svg+xml;base64"}
    for chart in charts_of(read_page):
        assert not re.search(r"<script|<image|@import|href=\"[^#]|url\([^#]", chart)
    assert not re.search(r"https?:|url\(|@import|<link|<iframe", text)
    links = [attributes[name] for _, attributes in read_page.elements for name in ("src", "href") if name in attributes]
    ids = {attributes["id"] for _, attributes in read_page.elements if "id" in attributes}
    assert all(link.startswith("data:") or link.removeprefix("#") in ids for link in links)
    assert [attributes.get("src") for attributes in read_page.of("script")] == [None]
    assert not any(name.startswith("on") for _, attributes in read_page.elements for name in attributes)
    assert len(text) < page.LARGEST


def test_all_text_is_escaped(run):
    read_page = page_of(run)
    text = (run / "report.html").read_text("utf-8")
    assert not {"b", "i", "blendshapes", "tags"} & {tag for tag, _ in read_page.elements}
    assert "<script>alert" not in text and "</pre><i>" not in text
    words = " ".join(read_page.text)
    for outcome in (EVIL, "Of <blendshapes>.", "A note with <tags>.", "eye <3>", "faces </pre><i>", "15 to <90>"):
        assert outcome in words


def test_page_tells_the_numbers(run):
    read_page = page_of(run)
    methods = json.loads((run / "result.json").read_text())["methods"]
    table = read_page.tables[0]
    for line, method in zip(table[1:], methods, strict=True):
        value = method["values"]["similarity"]
        assert line[0].strip() == method["name"]
        assert line[2].split() == [f"{value['value']:.3f}", f"[{value['low']:.3f},", f"{value['high']:.3f}]"]
    sortable = [attributes["data-value"] for attributes in read_page.of("td") if "data-value" in attributes]
    assert repr(methods[2]["values"]["similarity"]["value"]) in sortable
    matrix = next(table for table in read_page.tables if table[0][0].strip() == "Changed")
    assert [cell.strip() for cell in matrix[2]] == ["pose", "0.03", "12.50", "0.04"]
    curve = next(table for table in read_page.tables if len(table[0]) > 1 and table[0][1].strip() == "Asked")
    assert [cell.strip() for cell in curve[1]] == ["FaceCrafter", "-1.000", "-0.500", "-0.600", "-0.400"]
    assert [cell.strip() for cell in curve[2]][2:] == ["-", "-", "-"]
    groups = next(table for table in read_page.tables if table[0][0].strip() == "Yaw")
    assert [cell.strip() for cell in groups[2]][:4] == ["0 to 15", NAMES[1], "6", "2"]
    assert groups[2][4].strip() == "1.250"
    assert f"{NAMES[1]}, over 50 probes, less 3 without a face" in read_page.text
    printed = read_page.tables[-1]
    assert [tuple(cell.strip() for cell in line) for line in printed[1:]] == list(paper.CONTROL.rows)


def test_cases_are_the_best_median_and_worst(run):
    row, column = read([run]).rows[0], read([run]).columns[0]
    found = cases(row, column)
    assert [kind for kind, _ in found] == ["best"] * CASES + ["median"] * CASES + ["worst"] * CASES
    ordered = sorted(score.values["expression_rmse"] for score in row.scores.values())
    value = [score.values["expression_rmse"] for _, score in found]
    assert value[0] == ordered[0] and value[2 * CASES] == ordered[-1] and value[CASES] in ordered[5:7]
    assert len({score.image for _, score in found}) == len(found)
    for kind in ("best", "median", "worst"):
        assert len({score.identity for name, score in found if name == kind}) == CASES


def test_cases_show_the_same_request_to_all_methods(run):
    """The image of every cell is that of the request in its column, beside its own identity and target."""
    read_page = page_of(run)
    sheet = read([run])
    chosen = cases(sheet.rows[0], sheet.columns[0])
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(i["src"].partition(",")[2])))) for i in photos(read_page)
    ]
    wanted = [score.identity for _, score in chosen] + [score.target for _, score in chosen]
    for row in sheet.rows:
        wanted += [row.scores[score.request].image for _, score in chosen]
    for picture, name in zip(shown, wanted, strict=False):
        assert np.abs(picture[16, 16].astype(int) - np.asarray(Image.open(run / name))[16, 16]).max() < 6


# --- differences ------------------------------------------------------------------------------------------------------


def test_paired_differences(run):
    report.write(run)
    outcome = {(line["method"], line["metric"]): line for line in csv_of(run / "differences.csv")}
    assert {metric for _, metric in outcome} == {"expression_rmse", "similarity"}  # the others are no means over images
    ours, theirs = scores_of(0)[:-1], scores_of(1)[:-1]  # the last has no face
    for key, before, after in (("similarity", float, float), ("expression_rmse", np.square, np.sqrt)):
        line = outcome[NAMES[1], key]
        assert (line["against"], line["pairs"], line["identities"]) == ("FaceCrafter", "11", "4")
        sides = [np.array([before(row[key]) for row in rows]) for rows in (ours, theirs)]
        person = np.array([row["identity"] for row in ours])
        people = sorted(set(person))
        drawn = np.random.default_rng(0).multinomial(4, [0.25] * 4, DRAWS)
        found = []
        for counts in drawn:
            rows = [
                row
                for count, one in zip(counts, people, strict=True)
                for row in np.flatnonzero(person == one).tolist() * count
            ]
            found.append(after(sides[1][rows].mean()) - after(sides[0][rows].mean()))
        expected = [after(sides[1].mean()) - after(sides[0].mean()), *np.percentile(found, [2.5, 97.5])]
        np.testing.assert_allclose([float(line[name]) for name in ("difference", "low", "high")], expected, atol=1e-12)


def test_differences_and_intervals_are_the_results_own(run):
    """What the evaluation stored is shown, and not worked out again from the scores."""
    stored = {
        "method": NAMES[1],
        "against": NAMES[0],
        "metric": "similarity",
        "value": 0.75,
        "low": 0.5,
        "high": 1.0,
        "pairs": 9,
        "identities": 2,
        "verdict": "better",
    }
    report.write(change(run, lambda content: content.update(differences=[stored])))
    (line,) = csv_of(run / "differences.csv")
    assert (line["difference"], line["low"], line["high"], line["pairs"]) == ("0.75", "0.5", "1.0", "9")
    assert "| +0.750 | [+0.500, +1.000] | 9 | 2 | better |" in (run / "table.md").read_text("utf-8")


def test_a_folder_of_version_1_has_the_same_report(run):
    report.write(run)
    before = {name: (run / name).read_bytes() for name in report.FILES}
    (run / "images").rename(run / "pictures")
    for slug in SLUGS:
        path = run / "scores" / f"{slug}.csv"
        text = path.read_text().replace("image,", "picture,", 1)
        path.write_text(text.replace("images/", "pictures/"))

    def former(content):
        content["table"] = content.pop("kind")
        del content["version"]
        for column in content["columns"]:
            del column["way"]
        content["columns"][1]["key"] = "identity_similarity"
        for method in content["methods"]:
            method["pictures"], method["seconds_a_picture"] = method.pop("images"), method.pop("seconds_an_image")
            method["values"]["identity_similarity"] = method["values"].pop("similarity")

    change(run, former)
    for slug in SLUGS:
        path = run / "scores" / f"{slug}.csv"
        path.write_text(path.read_text().replace("similarity", "identity_similarity", 1))
    report.write(run, overwrite=True)
    for name in report.FILES:
        assert (run / name).read_bytes().replace(b"identity_similarity", b"similarity") == before[name], name


@pytest.mark.parametrize(
    ("shift", "better", "verdict"),
    [
        (0.5, "lower", "worse"),
        (-0.5, "lower", "better"),
        (0.5, "higher", "better"),
        (0.5, None, "higher"),
        (0, "lower", "not distinguished"),
    ],
)
def test_verdict(run, shift, better, verdict):
    rows = scores_of(0)
    for row in rows:
        row["similarity"] += shift
    write_scores(run, SLUGS[1], rows)

    def edit(content):
        content["columns"][1]["better"] = better
        content["methods"][1]["values"] = values_of(rows, 1)

    differences = read([change(run, edit)]).differences
    outcome = next(one for one in differences if one.method == NAMES[1] and one.metric == "similarity")
    assert outcome.verdict == verdict
    assert outcome.value == pytest.approx(shift)


def test_one_identity_has_no_interval(run):
    for slug, method in zip(SLUGS, range(3), strict=True):
        write_scores(run, slug, scores_of(method)[:TARGETS])

    differences = read([run]).differences
    assert [(one.low, one.high, one.identities, one.verdict) for one in differences] == [
        (None, None, 1, "not distinguished")
    ] * 4


# --- what the tables write --------------------------------------------------------------------------------------------


def spoil(picture, request):
    """Follow the emotion half way, and show no face for some seeds."""
    picture[3] = picture[3] // 2 + 60
    if request.seed % 7 == 3:
        picture[-1, -1] = 7


@pytest.mark.parametrize("table", ["control", "diversity"])
def test_results_as_they_are_made(table, stubbed, stub_method):
    """Every column that comes from images is paired, all images are found, and nothing of the result is lost."""
    from facecrafter.evaluation import config as tables
    from facecrafter.evaluation import control, diversity

    asked = {"control": {"targets": 3, "pool": 9, "leakage": 4, "curve": 3}, "diversity": {"samples": 4}}[table]
    made = {"control": tables.ControlConfig, "diversity": tables.DiversityConfig}[table]
    config = made(**stubbed(stub_method("Exact"), stub_method("Half", spoil)), table=table, **asked)
    result = tables.run(config, progress=False)
    report.write(config.out)
    columns = {"control": control, "diversity": diversity}[table].COLUMNS
    outcome = csv_of(config.out / "differences.csv")
    assert [line["metric"] for line in outcome] == [column.key for column in columns if column.way]
    assert {line["pairs"] for line in outcome} <= {str(one.images - one.failures) for one in result.methods}
    half = result.methods[1]
    assert {line["metric"]: line["value"] for line in csv_of(config.out / "table.csv") if line["method"] == "Half"} == {
        **{key: "" if one.value is None else repr(one.value) for key, one in half.values.items()},
        **{key: repr(getattr(half, key)) for key in ("extra_parameters", "failures", "images", "seconds_an_image")},
    }
    read_page = Reader((config.out / "report.html").read_text("utf-8"))
    assert photos(read_page) and "image missing" not in " ".join(read_page.text)
    shown = {attributes["id"] for _, attributes in read_page.elements if "id" in attributes}
    assert shown >= {"table", "metrics", "differences", "cases", "how", "paper"}
    assert ({"leakage", "curves", "groups"} <= shown) == (table == "control")


# --- several runs -----------------------------------------------------------------------------------------------------


def test_compare(tmp_path):
    runs = [make(tmp_path / "a", (0,)), make(tmp_path / "b", (0, 1))]
    report.compare(runs, tmp_path / "out")
    names = list(dict.fromkeys(line["method"] for line in csv_of(tmp_path / "out" / "table.csv")))
    assert names == ["FaceCrafter (a)", "FaceCrafter (b)", NAMES[1]]
    outcome = {(line["method"], line["metric"]): line for line in csv_of(tmp_path / "out" / "differences.csv")}
    same = outcome["FaceCrafter (b)", "similarity"]
    assert [float(same[name]) for name in ("difference", "low", "high")] == [0, 0, 0]
    alone = csv_of(report.write(runs[1])[2])[0]  # over the same images
    assert {**alone, "against": ""} == {**outcome[NAMES[1], "expression_rmse"], "against": ""}
    read_page = Reader((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert "image missing" not in " ".join(read_page.text)
    text = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert "### a" in text and "### b" in text


def test_publish_fills_a_documents_places(run, tmp_path):
    document = tmp_path / "results.md"
    other = make(tmp_path / "other", (0,))
    place = "<!-- table {} -->\nwhatever was there\n<!-- end of table -->"
    document.write_text(f"# Mine\n\n{place.format(run.name)}\n\nBetween.\n\n{place.format('other')}\nAfter.\n")
    report.publish([run, other], document)
    text = document.read_text()
    assert text.startswith(f"# Mine\n\n<!-- table {run.name} -->\n\n| Method |")
    assert "\n\nBetween.\n\n" in text and text.endswith("<!-- end of table -->\nAfter.\n")
    assert "whatever" not in text
    first, second = text.split("Between.")
    for number, name in enumerate(NAMES):
        row = next(line for line in first.splitlines() if line.startswith(f"| {escaped(name)} |"))
        assert tables.shown(values_of(scores_of(number), number)["similarity"]["value"], 3) in row
        assert (f"| {escaped(name)} |" in second) == (number == 0)
    assert "| 0.50 | 0.10 | 0.20 | 0.03 | 12.50 | 0.04 | 0.02 | 1.50 | 0.75 |" in first  # the leakage matrix
    assert "abc1234-dirty" in first and "seed 7" in first and "real images 2000 of faces (0123abcd)" in first
    assert "361M" in first and "361M" not in second  # the paper's table, once
    report.publish([run, other], document)
    assert document.read_text() == text
    report.publish([run], document, printed=False)
    assert "361M" not in document.read_text()


@pytest.mark.parametrize(
    "text", ["nothing", "<!-- table other -->\n<!-- end of table -->", "<!-- table run -->\nnever closed"]
)
def test_publish_needs_a_place(run, text, tmp_path):
    document = tmp_path / "results.md"
    document.write_text(text.replace("table run", f"table {run.name}"))
    with pytest.raises(DataError, match=f"no place for {run.name}"):
        report.publish([run], document)
    assert document.read_text() == text.replace("table run", f"table {run.name}")
    with pytest.raises(DataError, match=r"^there is no file .*none\.md; name a Markdown file$"):
        report.publish([run], tmp_path / "none.md")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); name a Markdown file$"):
        report.publish([run], tmp_path)


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [make(tmp_path / "a" / "run", (0,)), make(tmp_path / "b" / "run", (0,))]
    assert [row.label for row in read(runs).rows] == [f"FaceCrafter ({one})" for one in runs]


def rewrite(folder: Path, edit) -> None:
    rows = scores_of(0)
    for row in rows:
        edit(row)
    write_scores(folder, SLUGS[0], rows)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: change(b, lambda c: c.update(kind="diversity")), "one is of control, the other of diversity"),
        (
            lambda b: change(b, lambda c: c["estimators"].update(identity="FaceNet")),
            "identity is estimated by dlib and by FaceNet",
        ),
        (lambda b: change(b, lambda c: c["estimators"].pop("pose")), "pose is estimated by MediaPipe and by nothing"),
        (lambda b: change(b, lambda c: c["columns"].pop()), "the columns age are not the same"),
        (lambda b: change(b, lambda c: c["columns"][0].update(better="higher")), "the columns expression_rmse are"),
        (lambda b: change(b, lambda c: c.update(seed=8)), "the seeds are 7 and 8"),
        (lambda b: change(b, lambda c: c["config"].update(real=500)), "to 2000 and to 500 real images"),
        (
            lambda b: change(b, lambda c: c["real"].update(of="others", digest="89abcdef")),
            "to different real images, of faces and of others",
        ),
        (lambda b: rewrite(b, lambda row: row.update(seed=row["seed"] % 11)), "2 pairs of identity, target and seed"),
        (lambda b: draw(b / "subjects" / "t1.png", (9, 9, 9)), r"the data: subjects/t1\.png shows another image"),
        (lambda b: (b / "scores" / "facecrafter.csv").unlink(), r"facecrafter\.csv is missing"),
    ],
)
def test_runs_that_differ_are_refused(tmp_path, spoil, reason):
    runs = [make(tmp_path / "a", (0,)), make(tmp_path / "b", (0,))]
    spoil(runs[1])
    with pytest.raises(DataError, match=reason) as caught:
        report.compare(runs, tmp_path / "out")
    assert str(runs[0]) in str(caught.value) and str(runs[1]) in str(caught.value)
    assert "report of each alone" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_result_from_before_real_images_were_named_is_compared(tmp_path):
    runs = [make(tmp_path / "a", (0,)), make(tmp_path / "b", (1,))]
    change(runs[0], lambda c: c.pop("real"))
    assert len(read(runs).rows) == 2


def test_the_same_pictures_in_other_files_are_the_same_data(tmp_path):
    runs = [make(tmp_path / "a", (0,)), make(tmp_path / "b", (1,))]
    photo = runs[1] / "subjects" / "i0.png"
    Image.open(photo).save(photo, compress_level=0)
    assert len(read(runs).rows) == 2


@pytest.mark.parametrize("names", [[], ["first", "first"], ["first", "first/../first"]])
def test_runs_are_named_once(run, names, tmp_path):
    with pytest.raises(DataError, match=r"no result folder is given|more than once"):
        report.compare([tmp_path / name for name in names], tmp_path / "out")


# --- bad and odd input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: c.update(methods=[]), "methods: List should have at least 1 item"),
        (lambda c: c.pop("seed"), "seed: Field required"),
        (lambda c: c.update(kind="other"), "kind: it is 'other', not one of control, diversity"),
        (
            lambda c: c["methods"][0]["values"]["similarity"].update(value="high"),
            r"methods\.0\.values\.similarity\.value: ",
        ),
        (lambda c: c["methods"][1]["leakage"]["values"].pop(), r"methods\.1\.leakage: the matrix is not 3 by 3"),
        (
            lambda c: c["methods"][1]["curves"]["valence"]["low"].pop(),
            r"asked, perceived, low and high are not equally",
        ),
        (lambda c: c["methods"][1].update(name="Facecrafter"), "2 methods have the key 'facecrafter'"),
        (lambda c: c["columns"].append(c["columns"][0]), "2 columns have the key 'expression_rmse'"),
        (lambda c: c["columns"][2].update(key="seed"), r"no column can have the key 'seed'"),
        (lambda c: c["methods"][0].update(name=" "), r"methods\.0\.name: "),
    ],
)
def test_damaged_results(run, spoil, reason):
    with pytest.raises(DataError, match=rf"result\.json is damaged: .*{reason}.*run the evaluation again"):
        report.write(change(run, spoil))
    assert not list(run.glob("table.*"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"])
def test_results_that_are_none(run, content):
    (run / "result.json").write_bytes(content)
    with pytest.raises(DataError, match=r"result\.json is damaged"):
        report.write(run)


@pytest.mark.parametrize("name", ["none", "first/result.json", "first/subjects"])
def test_folders_without_result(run, name):
    with pytest.raises(DataError, match=r"has no result\.json; name a folder that an evaluation wrote"):
        report.write(run.parent / name)


HEADER = "image,identity,target,seed,found,identity_score"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "line 1: there is no column 'image'"),
        ("picture,identity,target,seed\n", "line 1: there is no column 'found'"),
        (f"{HEADER}\na,b,c,0,1\n", "line 2: it has more or fewer cells"),
        (f"{HEADER}\na,b,c,0,1,0,0\n", "line 2: it has more or fewer cells"),
        (f"{HEADER}\na,b,c,x,1,0\n", "line 2: invalid literal for int"),
        (f"{HEADER}\na,b,c,0,yes,0\n", "line 2: found is 'yes', not 0 or 1"),
        (f"{HEADER}\na,b,c,0,1,0\n/etc/a,b,c,0,1,0\n", "line 3: '/etc/a' leads out of the result folder"),
        (f"{HEADER}\na,../../b,c,0,1,0\n", "line 2: '../../b' leads out"),
        ("image,identity,target,seed,found,age\na,b,c,0,1,old\n", "line 2: could not convert string to float"),
        (f'{HEADER}\n"a,b,c,0,1,0\n', "line 1: unexpected end of data"),
        (b"\xff\xfe\x00", "line 1: "),
    ],
)
def test_damaged_scores(run, content, reason):
    path = run / "scores" / "facecrafter.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"facecrafter\.csv is damaged: {re.escape(reason)}.*run the evaluation again"):
        report.write(run)


def test_missing_and_damaged_pictures_cost_themselves(run):
    whole = len(photos(page_of(run)))
    shutil.rmtree(run / "images" / SLUGS[1])
    (run / "subjects" / "i0.png").write_bytes(b"no image")
    read_page = page_of(run)
    words = " ".join(read_page.text)
    assert 0 < len(photos(read_page)) < whole
    assert words.count("image missing") == whole - len(photos(read_page))
    assert "Images that are missing or cannot be read" in words and ", …)" in words


def test_missing_scores_are_told(run):
    (run / "scores" / f"{SLUGS[0]}.csv").unlink()
    read_page = page_of(run)
    assert "scores/facecrafter.csv is missing" in " ".join(read_page.text)
    assert {line["against"] for line in csv_of(run / "differences.csv")} == {NAMES[1]}


def fail_all(folder: Path, number: int) -> None:
    rows = [{**row, "found": 0, "expression_rmse": "", "similarity": ""} for row in scores_of(number)]
    write_scores(folder, SLUGS[number], rows)

    def edit(content):
        content["methods"][number].update(failures=len(rows), values={}, groups={}, leakage=None, curves={})

    change(folder, edit)


def test_a_method_that_always_fails(run):
    fail_all(run, 0)
    read_page = page_of(run)
    assert "No face was found in any image of FaceCrafter." in " ".join(read_page.text)
    assert [cell.strip() for cell in read_page.tables[0][1]][1:7] == ["-", "-", "-", "-", "2.2 M", "12 of 12"]
    assert {line["against"] for line in csv_of(run / "differences.csv")} == {NAMES[1]}
    assert "no face found" in " ".join(read_page.text)


def test_all_methods_fail(run):
    for number in range(3):
        fail_all(run, number)
    read_page = page_of(run)
    assert not photos(read_page) and csv_of(run / "differences.csv") == []
    assert [identity for _, attributes in read_page.elements if (identity := attributes.get("id"))] == [
        "table",
        "how",
        "paper",
    ]


def test_one_method(tmp_path):
    run = make(tmp_path / "one", (0,))
    read_page = page_of(run)
    assert csv_of(run / "differences.csv") == [] and photos(read_page)
    assert "**" not in (run / "table.md").read_text("utf-8").split("## Table 1")[0]  # nobody to be better than
    assert "differences" not in {attributes.get("id") for _, attributes in read_page.elements}


def test_numbers_that_are_none(run):
    def edit(content):
        content["methods"][0]["values"]["similarity"] = {"value": float("nan"), "low": float("-inf"), "high": None}
        content["methods"][0]["groups"]["yaw"]["0 to 15"]["values"]["expression_rmse"] = float("inf")
        content["methods"][0]["curves"]["valence"].update(low=[None] * 3, high=[None] * 3)
        content.update(seconds=float("nan"))

    change(run, edit)
    rows = scores_of(0)
    rows[3]["expression_rmse"] = "nan"
    write_scores(run, SLUGS[0], rows)
    text = " ".join(page_of(run).text)
    assert not re.search(r"\b(nan|inf|infinity)\b", text, re.IGNORECASE)
    line = next(line for line in csv_of(run / "table.csv") if line["metric"] == "similarity")
    assert (line["value"], line["low"], line["high"]) == ("", "", "")


def test_very_long_and_broken_names(run):
    name = "x" * 5000 + "\ud800\x00\u202e"

    def edit(content):
        content["methods"][0]["name"] = name
        content["config"]["note"] = name

    read_page = page_of(change(run, edit))
    labels = re.findall(r">(x+…)<", "".join(charts_of(read_page)))
    assert labels and max(map(len, labels)) == charts.LETTERS
    assert read_page.tables[0][1][0].strip() == "x" * 5000 + "\ufffd" * 3


def test_diversity_without_targets(run):
    for method, slug in enumerate(SLUGS):
        write_scores(run, slug, [{**row, "target": ""} for row in scores_of(method)])
    read_page = page_of(change(run, lambda content: content.update(kind="diversity")))
    words = [cell.strip() for table in read_page.tables for line in table for cell in line]
    assert "Identity" in words and "Target" not in words
    assert [tuple(cell.strip() for cell in line) for line in read_page.tables[-1][1:]] == list(paper.DIVERSITY.rows)


def test_pictures_are_smaller_where_the_page_would_be_too_large(run, monkeypatch):
    random = np.random.default_rng(0)
    for picture in (run / "images").rglob("*.png"):
        Image.fromarray(random.integers(0, 256, (256, 256, 3), np.uint8)).save(picture)
    report.write(run)
    size = (run / "report.html").stat().st_size
    monkeypatch.setattr(page, "LARGEST", size - 1)
    report.write(run, overwrite=True)
    assert (run / "report.html").stat().st_size < size
    pictures = photos(Reader((run / "report.html").read_text("utf-8")))
    largest = max(Image.open(io.BytesIO(base64.b64decode(one["src"].partition(",")[2]))).width for one in pictures)
    assert largest == page.SIDES[1]


def test_a_full_disk_is_a_clear_error(run, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"table\.md could not be written \(no space left"):
        report.write(run)
    assert not [path for path in run.iterdir() if path.suffix in (".md", ".html", ".partial")]


# --- pieces -----------------------------------------------------------------------------------------------------------


SPACE = "{http://www.w3.org/2000/svg}"


def outline(element: ElementTree.Element) -> np.ndarray:
    """The points (N, 2) of a path."""
    return np.array(re.findall(r"[ML] (\S+) (\S+)", element.find(f"{SPACE}path").get("d")), float)


def test_bars_are_as_long_as_their_numbers_and_charts_stay_inside(run):
    found = [ElementTree.fromstring(one) for one in charts_of(page_of(run))]
    for chart in found:
        width, height = (float(number) for number in chart.get("viewBox").split()[2:])
        texts = [(float(one.get("x", 0)), float(one.get("y", 0))) for one in chart.iter(f"{SPACE}text")]
        assert texts and all(0 <= x <= width and 0 <= y <= height for x, y in texts)
    bars = [one for one in found[0].iter(f"{SPACE}g") if one.get("id", "").startswith("bar-")]
    lengths = np.array([np.ptp(outline(bar)[:, 0]) for bar in bars])
    methods = json.loads((run / "result.json").read_text())["methods"]
    numbers = np.array([one["values"]["expression_rmse"]["value"] for one in methods])
    np.testing.assert_allclose(lengths / lengths[0], numbers / numbers[0], atol=2e-3)


def test_charts_are_the_same_bytes_for_the_same_numbers():
    entries = (("One", Interval(1.5, 1.0, 2.0)), ("Two $x$", Interval()))
    drawn = []
    for _ in range(2):
        charts.bars.cache_clear()
        drawn.append(charts.bars(entries, frozenset({"One"})))
    assert drawn[0] == drawn[1] and "1.500 [1.000, 2.000]" in drawn[0] and "Two $x$" in drawn[0]


def test_charts_of_nothing_but_zeros_or_of_nothing_have_an_axis_from_0_to_1():
    drawn = charts.bars((("One", Interval(0.0, 0.0, 0.0)), ("Two", Interval())), frozenset())
    assert re.findall(r">(0\.[0-9]|1\.0|.*e-.*)</text>", drawn) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert ">1.0</text>" in charts.curves(((0, (), (), (), ()),))


def test_series_differ_in_colour_mark_or_dash():
    looks = [(look["color"], look["marker"]) for look in map(charts._look, range(8))]
    assert len(set(looks)) == 8 and len(charts.MARKS) == len(charts.SIGNS)


def test_marks_of_the_cost_stand_where_their_numbers_say(run):
    seconds = (0.125, 0.25, None)

    def timed(content):
        for method, took in zip(content["methods"], seconds, strict=True):
            method["seconds_an_image"] = took

    report.write(change(run, timed))
    picture = ElementTree.fromstring((run / "cost.svg").read_text("utf-8"))
    plates = [one for one in picture.iter(f"{SPACE}g") if one.get("id", "").startswith("axes_")]
    methods = json.loads((run / "result.json").read_text())["methods"]
    keys = [column["key"] for column in COLUMNS]
    titles = [
        text.text
        for plate in plates
        for text in plate.iter(f"{SPACE}text")
        if "font-weight: 700" in text.get("style", "")
    ]
    assert titles == ["Expression RMSE ↓", "Identity ↑", "Frechet ↓", "Age (years)"]
    for plate, key in zip(plates, keys, strict=True):
        left = outline(next(one for one in plate.iter(f"{SPACE}g") if one.get("id", "").startswith("patch_")))
        marks = [one for one in plate.iter(f"{SPACE}g") if one.get("id", "").startswith("mark-")]
        uses = [next(mark.iter(f"{SPACE}use")) for mark in marks]
        first, second = ((float(use.get("x")), float(use.get("y"))) for use in uses)  # the third has no time
        start = left[:, 0].min()  # where 0 seconds is
        assert first[0] - start == pytest.approx((second[0] - start) / 2, abs=0.01)
        one, other = (method["values"][key]["value"] for method in methods[:2])
        assert (first[1] > second[1]) == (one < other) and (first[1] < second[1]) == (one > other)
    assert "What an image costs" in page_of(run).text


def test_without_two_times_there_is_no_cost(run):
    def untimed(content):
        for method in content["methods"][1:]:
            method["seconds_an_image"] = None

    assert "What an image costs" not in page_of(change(run, untimed)).text
    assert "mark-" not in (run / "cost.svg").read_text("utf-8")


def test_the_page_has_a_dark_and_a_printed_look(run):
    read_page = page_of(run)
    text = (run / "report.html").read_text("utf-8")
    assert "@media print" in text and "prefers-color-scheme: dark" in text
    assert all("prefers-color-scheme: dark" in chart for chart in charts_of(read_page))


@pytest.mark.parametrize(
    ("number", "decimals"), [(0, 3), (0.002, 5), (0.05, 4), (0.5, 3), (12, 2), (-361, 1), (None, 3)]
)
def test_places(number, decimals):
    assert places([number]) == decimals


def test_paper_tables_are_whole():
    for table in paper.TABLES.values():
        assert {len(row) for row in table.rows} == {len(table.columns) + 1}
    one, two = paper.CONTROL, paper.DIVERSITY
    assert [one.best(n) for n in range(9)] == [
        "6.78",
        "0.119",
        "0.217",
        "0.184",
        "0.52",
        "61.2",
        "0.76",
        "38.80",
        "11.7M",
    ]
    assert [two.best(n) for n in range(8)] == list(two.rows[-1][1:])  # the paper's method wins each column


def test_errors_are_the_projects_own(tmp_path):
    with pytest.raises(FaceCrafterError):
        report.write(tmp_path)


def test_a_result_without_a_table_says_what_has_one(tmp_path):
    HeldoutResult(environment={}, config={}, model="m", estimators={}, settings={}).write(tmp_path / "model")
    document = tmp_path / "results.md"
    document.write_text("<!-- table model -->\n<!-- end of table -->\n")
    with pytest.raises(DataError, match="model has no emotions in words; measure it again with --words 60"):
        report.publish([tmp_path / "model"], document)
    with pytest.raises(DataError, match="no table of methods; name a folder that `evaluate control` or"):
        read([tmp_path / "model"])
