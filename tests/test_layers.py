"""Imports point one way: from what people meet, through what makes and measures images, down to values and files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "facecrafter"
BASE = {"errors", "config", "io", "provenance", "weights", "interruption", "pickles", "document", "__init__"}
# What training and evaluation stand on, neither of them on the other.
UPPER = {
    "baselines",
    "data",
    "pipelines",
    "sampling",
    "controls",
    "models",
    "estimators",
    "faces",
    "request",
}
# What each package may import beside itself and the base. Imports inside functions count.
ALLOWED: dict[str, set[str]] = {
    "faces": set(),
    "estimators": {"faces"},
    "models": set(),
    "controls": {"faces", "models"},
    "request": {"faces", "controls"},
    "sampling": {"controls", "models"},
    "pipelines": {"sampling", "controls", "models", "estimators", "faces", "request"},
    "data": {"controls", "estimators", "faces"},
    "baselines": {"request", "sampling", "controls", "models", "estimators", "faces"},
    "training": UPPER,
    "evaluation": UPPER,
    "bench": {"training", *UPPER},
    "web": set(),
    "studio": {"web", *UPPER},
    "study": {"evaluation", "faces", "web"},
    "datasets": {"evaluation", "request", "pipelines", "data", "models", "estimators", "faces"},
}


def package(module: str) -> str:
    """The first name below ``facecrafter``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree: ast.AST) -> Iterator[str]:
    """The project's modules that a file imports when it runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "facecrafter":
            if node.module == "facecrafter":
                yield from (f"facecrafter.{name.name}" for name in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "facecrafter")
        yield from imports(node)


def arrows() -> Iterator[tuple[str, str, str]]:
    """Every import between packages: from where, to where, and in which file."""
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE)
        own = place.parts[0].removesuffix(".py")
        for module in imports(ast.parse(path.read_text())):
            other = package(module)
            if other != own and (SOURCE / other).exists() | (SOURCE / f"{other}.py").exists():
                yield own, other, place.as_posix()


def test_imports_are_found() -> None:
    found = {(one, other) for one, other, _ in arrows()}
    assert {("evaluation", "baselines"), ("sampling", "models"), ("estimators", "faces")} <= found
    tree = ast.parse("if TYPE_CHECKING:\n    import facecrafter.a\ndef f():\n    from facecrafter.b import c\n")
    assert list(imports(tree)) == ["facecrafter.b"]


@pytest.mark.parametrize("own", [*ALLOWED, *sorted(BASE - {"__init__"})])
def test_no_import_points_upwards(own: str) -> None:
    allowed = ALLOWED.get(own, set()) | BASE
    assert not {f"{place} imports {other}" for one, other, place in arrows() if one == own and other not in allowed}


def test_the_allowed_imports_have_no_circle() -> None:
    below = {name: set(others) for name, others in ALLOWED.items()}
    while below:
        free = [name for name, others in below.items() if not others & below.keys()]
        assert free, f"a circle among {sorted(below)}"
        for name in free:
            del below[name]
