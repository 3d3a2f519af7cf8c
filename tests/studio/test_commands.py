from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from facecrafter.cli import app


@pytest.mark.parametrize("command", ["studio", "serve"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "everyone in the network could use the server"),
        (["--host", "0.0.0.0", "--token", "short"], "easily guessed"),
        (["--host", "203.0.113.7", "--token", "new"], "cannot listen on 203.0.113.7"),
        (["--name", "https://faces.example/studio"], "'https://faces.example/studio' is no name of a host"),
        (["--private", "--keep", "x.sqlite", "--port", "0"], "leave --keep out"),
        (["--model", "no/such/model", "--port", "0"], "no/such/model"),
    ],
)
def test_what_cannot_be_served_is_refused_before_a_model_is_loaded(
    command: str, options: list[str], message: str
) -> None:
    outcome = CliRunner().invoke(app, [command, *options])
    assert outcome.exit_code == 1
    assert message in outcome.output


def test_a_damaged_database_is_named(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.sqlite").write_text("no database " * 100)
    options = ["--model", str(model_folder), "--port", "0", "--keep", str(tmp_path / "bad.sqlite")]
    outcome = CliRunner().invoke(app, ["serve", *options])
    assert outcome.exit_code == 1
    assert "bad.sqlite cannot be used" in outcome.output


def test_a_database_of_another_server_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="needs file locks")
    from facecrafter.studio.store import reserved

    options = ["--model", "no/such/model", "--port", "0", "--keep", str(tmp_path / "studio.sqlite")]
    with reserved(tmp_path / "studio.sqlite"):
        outcome = CliRunner().invoke(app, ["serve", *options])
    assert outcome.exit_code == 1
    assert "give this one its own with --keep FILE" in outcome.output
