"""The floors of the package: imports go down only, nothing heavy is reached from upstairs, no cycles, short modules."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ensemble"

# From the roof to the cellar. Rooms of one floor do not know each other.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("screen",),
    ("reporting",),  # its pages show what the rooms below found out
    ("tuning", "review"),
    ("runs",),
    ("comparison",),
    ("engine",),
    ("training",),
    ("inference",),  # below training, which validates a fold with the very code that predicts
    ("blending",),
    ("combining",),
    ("audit",),
    ("images",),
    ("data",),
    ("recipe",),
    ("core",),
    ("errors",),
)
HEIGHT = {room: -depth for depth, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that may use less than everything below them: modules, or whole rooms, by the start of their name.
ONLY = {
    "runs": tuple(
        f"ensemble.{below}"
        for below in ("engine", "blending", "combining", "audit", "images", "data", "recipe", "core")
    ),
    "engine": (
        "ensemble.core.files",
        "ensemble.core.locks",
        "ensemble.core.machine",
        "ensemble.core.plain_file",
    ),
    "comparison": ("ensemble.blending", "ensemble.combining", "ensemble.recipe", "ensemble.core"),
    "blending": ("ensemble.combining", "ensemble.core"),
    "combining": ("ensemble.core",),
}
WORKER_ROOMS = ("training", "inference")
TORCH = ("cli", "commands", "screen", "tuning", "reporting", "runs", "engine", "blending", "data", "core", "errors")
TORCH = ("torch", "torchvision", "timm", "albumentations", "ttach", "numba")
HEAVY = (*TORCH, "pandas", "optuna", "sklearn", "scipy", "numpy", "cv2", "pydantic")
MODULE_LINES = 600  # one subject a file, no target length
WORKER_ONLY = "worker-only"  # in the docstring of a module of `images` that only a worker process imports


@dataclass(frozen=True)
class Import:
    """One import of the package by the package."""

    importer: str
    target: str
    line: int
    deferred: bool  # inside a function, or for type checkers only


def test_every_room_is_on_a_floor() -> None:
    """A new folder or module at the top of the package has its place in FLOORS."""
    unknown = {room(name) for name in modules()} - HEIGHT.keys() - {"ensemble"}
    assert not unknown, f"give {sorted(unknown)} a floor in tests/test_layers.py and docs/architecture.md"


def test_imports_go_down_only() -> None:
    """Also those inside functions; the package's own `__init__` may name anything, but only when asked for it."""
    wrong = [f"{found.importer}:{found.line} imports {found.target}" for found in imports() if not is_allowed(found)]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    """No module reaches itself, not through functions or type hints either."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        if found.importer != "ensemble" and found.target != found.importer:
            graph[found.importer].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """`ens --help` stays fast: what only a command needs is imported when that command is called."""
    assert first_heavy(["ensemble.cli"] if "ensemble.cli" in modules() else ["ensemble"], HEAVY) == {}


def test_labels_of_test_rows_are_read_by_score_alone() -> None:
    """One module reads them, and nothing that trains, chooses or blends imports it."""
    importers = {item.importer for item in imports() if item.target == "ensemble.data.answers"}
    assert importers == {"ensemble.runs.score"}
    users = {item.importer for item in imports() if item.target == "ensemble.runs.score"}
    assert users == {"ensemble", "ensemble.commands.score_command"}
    naming = {name for name in modules() if "test_label" in identifiers(name)}
    assert naming == {"ensemble.core.dataset", "ensemble.data.answers", "ensemble.runs.score"}


def test_torch_is_reached_from_workers_only() -> None:
    """Every module but those of `training` and `inference` can be imported without torch."""
    names = [name for name in modules() if room(name) not in WORKER_ROOMS and not is_worker_only(name)]
    assert first_heavy(names, TORCH) == {}


def test_every_module_says_what_it_owns_and_is_short() -> None:
    """A docstring at the top; a module that outgrows the limit lacks a noun."""
    wrong = [f"{name} has no docstring" for name in modules() if not ast.get_docstring(parse(name))]
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    wrong += [
        f"{name} has {count} lines, {MODULE_LINES} allowed" for name, count in lengths.items() if count > MODULE_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_and_no_two_classes_share_a_name() -> None:
    """A name that is searched for leads to one place."""
    files = Counter(path.name for path in modules().values() if path.name != "__init__.py")
    classes = Counter(node.name for name in modules() for node in parse(name).body if isinstance(node, ast.ClassDef))
    assert [name for name, count in (files + classes).items() if count > 1] == []


def test_no_room_is_crowded() -> None:
    """At most twenty files a folder, and at most 212 in the house, so that names alone lead to the right one."""
    rooms = Counter(path.parent.name for path in modules().values())
    assert {name: count for name, count in rooms.items() if count > 20} == {}
    assert rooms.total() <= 212


def is_allowed(found: Import) -> bool:
    """Whether the importer stands above what it imports, or beside it in the same room."""
    above, below = room(found.importer), room(found.target)
    if above == "ensemble":
        return below == "errors" or found.deferred
    if below == "ensemble":  # the lazy facade is for users
        return False
    if above == below or below == "errors":
        return True
    if above in ONLY:
        return any(found.target == start or found.target.startswith(f"{start}.") for start in ONLY[above])
    return HEIGHT.get(above, 0) > HEIGHT.get(below, 0)


def first_heavy(names: list[str], heavy: tuple[str, ...]) -> dict[str, list[str]]:
    """Import `names` in a fresh Python; the first that brings one of `heavy` along, with what it brought."""
    code = (
        "import importlib, json, sys\n"
        "names, heavy = json.loads(sys.argv[1])\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "    found = [library for library in heavy if library in sys.modules]\n"
        "    if found:\n"
        "        print(json.dumps({name: found}))\n"
        "        break\n"
        "else:\n"
        "    print('{}')\n"
    )
    command = [sys.executable, "-c", code, json.dumps([names, heavy])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


def room(name: str) -> str:
    """`ensemble.core.files` lies in `core`, `ensemble.cli_options` in `cli`, the package's `__init__` in `ensemble`."""
    parts = name.split(".")
    if len(parts) == 1:
        return parts[0]
    return "cli" if parts[1].startswith("cli_") else parts[1]


