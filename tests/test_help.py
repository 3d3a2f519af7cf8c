"""What --help says fits a terminal of 80 columns, and stands alone."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from facecrafter.cli import app

GROUPS = ([], ["data"], ["evaluate"], ["weights"], ["controls"], ["dataset"], ["bench"], ["study"])


def shown(*arguments: str) -> str:
    return CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: " ".join(group) or "all")
def test_every_command_has_a_whole_sentence_on_its_line(group: list[str]) -> None:
    lines = shown(*group).partition("Commands:\n")[2].splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80 or not line.startswith("  ") or not line.endswith(".")] == []
    assert [line for line in lines if line.endswith("...")] == []


def test_all_groups_are_looked_at() -> None:
    assert {group.name for group in app.registered_groups} == {name for group in GROUPS for name in group}


def test_the_demo_has_the_default_of_the_models_that_it_takes() -> None:
    text = shown("demo")
    assert "mini 8" in text and "arc2face" not in text


def test_lists_are_named_by_one_of_theirs() -> None:
    assert "[OPTIONS] {FILE}..." in shown("inspect")
    assert "--methods DIR " in shown("study", "new")
