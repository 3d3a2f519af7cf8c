"""The commands and options that the documents name are those that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from facecrafter.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = typer.main.get_command(app)


def is_group(command: click.Command) -> bool:
    return hasattr(command, "commands")


def options(command: click.Command) -> set[str]:
    """What a command, or any command of a group, takes."""
    own = {option for given in command.params for option in (*given.opts, *given.secondary_opts)} | {"--help"}
    return own.union(*(options(one) for one in getattr(command, "commands", {}).values()))


def wrong_in(words: list[str]) -> str | None:
    """What a command line, without the program's name, has that there is not."""
    command, rest = PROGRAM, list(words)
    while is_group(command) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:  # type: ignore[attr-defined]
            return f"the command {rest[0]}"
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
    known = options(command)
    return next((word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known), None)


def lines_of(text: str) -> Iterator[list[str]]:
    """The command lines in a document as words after the program's name, from its blocks and from its back ticks; of
    the latter also those that leave the name out, and options alone."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^ {4}.*$|^```(?s:.*?)^```$", text, re.MULTILINE)
    for line in "\n".join(blocks).splitlines():
        words = re.split(r" #|[;|&]", line)[0].split()
        if (place := program(words)) is not None:
            yield words[place + 1 :]
    for span in re.findall(r"`([^`\n]+)`", text):
        words = span.split()
        if (place := program(words)) is not None:
            yield words[place + 1 :]
        elif words and (words[0].startswith("--") or (len(words) > 1 and words[0] in PROGRAM.commands)):  # type: ignore[attr-defined]
            yield words


def program(words: list[str]) -> int | None:
    """Where in a line the program is called; Python imports it."""
    if "import" in words:
        return None
    return next((place for place, word in enumerate(words) if word.rpartition("/")[2] == "facecrafter"), None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_that_a_document_names_are_there(document: Path) -> None:
    lines = list(lines_of(document.read_text(encoding="utf-8")))
    wrong = [f"{lost} in: {' '.join(words)}" for words in lines if (lost := wrong_in(words))]
    assert not wrong, "\n".join(wrong)


def test_what_no_command_has_is_found() -> None:
    text = """
    facecrafter generate --identity me.jpg --speeed exact  # --nonsense
    facecrafter data prepare photos \\
        --emonett FILE
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m facecrafter train run.yaml -n 3

```
facecrafter evaluate modell data/lfw
```
`--seed 3`, `--sed 3`, `--sweep=yaw=-30:30:7`, `data prepare --seed 3`, `generate`, `weights: FOLDER`,
`facecrafter study`, `facecrafter --help`, `facecrafter nothing`
"""
    found = [lost for words in lines_of(text) if (lost := wrong_in(words))]
    assert found == ["--speeed", "--emonett", "-n", "the command modell", "--sed", "--seed", "the command nothing"]
