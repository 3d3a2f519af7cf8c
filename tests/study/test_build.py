"""Building a study: every image is there, of one size, without metadata, and under a name that tells nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facecrafter.errors import ConfigError, DataError, FaceCrafterError, OutputError
from facecrafter.faces.photo import load_photo, read_text
from facecrafter.study import manifest
from facecrafter.study.build import build
from facecrafter.study.config import PAPER, StudyConfig, load
from facecrafter.study.database import FILE, open_database
from facecrafter.study.manifest import IMAGES, MANIFEST, TOKEN, Manifest
from facecrafter.study.store import Store
from tests.study.conftest import METHODS, draw_images, square


def config(images: Path, **settings: Any) -> StudyConfig:
    methods = {name: images / name for name in METHODS}
    small = {"images_a_set": 2, "sets": 3, "sets_a_participant": 2}
    return StudyConfig(methods=methods, references=images / "references", **{**small, **settings})


def test_the_papers_design_is_the_default() -> None:
    default = StudyConfig()
    assert [one.key for one in default.questions] == [
        "diversity-pose",
        "diversity-expression",
        "control-pose",
        "control-expression",
        "identity",
    ]
    assert (default.sets, default.sets_a_participant, default.design) == (30, 5, "choose")
    assert {one.shows for one in PAPER if one.key.startswith("control")} == {("source", "target")}


def test_a_study_has_every_image_once_and_says_whose_it_is(images: Path, tmp_path: Path) -> None:
    made = build(config(images), tmp_path)
    assert manifest.read(tmp_path) == made
    group = made.groups["control"]
    assert group.methods == METHODS and group.size == (40, 40) and len(group.sets) == 3
    for one in group.sets:
        for index, names in enumerate(one.images):
            original = load_photo(images / METHODS[index] / "control" / f"{one.name}.png")
            assert (load_photo(tmp_path / IMAGES / names[0]) == original).all()
        target = load_photo(images / "references" / "control" / "target" / f"{one.name}.png")
        assert (load_photo(tmp_path / IMAGES / one.references["target"]) == target).all()
    assert all(len(names) == 2 for one in made.groups["diversity"].sets for names in one.images)
    assert "target" not in made.groups["diversity"].sets[0].references


def test_served_files_tell_nothing(images: Path, tmp_path: Path) -> None:
    build(config(images), tmp_path)
    files = list((tmp_path / IMAGES).iterdir())
    assert len(files) == 3 * (3 + 6 + 3)
    for path in files:
        assert read_text(path) == {}
        assert not any(word.lower() in path.name.lower() for name in METHODS for word in name.split())
        with Image.open(path) as image:
            assert not image.getexif() and set(image.info) == set()
    assert (tmp_path / TOKEN).stat().st_mode & 0o077 == 0
    assert len(manifest.admin_token(tmp_path)) >= 16


def test_the_seed_draws_the_sets(images: Path, tmp_path: Path) -> None:
    def drawn(seed: int, name: str) -> list[str]:
        return [one.name for one in build(config(images, seed=seed), tmp_path / name).groups["control"].sets]

    assert drawn(1, "a") == drawn(1, "b") != drawn(2, "c")


def test_nothing_is_overwritten_unasked(images: Path, tmp_path: Path) -> None:
    build(config(images), tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        build(config(images), tmp_path)
    build(config(images), tmp_path, overwrite=True)


def test_a_study_with_answers_gives_way_to_no_other(images: Path, tmp_path: Path) -> None:
    made = build(config(images), tmp_path)
    (tmp_path / FILE).write_bytes(b"answers")
    with pytest.raises(OutputError, match="holds the answers of the study that is there"):
        build(config(images, seed=7), tmp_path, overwrite=True)
    assert manifest.read(tmp_path) == made
    build(config(images), tmp_path, overwrite=True)  # the same study again


def test_a_study_that_is_replaced_keeps_its_file(images: Path, tmp_path: Path) -> None:
    former = build(config(images), tmp_path / "study")
    build(config(images), tmp_path / "study", overwrite=True)  # the same study again
    assert [path.name for path in (tmp_path / "study").glob("study*.json")] == [MANIFEST]
    later = build(config(images, seed=7), tmp_path / "study", overwrite=True)
    assert manifest.read(tmp_path / "study").digest == later.digest
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "study" / f"study-{former.digest}.json", tmp_path / "again" / MANIFEST)
    again = manifest.read(tmp_path / "again")
    assert again == former and again.digest == former.digest
    images_of = {path.name for path in (tmp_path / "study" / IMAGES).iterdir()}
    assert all(name in images_of for one in again.groups["control"].sets for names in one.images for name in names)


def test_the_first_images_of_a_set_are_by_number_and_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    draw_images(folder, 3, images=12)
    made = build(config(folder, images_a_set=3), tmp_path / "study")
    for one in made.groups["diversity"].sets:
        for method, names in zip(METHODS, one.images, strict=True):
            for number, name in enumerate(names):
                original = load_photo(folder / method / "diversity" / one.name / f"{number}.png")
                assert (load_photo(tmp_path / "study" / IMAGES / name) == original).all()
    said = [one.getMessage() for one in caplog.records]
    assert f"{folder / METHODS[0] / 'diversity'}: a set has 3 images, and 27 further ones are left out" in said


def damage_size(folder: Path) -> None:
    square(folder / METHODS[1] / "control" / "001.png", (1, 2, 3), side=50)


def damage_missing(folder: Path) -> None:
    (folder / METHODS[2] / "control" / "001.png").unlink()


def damage_reference(folder: Path) -> None:
    (folder / "references" / "control" / "target" / "002.png").unlink()


def damage_content(folder: Path) -> None:
    (folder / METHODS[0] / "control" / "000.png").write_bytes(b"no image")


def damage_few(folder: Path) -> None:
    (folder / METHODS[0] / "diversity" / "000" / "1.png").unlink()


def damage_folder(folder: Path) -> None:
    shutil.rmtree(folder / METHODS[0] / "diversity")


def damage_small(folder: Path) -> None:
    square(folder / "references" / "control" / "source" / "000.png", (1, 2, 3), side=8)


def damage_twice(folder: Path) -> None:
    square(folder / METHODS[1] / "control" / "001.bmp", (1, 2, 3))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_size, "001.png is 50x50, and others are 40x40"),
        (damage_missing, "'001' is in one of them only"),
        (damage_reference, "no photo of the set '002'"),
        (damage_content, "000.png is not an image"),
        (damage_few, "holds 1 images, and a set of the study has 2"),
        (damage_folder, "there is no folder"),
        (damage_small, "has 8x8 pixels, too few"),
        (damage_twice, r"001\.bmp and 001\.png are both of the set '001'; keep one"),
    ],
)
def test_what_is_wrong_with_images_is_named(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    draw_images(tmp_path / "images", 3)
    damage(tmp_path / "images")
    with pytest.raises(FaceCrafterError, match=words):
        build(config(tmp_path / "images"), tmp_path / "study")
    assert not (tmp_path / "study" / MANIFEST).exists()


def test_too_few_sets_methods_or_folders_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"30 sets of diversity images .* asks for 31"):
        build(config(images, sets=31), tmp_path)
    one = {METHODS[0]: images / METHODS[0]}
    with pytest.raises(ConfigError, match="two methods or more"):
        build(config(images).model_copy(update={"methods": one}), tmp_path)
    with pytest.raises(ConfigError, match="--references"):
        build(config(images).model_copy(update={"references": None}), tmp_path)
    with pytest.raises(ConfigError, match="no images"):
        build(StudyConfig(), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sest: 30", "did you mean 'sets'"),
        ("sets: 0", "sets: "),
        ("design: best", "design"),
        ("sets: 3\nsets_a_participant: 4", "cannot see 4 of 3"),
        ("questions: []", "questions"),
        ("questions: [{key: a, images: control, text: Which}, {key: a, images: control, text: What}]", "2 questions"),
        ("questions: [{key: A b, images: control, text: Which}]", "key"),
        ("questions: [{key: a, images: diversity, shows: [target], text: Which}]", "no target photo"),
        ("questions: [{key: a, images: control, shows: [source, source], text: Which}]", "twice"),
        ("runs: [a]\nmethods: {b: c}", "not both"),
        ("return_after_hours: 0", "return_after_hours"),
        ("return_after_hours: .inf", "return_after_hours"),
        ("access: code\naccess_code: '  '", "belong together"),
        ("access: everyone", "access"),
        (
            "translations: {de: {title: T, introduction: I, consent: C, questions: {}, words: {}}}",
            "'de' lacks the question 'diversity-pose'",
        ),
        ("- a", "no settings"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"access": "code", "access_code": " secret  "}, "`access_code` of fewer than 8 characters"),
        ({"return_after_hours": 1e9}, r"`return_after_hours` is 1e\+09; set it to 87600, ten years, or less"),
        ({"words": {"instructed": "Choose it"}}, "the word `instructed` of the language 'en' lacks {number}"),
        ({"words": {"completion": "The code"}}, "the word `completion` of the language 'en' lacks {code}"),
    ],
)
def test_what_no_new_study_can_have_is_named(
    images: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build(config(images, **settings), tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_words_of_a_translation_have_what_is_filled_in(images: Path, tmp_path: Path) -> None:
    german = {
        "title": "T",
        "introduction": "I",
        "consent": "C",
        "questions": {one.key: "Welches?" for one in PAPER},
        "words": {"instructed_first": "Bitte zuerst diese"},
    }
    with pytest.raises(ConfigError, match=r"`instructed_first` of the language 'de' lacks \{number\}"):
        build(config(images, translations={"de": german}), tmp_path)


def test_a_built_study_with_what_no_new_one_can_have_is_read(images: Path, tmp_path: Path) -> None:
    build(config(images), tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    content["config"] |= {"access": "code", "access_code": " ab ", "return_after_hours": 1e9}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    found = manifest.read(tmp_path)
    assert found.config.access_code == "ab"
    store = Store(found, open_database(tmp_path, found.digest))
    store.join("somebody's token")
    assert store.state("somebody's token").done == 0
    store.database.close()


def test_a_name_that_parts_the_export_is_refused(images: Path, tmp_path: Path) -> None:
    methods = {"a": images / METHODS[0], "b | c": images / METHODS[1]}
    with pytest.raises(ConfigError, match=r"the method's name 'b \| c' .* rename it"):
        build(config(images).model_copy(update={"methods": methods}), tmp_path)


def test_photos_are_asked_for_only_where_a_question_shows_them(images: Path, tmp_path: Path) -> None:
    question = {"key": "real", "images": "control", "shows": (), "text": "Which image looks most real?"}
    made = build(config(images, questions=(question,)).model_copy(update={"references": None}), tmp_path)
    assert all(one.references == {} for one in made.groups["control"].sets)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"config": {"sets": -1}, "groups": {}}'])
def test_a_damaged_study_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"study\.json is damaged"):
        manifest.read(tmp_path)


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="study new"):
        manifest.read(tmp_path)


# --- of a table's run -------------------------------------------------------------------------------------------------


def write_run(folder: Path, kind: str, methods: tuple[str, ...], requests: list[tuple[str, str, int]]) -> Path:
    """A result folder of a table with one-coloured images."""
    from facecrafter.evaluation.record import Interval
    from facecrafter.evaluation.result import Column, MethodResult, TableResult

    columns = [Column("similarity", "Identity")]
    rows = [
        MethodResult(name=name, images=len(requests), failures=0, values={"similarity": Interval(0.5)})
        for name in methods
    ]
    TableResult(environment={}, kind=kind, seed=0, estimators={}, columns=columns, methods=rows).write(folder)
    for index, row in enumerate(rows):
        lines = ["image,identity,target,seed,found,similarity"]
        for number, (identity, target, seed) in enumerate(requests):
            image = f"images/{row.slug}/{number:05d}.png"
            square(folder / image, (index * 80, number * 9, 7))
            for photo in (identity, target):
                if photo:
                    square(folder / photo, (250, len(photo), 9))
            lines.append(f"{image},{identity},{target},{seed},1,0.5")
        (folder / "scores").mkdir(exist_ok=True)
        (folder / "scores" / f"{row.slug}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_study_comes_straight_from_the_tables_runs(tmp_path: Path) -> None:
    pairs = [(f"subjects/id{n}.png", f"subjects/to{n}.png", n) for n in range(5)]
    people = [(f"subjects/id{n}.png", "", seed) for n in range(4) for seed in range(3)]
    control = write_run(tmp_path / "control", "control", ("ControlNet", "FaceCrafter", "Other"), pairs)
    diversity = write_run(tmp_path / "diversity", "diversity", ("IP-Adapter", "FaceCrafter"), people)
    settings = StudyConfig(runs=(control, diversity), sets=4, sets_a_participant=2, images_a_set=3)
    made = build(settings, tmp_path / "study")
    assert made.groups["control"].methods == ("ControlNet", "FaceCrafter", "Other")
    assert made.groups["diversity"].methods == ("IP-Adapter", "FaceCrafter")
    first = made.groups["control"].sets[0]
    number = int(first.name.rpartition("_")[2])
    assert (load_photo(tmp_path / "study" / IMAGES / first.images[2][0])[0, 0] == (160, number * 9, 7)).all()
    assert [len(one) for one in made.groups["diversity"].sets[0].images] == [3, 3]
    assert set(first.references) == {"source", "target"}


def test_too_few_sets_of_runs_are_named_of_all_tables_at_once(tmp_path: Path) -> None:
    pairs = [(f"subjects/id{n}.png", f"subjects/to{n}.png", n) for n in range(4)]
    people = [(f"subjects/id{n}.png", "", seed) for n in range(5) for seed in range(3)]
    runs = (
        write_run(tmp_path / "control", "control", METHODS, pairs),
        write_run(tmp_path / "diversity", "diversity", METHODS, people),
    )
    asked = StudyConfig(runs=runs, sets=6, sets_a_participant=2, images_a_set=3)
    with pytest.raises(DataError, match=r"5 sets of diversity images and 4 sets of control .* 6; set `sets` to 4 or"):
        build(asked, tmp_path / "study")
    with pytest.raises(DataError, match=r"4 a set and method in diversity.* lower `images_a_set`"):
        build(asked.model_copy(update={"images_a_set": 4}), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_run_of_the_other_table_is_named(tmp_path: Path) -> None:
    control = write_run(tmp_path / "control", "control", ("A", "B"), [("subjects/a.png", "subjects/b.png", 0)])
    with pytest.raises(ConfigError, match="evaluate diversity"):
        build(StudyConfig(runs=(control,), sets=1, sets_a_participant=1), tmp_path / "study")


def test_methods_of_a_manifest_are_checked(made: Callable[..., tuple[Path, Manifest]]) -> None:
    folder, study = made()
    assert manifest.read(folder).digest == study.digest
    assert study.group("identity").methods == METHODS


def test_a_study_of_an_earlier_version_keeps_its_digest(
    made: Callable[..., tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, study = made(title="Übung", return_after_hours=1.5)
    assert manifest.read(folder).digest == study.digest
    content = json.loads((folder / manifest.MANIFEST).read_text())
    del content["config"]["words"]["waiting"], content["config"]["practice"]  # settings that a later version adds
    written = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (tmp_path / manifest.MANIFEST).write_text(json.dumps(content, indent=1))
    older = manifest.read(tmp_path)
    assert older.config == study.config
    assert older.digest == hashlib.sha256(written.encode()).hexdigest()[:16] != study.digest


def test_the_shipped_config_is_the_papers_study() -> None:
    shipped = load(Path(__file__).parents[2] / "configs/mini/study.yaml")
    default = StudyConfig(runs=shipped.runs)
    assert shipped == default and len(shipped.runs) == 2
