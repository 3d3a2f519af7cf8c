"""The config of a table: what is allowed, what is told of what is not, and what is not overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from facecrafter.errors import ConfigError, OutputError
from facecrafter.evaluation import config as tables

PROJECT = Path(__file__).parents[2]
CONFIGS = sorted((PROJECT / "configs").glob("*/evaluation/*.yaml"))
CONTROL = {"table": "control", "data": "d", "out": "o", "methods": [{"name": "Ours", "model": "mini"}]}
DIVERSITY = {**CONTROL, "table": "diversity"}


def written(folder: Path, content: object) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_projects_own_configs_load_and_name_the_command_that_runs_them(path: Path) -> None:
    config = tables.load(path)
    command = f"# facecrafter evaluate {config.table} {path.relative_to(PROJECT).as_posix()}"
    assert path.read_text().splitlines()[0] == command
    assert config.out.name == path.stem


def test_the_papers_tables_are_of_a_hundred_people() -> None:
    shipped = {path.stem: tables.load(path) for path in CONFIGS if "mini" in path.parts}
    assert {"ablation", "ablation-diversity", "control", "diversity", "speed"} <= shipped.keys()
    assert {shipped[name].identities for name in ("control", "diversity")} == {100}


def test_the_papers_protocol_at_its_own_scale() -> None:
    control = tables.load(PROJECT / "configs/arc2face/evaluation/control.yaml")
    assert isinstance(control, tables.ControlConfig)
    assert (control.identities * control.targets, control.pool, control.real) == (2000, 100, 2000)
    assert control.distance == "l2"
    assert control.real_data not in (None, control.data)
    for path in CONFIGS:
        config = tables.load(path)
        if "arc2face" in path.parts:
            judges = config.judges
            assert (judges.pose, judges.expression, judges.identity, judges.emotion) == (
                "emoca",
                "emoca",
                "facenet",
                "emonet",
            )
            assert (judges.frechet, config.condition) == ("pytorch_fid", "arcface")


def test_defaults_are_the_papers_numbers(tmp_path: Path) -> None:
    config = tables.load(written(tmp_path, CONTROL))
    assert isinstance(config, tables.ControlConfig)
    assert (config.identities * config.targets, config.pool, config.real) == (2000, 100, 2000)
    assert config.cache_folder == Path("o/cache") and config.real_data is None
    assert config.methods[0].conditions == ("landmark", "emotion")


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        ({**CONTROL, "table": "third"}, "table: control or diversity"),
        ([1], "holds no settings"),
        ({**CONTROL, "identites": 5}, "no setting 'identites'; did you mean 'identities'"),
        ({**CONTROL, "samples": 5}, "no setting 'samples'"),
        ({**DIVERSITY, "targets": 5}, "no setting 'targets'"),
        ({**CONTROL, "judges": {"identiy": "dlib"}}, "no setting 'judges.identiy'; did you mean 'judges.identity'"),
        ({**CONTROL, "methods": [{"name": "a", "modle": "m"}]}, "methods.0"),
        ({**CONTROL, "methods": [{"name": "a", "model": "m", "condition": []}]}, "did you mean 'methods.0.conditions'"),
        ({**CONTROL, "methods": []}, "methods"),
        ({**CONTROL, "judges": {"identity": "dlib"}}, "cannot judge it too"),
        ({**CONTROL, "identities": 1}, "identities"),
        ({**CONTROL, "targets": 20, "pool": 10}, "raise `pool`"),
        ({**CONTROL, "identities": 5}, "curves are of some of the 5"),
        ({**DIVERSITY, "people": {"layout": "agedb"}}, "`folder` belongs"),
        ({**DIVERSITY, "people": {"folder": "f"}}, "`folder` belongs"),
    ],
)
def test_what_is_not_allowed_is_told(tmp_path: Path, content: object, outcome: str) -> None:
    with pytest.raises(ConfigError, match=outcome):
        tables.load(written(tmp_path, content))


@pytest.mark.parametrize(
    ("method", "outcome"),
    [
        ({"kind": "controlent"}, "no kind of method 'controlent'"),
        ({"kind": "published_instantid"}, "kind: folder"),
        ({"kind": "folder"}, "needs `extra_parameters`"),
        ({"kind": "folder", "extra_parameters": 1, "settings": {"steps": 3}}, "no use for `settings`"),
        ({"kind": "folder", "extra_parameters": 1, "of": "nobody"}, "`of` is one of"),
        ({"kind": "controlnet"}, "needs `base`"),
        ({"kind": "controlnet", "base": "mini", "conditions": []}, "no use for `conditions`"),
        ({"base": "mini"}, "no use for `base`"),
        ({"extra_parameters": 3}, "no use for `extra_parameters`"),
        ({"settings": {"landmark_scal": 2}}, "no 'landmark_scal'; did you mean 'landmark_scale'"),
        ({"conditions": ["landmark", "landmark"]}, "twice"),
        ({"conditions": ["landmarks"]}, "conditions: there is no 'landmarks'; did you mean 'landmark'?"),
    ],
)
def test_what_a_method_must_not_say(tmp_path: Path, method: dict[str, object], outcome: str) -> None:
    with pytest.raises(ConfigError, match=outcome):
        tables.load(written(tmp_path, {**CONTROL, "methods": [{"name": "a", "model": "m", **method}]}))


def test_methods_whose_files_would_be_one_are_refused(tmp_path: Path) -> None:
    alike = [{"name": name, "model": "mini"} for name in ("Ours (1)", "ours 1 ")]
    with pytest.raises(ConfigError, match="too much alike"):
        tables.load(written(tmp_path, {**CONTROL, "methods": alike}))


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no config"):
        tables.load(tmp_path / "nothing.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        tables.load(tmp_path / "broken.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        tables.load(tmp_path / "binary.yaml")


def test_a_result_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        tables.run(tables.ControlConfig(**{**CONTROL, "out": tmp_path}))
    assert (tmp_path / "result.json").read_text() == "mine"


def test_slugs_are_plain() -> None:
    assert tables.MethodConfig(name="FaceCrafter (LMK+EMO)", model=Path("mini")).slug == "facecrafter-lmk-emo-"
