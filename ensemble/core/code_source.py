"""Python files read as text: what they define, what beside them they import, their hashes. Nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

from ensemble.core.files import canonical_json, sha256_file, sha256_text

__all__ = [
    "Defined",
    "InstalledSource",
    "imported_files",
    "installed_source",
    "names_defined",
    "parse_source",
    "shadows_installed",
]


@dataclass(frozen=True)
class Defined:
    """What a module has at its top level; `is_all` False: there may be more, made in a way that reading can't see."""

    names: frozenset[str]
    functions: tuple[str, ...]
    """Functions and classes that don't begin with an underscore, in their order."""
    is_all: bool


@dataclass(frozen=True)
class InstalledSource:
    """A module of an installed package: its file, and the hash of that file and the package's version."""

    path: Path
    sha256: str


def parse_source(path: Path) -> ast.Module:
    """The syntax tree of a file; `SyntaxError` names the file as `path`."""
    return ast.parse(path.read_bytes(), filename=str(path))


def names_defined(tree: ast.Module) -> Defined:
    """The top-level names of a module, those within `if` and `try` too."""
    names: list[str] = []
    functions: list[str] = []
    is_all = True
    for node in _statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
            functions.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
    if "*" in names or "__getattr__" in names:
        is_all = False
    public = tuple(dict.fromkeys(name for name in functions if not name.startswith("_")))
    return Defined(frozenset(names), public, is_all)


def imported_files(folder: Path, module: str) -> dict[str, str]:
    """The file of `module` and all files of `folder` that it imports, over any number of steps: name to hash."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop(0)
        path = folder / f"{name}.py"
        if path.name in found or not os.path.isfile(path):
            continue
        found[path.name] = sha256_file(path)
        waiting += _imports(parse_source(path))
    return found


def installed_source(module: str) -> InstalledSource | None:
    """Where an installed module's file lies, found without running the packages above it; None if there is none."""
    parts = module.split(".")
    spec = _top_level(parts[0])
    path = _file_of(spec, parts[1:])
    if path is None:
        return None
    about = {"file": sha256_file(path), "version": _version(parts[0])}
    return InstalledSource(path, sha256_text(canonical_json(about)))


def shadows_installed(module: str, folder: Path) -> bool:
    """Whether a file's name is also that of a module which Python would find elsewhere."""
    if module in sys.stdlib_module_names:
        return True
    spec = _top_level(module)
    return spec is not None and (spec.origin is None or not _same_file(Path(spec.origin), folder / f"{module}.py"))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a module and of its `if`, `try` and `with` blocks, but not of its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _statements(child)


def _imports(tree: ast.Module) -> list[str]:
    """The first word of every module imported, wherever in the file."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module.split(".")[0])
    return names


def _top_level(name: str) -> ModuleSpec | None:
    """Where Python would find a top-level module. One that was imported from beside a recipe does not count."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__spec__", None) is None:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is not None and getattr(spec.loader, "is_beside_a_recipe", False) else spec


def _file_of(spec: ModuleSpec | None, rest: list[str]) -> Path | None:
    """The file of a submodule, by walking folders rather than importing what lies above it."""
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and os.path.isfile(spec.origin) else None
    for root in spec.submodule_search_locations or ():
        base = Path(root, *rest)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py"), *base.parent.glob(f"{base.name}.*.so")):
            if os.path.isfile(path):
                return path
    return None


def _version(package: str) -> str | None:
    """The version of the distribution that brings a top-level module; None where it has none."""
    owners = metadata.packages_distributions().get(package, [])
    return metadata.version(owners[0]) if owners else None


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and os.path.samefile(one, other)
