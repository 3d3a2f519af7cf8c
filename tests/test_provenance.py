"""What a result was made with: the checkout's commit or none, and the device that computed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from facecrafter import provenance as module
from facecrafter.provenance import PACKAGE, commit, environment


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("src/facecrafter", True),
        (".venv/lib/python3.11/site-packages/facecrafter", False),
        ("vendor/src/facecrafter", False),
    ],
)
def test_the_commit_is_that_of_the_checkout_which_holds_the_package(place: str, known: bool, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "file").write_text("one")
    git("init", "--quiet")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    short = git("rev-parse", "--short", "HEAD")
    assert commit(tmp_path / place) == (short if known else "unknown")
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path / place) == (f"{short}-dirty" if known else "unknown")


def test_code_is_another_where_it_does_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "a.py"

    def digest(text: str, *parts: str) -> str:
        path.write_text(text)
        module.code.cache_clear()
        return module.code(*parts or ("one",))

    first = digest('"""Words."""\ndef f(x):\n    """More."""\n    return x + 1  # why\n')
    assert digest('"""Others."""\n\n\ndef f(x):\n    return (x + 1)\n') == first == digest(path.read_text(), "one")
    assert digest('"""Words."""\ndef f(x):\n    """More."""\n    return x + 2  # why\n') != first
    assert digest("def f(x):\n    return x + 1\n", "one/a.py") == first
    (tmp_path / "one" / "b.py").write_text("")
    assert digest("def f(x):\n    return x + 1\n") != first
    module.code.cache_clear()


@pytest.mark.parametrize("parts", [module.IMAGES, module.READINGS])
def test_the_code_that_counts_is_there(parts: tuple[str, ...]) -> None:
    assert all((PACKAGE / part).exists() for part in parts) and len(module.code(*parts)) == 64


def test_without_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"


def test_without_git_all_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(PACKAGE) == "unknown"
    told = environment()
    assert told["commit"] == "unknown" and told["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("device", "gpus", "named"),
    [
        (None, True, "GPU None"),
        (None, False, "CPU, "),
        ("cpu", True, "CPU, "),
        (torch.device("cuda", 1), True, "GPU 1"),
        ("mps", False, "mps"),
    ],
)
def test_the_device_is_the_one_that_computed(
    device: str | torch.device | None, gpus: bool, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda which: f"GPU {which.index}")
    monkeypatch.setattr(module, "commit", lambda _: "")
    assert environment(device)["device"].startswith(named)
