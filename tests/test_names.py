"""Names in docstrings and documents lead somewhere: modules, functions, classes, files."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"[\w./]+\.py")
ROLE = re.compile(r":(?:func|class|mod|data|meth|attr|exc|obj):`~?([\w.]+)`")


@dataclass
class Scope:
    """The names of a module or a class, and where each leads.

    Attributes:
        names: a scope for a class, a full name for what is imported, None for anything else.
        bases: of a class, as they are written.
        lines: of a class, its first and its last.
    """

    names: dict[str, Scope | str | None] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)
    lines: tuple[int, int] = (0, 0)

    def around(self, line: int) -> list[Scope]:
        """The classes that a line lies in, the innermost first, and this scope."""
        inner = (one for one in self.names.values() if isinstance(one, Scope) and one.lines[0] <= line <= one.lines[1])
        return [*(scope for one in inner for scope in one.around(line)), self]


def names_of(body: list[ast.stmt]) -> dict[str, Scope | str | None]:
    """What a module's or a class's statements define, those in branches and on ``self`` too."""
    names: dict[str, Scope | str | None] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
            names[node.name] = Scope(names_of(node.body), bases, (node.lineno, node.end_lineno or 0))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names[node.name] = None
            stored = [
                one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
            ]
            names |= {one.attr: None for one in stored if ast.unparse(one.value) == "self"}
        elif isinstance(node, ast.Import):
            names |= {name.asname or name.name.split(".")[0]: name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            names |= names_of([one for one in ast.iter_child_nodes(node) if isinstance(one, ast.stmt)])
        else:
            stores = [one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
            names |= {one.id: None for one in stores}
    return names


def modules_in(source: Path) -> dict[str, tuple[Path, Scope]]:
    """Every module below a folder by its full name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path, Scope(names_of(ast.parse(path.read_text(encoding="utf-8")).body))
    return found


MODULES = modules_in(SOURCE)


def exists(name: str) -> bool:
    """Whether a full name leads to something; of another project that project is enough."""
    if name.split(".")[0] != "facecrafter":
        return find_spec(name.split(".")[0]) is not None
    module, parts = name, []
    while module not in MODULES:
        module, _, part = module.rpartition(".")
        parts.insert(0, part)
    scope = MODULES[module][1]
    return not parts or has(scope, parts, scope)


def has(scope: Scope, parts: list[str], module: Scope) -> bool:
    """Whether a scope of a module, or a base of it, has a name, and that name the further parts."""
    first, *rest = parts
    if first in scope.names:
        found = scope.names[first]
        if isinstance(found, Scope):
            return not rest or has(found, rest, module)
        return exists(".".join([found, *rest])) if found else not rest
    return any(has(module, [*base.split("."), *parts], module) for base in scope.bases if is_own(base, module))


def is_own(base: str, module: Scope) -> bool:
    """Whether a base is this project's: of others the members are not known here."""
    found = module.names.get(base.split(".")[0], "")
    return not isinstance(found, str) or found.startswith("facecrafter.")


def broken(path: Path, scope: Scope) -> list[str]:
    """The roles in a module that lead nowhere: neither to a name of a class around them, nor of the module, nor to a
    full name."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for role in ROLE.finditer(line):
            parts = role[1].split(".")
            if not any(has(around, parts, scope) for around in scope.around(number)) and not (
                len(parts) > 1 and exists(role[1])
            ):
                found.append(f"{path.name}, line {number}: {role[0]}")
    return found


def test_roles_in_the_source_lead_somewhere() -> None:
    lost = [one for path, scope in MODULES.values() for one in broken(path, scope)]
    assert not lost, "\n".join(lost)


def test_a_role_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    good = (
        "func:`read`",
        "class:`Base`",
        "meth:`close`",
        "meth:`Own.close`",
        "attr:`size`",
        "attr:`kept`",
        "data:`MOST`",
        "meth:`Sampler.generate`",
        "mod:`facecrafter.sampling.plans`",
        "func:`facecrafter.sampling.sampler.denoise`",
        "data:`facecrafter.sampling.sampler.SCHEDULERS`",
        "func:`dataclasses.asdict`",
    )
    bad = (
        "func:`write`",
        "meth:`open`",
        "meth:`Sampler.render`",
        "mod:`facecrafter.sampling.plan`",
        "class:`Sample`",
        "func:`facecrafter.sampling.sampler.Sampler.draw`",
        "func:`nowhere.asdict`",
    )
    lines = [
        "from facecrafter.sampling.sampler import Sampler",
        "MOST = 3",
        "def read(): ...",
        "class Base:",
        "    def close(self):",
        "        self.kept = 1",
        "class Own(Base):",
        "    size: int",
        '    """',
        *(f"    :{role}" for role in good + bad),
        '    """',
        "# :meth:`close`",
    ]
    (tmp_path / "module.py").write_text("\n".join(lines))
    [(path, scope)] = modules_in(tmp_path).values()
    assert [one.rpartition(" :")[2] for one in broken(path, scope)] == [*bad, "meth:`close`"]


def spans(document: Path) -> list[str]:
    """What a document has in back ticks within a line."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", document.read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    lost = [span for span in spans(document) if FILE.fullmatch(span) and not files_of(span)]
    assert not lost, ", ".join(lost)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_that_a_document_gives_for_a_file_are_in_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`(?:: | \()`(\w+)`", text)
    lost = [f"{file}: {name}" for file, name in named if not any(name in top(path) for path in files_of(file))]
    assert not lost, ", ".join(lost)


def files_of(name: str) -> list[Path]:
    """The files that a document means by ``sampler.py``, ``sampling/sampler.py`` or ``src/facecrafter/...``."""
    return [
        path
        for folder in ("src", "tests")
        for path in (ROOT / folder).rglob(Path(name).name)
        if path.as_posix().endswith(f"/{name}")
    ]


def top(path: Path) -> dict[str, Scope | str | None]:
    """The names at the top of a file."""
    return names_of(ast.parse(path.read_text(encoding="utf-8")).body)