def is_worker_only(name: str) -> bool:
    """Whether a module of `images` says that only workers import it."""
    return room(name) == "images" and WORKER_ONLY in (ast.get_docstring(parse(name)) or "").lower()


@cache
def modules() -> dict[str, Path]:
    """Dotted name to file, of every module of the package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] != "recipes":  # in a wheel the recipes lie inside, and may bring code of their own
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@cache
def parse(name: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"), filename=str(modules()[name]))


def identifiers(name: str) -> set[str]:
    """Every attribute and variable that a module names."""
    nodes = list(ast.walk(parse(name)))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return own | attributes | {node.id for node in nodes if isinstance(node, ast.Name)}


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the package by itself, wherever in a module it stands."""
    return tuple(found for name in modules() for found in imports_of(name))


def imports_of(importer: str) -> Iterator[Import]:
    """The imports of one module; `from ensemble.core import files` counts as one of `ensemble.core.files`."""
    is_package = modules()[importer].name == "__init__.py"
    for node, deferred in walk(parse(importer), deferred=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = node.module or ""
            if node.level:
                parts = importer.split(".")
                anchor = parts[: len(parts) - node.level + is_package]
                base = ".".join([*anchor, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
            targets = [target if target in modules() else base for target in inner]
        for target in dict.fromkeys(targets):
            if target.split(".")[0] == "ensemble":
                yield Import(importer, target, node.lineno, deferred)


def walk(tree: ast.AST, *, deferred: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import below `tree`, and whether it waits for a call or for a type checker."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, deferred
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        later |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from walk(node, deferred=deferred or later)
