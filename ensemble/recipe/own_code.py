"""Code and weights that a recipe names: found, read and hashed. Nothing of it is run here.

The module is a .py file beside the recipe, or an installed package. docs/models.md says who may have it run, and what
of it belongs to a run's identity. `own_import` imports it, in a worker.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ensemble.core.complaints import Complaint, Place, closest, raise_together
from ensemble.core.files import canonical_json, save_bytes, sha256_file, sha256_text
from ensemble.core.schema import CODE_NAME
from ensemble.errors import InputError
from ensemble.recipe.find import shipped_folder, shown_path
from ensemble.recipe.load import ResolvedRecipe


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
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop(0)
        path = folder / f"{name}.py"
        if path.name in sources or not os.path.isfile(path):
            continue
        sources[path.name] = sha256_file(path)
        waiting += _imports(parse_source(path))
    return sources


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


def _same_file(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and os.path.samefile(path, other)


CODE_FOLDER = "code"  # in a run's folder: a moved run still predicts
"""Where a run's folder keeps the files of its own code."""

_MAY_NAME_CODE = (("model", "name"), ("loss", "name"), ("loss", "plus"), ("metric",))
"""The keys of a recipe where `module:function` may stand, as a value or as a key below."""


@dataclass(frozen=True)
class OwnCode:
    """One `module:function` as it was found: in `folder`, or with `folder` None in an installed package."""

    name: str
    folder: Path | None
    files: tuple[tuple[str, str], ...]
    """The module's file, then the files beside it that it imports, each with its hash; empty for a package."""
    sha256: str
    is_own: bool
    """Whether the recipe and the file lie in the working directory."""
    place: Place
    """Where the recipe says it."""

    def plain(self, folder: Path | None = None) -> dict[str, Any]:
        """What a worker needs to import it, as JSON types; from `folder`, where a copy lies there."""
        where = None if self.folder is None else str(folder or self.folder)
        return {"folder": where, "files": dict(self.files), "sha256": self.sha256}


def is_code_name(value: Any) -> bool:
    """Whether a recipe's word is `module:function`; `hf-hub:timm/resnet50` is not."""
    return isinstance(value, str) and re.fullmatch(CODE_NAME, value) is not None


def find_code(resolved: ResolvedRecipe) -> tuple[OwnCode, ...]:
    """All code that a recipe names, by name; what is missing or can't be read is raised together, with its place."""
    complaints: list[Complaint] = []
    by_name: dict[str, OwnCode] = {}
    plain = resolved.recipe.plain()
    for key in _MAY_NAME_CODE:
        for name in _names_in(plain, key):
            code = _find(name, resolved, _place(resolved, ".".join(key), name), complaints)
            if code is not None:
                by_name.setdefault(name, code)
    _refuse_namesakes(list(by_name.values()), complaints)
    raise_together(complaints)
    return tuple(by_name[name] for name in sorted(by_name))


def require_allowed(codes: Sequence[OwnCode], allow_code: bool) -> None:
    """Refuse code that is not the user's own, unless it was allowed."""
    if allow_code:
        return
    raise_together(
        Complaint(
            code.place,
            f"{code.name} would run code of {code.folder or 'an installed package'} for a recipe that is not in the "
            "working directory; read it, then pass --allow-code, or copy recipe and code to recipes/",
        )
        for code in codes
        if not code.is_own
    )


def save_code(run: Path, codes: Sequence[OwnCode]) -> None:
    """Copy the files into a run's folder, so that the run can predict wherever it is moved."""
    for code in codes:
        for name, sha256 in code.files:
            target = run / CODE_FOLDER / name
            if code.folder is None or (target.exists() and sha256_file(target) == sha256):
                continue
            content = (code.folder / name).read_bytes()
            save_bytes(target, content)
            if sha256_file(target) != sha256:
                raise InputError(f"{code.folder / name}: changed while the run was being prepared; start it again")


def check_code_of_run(run: Path, codes: Mapping[str, Mapping[str, Any]], recipes: Path, *, allow_code: bool) -> None:
    """Refuse to run a run folder's code that is not the user's own, or not what the run was trained with.

    `codes` is what `model.json` says: name to hashes. Code counts as the user's own where a file of the same bytes
    lies in the folder `recipes`: running it is then no more than training would do.
    """
    faults = []
    for name, code in codes.items():
        for file, sha256 in code["files"].items():
            copy = run / CODE_FOLDER / file
            if not copy.is_file() or sha256_file(copy) != sha256:
                faults.append(f"{copy}: is not the code that the run was trained with")
            elif not allow_code and not (os.path.isfile(recipes / file) and sha256_file(recipes / file) == sha256):
                faults.append(
                    f"{copy}: {name} of this run is code that {shown_path(recipes, Path())} does not hold; "
                    "read it, then pass --allow-code"
                )
    if faults:
        raise InputError(*faults)


def _names_in(plain: Any, key: tuple[str, ...]) -> Iterator[str]:
    """Every `module:function` at or below a key, a key itself included: `loss.plus` has them there."""
    for part in key:
        plain = plain[part]
    waiting = [plain]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif is_code_name(value):
            yield value


def _place(resolved: ResolvedRecipe, key: str, name: str) -> Place:
    """Where the recipe says a name: the nearest key whose origin is known."""
    keys = [known for known in resolved.origins if known == key or known.startswith(f"{key}.")]
    value: Any = resolved.recipe.plain()
    for known in keys:
        inner = value
        for part in known.split("."):
            inner = inner[part]
        if inner == name:
            return Place(f"{resolved.origins[known]}")
    return Place(resolved.origins[keys[0]] if keys else resolved.path.name)


def _find(name: str, resolved: ResolvedRecipe, place: Place, complaints: list[Complaint]) -> OwnCode | None:
    module, _, function = name.partition(":")
    folders = list(dict.fromkeys([*(path.parent for path in resolved.files), resolved.folder / "recipes"]))
    folder = next((place for place in folders if os.path.isfile(place / f"{module}.py")), None)
    if folder is not None:
        return _beside(name, folder, resolved, place, complaints)
    installed = installed_source(module)
    if installed is None:
        complaints.append(Complaint(place, _not_found(module, folders, resolved.folder)))
        return None
    fault = _no_such_function(installed.path, function, installed.path.name, is_package=True)
    if fault:
        complaints.append(Complaint(place, fault))
    is_own = all(_is_own(path, resolved.folder) for path in resolved.files)
    return OwnCode(name, None, (), installed.sha256, is_own, place)


def _beside(
    name: str, folder: Path, resolved: ResolvedRecipe, place: Place, complaints: list[Complaint]
) -> OwnCode | None:
    """The code in a file beside the recipe, and what else beside it that file imports."""
    module, _, function = name.partition(":")
    shown = shown_path(folder / f"{module}.py", resolved.folder)
    if shadows_installed(module, folder):
        text = f"{shown} has the name of an installed package; rename one, so that it is clear which is meant"
        complaints.append(Complaint(place, text))
        return None
    try:
        fault = _no_such_function(folder / f"{module}.py", function, shown)
        files = imported_files(folder, module)
    except SyntaxError as error:
        source = shown_path(Path(error.filename or shown), resolved.folder)
        complaints.append(Complaint(Place(source, error.lineno or 0), f"is no Python: {error.msg}"))
        return None
    if fault:
        complaints.append(Complaint(place, fault))
    is_own = all(_is_own(path, resolved.folder) for path in [*resolved.files, folder / f"{module}.py"])
    return OwnCode(name, folder.absolute(), tuple(files.items()), sha256_text(canonical_json(files)), is_own, place)


def _no_such_function(path: Path, function: str, shown: str, *, is_package: bool = False) -> str:
    """What to say when a file does not define a function; empty when it does, or when reading can't tell."""
    try:
        defined = names_defined(parse_source(path))
    except (SyntaxError, ValueError):
        if is_package:
            return ""  # compiled, or written in another way
        raise
    if function in defined.names or not defined.is_all:
        return ""
    near = closest(function, defined.functions)
    known = ", ".join(defined.functions[:8]) + (", …" if len(defined.functions) > 8 else "")
    return f"{shown} has no function {function}; " + (f"did you mean {near}?" if near else f"it has {known or 'none'}")


def _not_found(module: str, folders: Sequence[Path], working: Path) -> str:
    """There is no such module: which there are, and where was looked."""
    present = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.py")})
    near = closest(module, present)
    looked_in = ", ".join(dict.fromkeys(shown_path(folder, working) for folder in folders))
    beside = f"the .py files there are: {', '.join(present[:8])}" if present else "there is no .py file"
    meant = f"; did you mean {near}?" if near else ""
    return (
        f"there is no {module}.py beside the recipe ({looked_in}), and no installed package {module}{meant}; {beside}"
    )


def _refuse_namesakes(codes: Sequence[OwnCode], complaints: list[Complaint]) -> None:
    """Two files of one name can't both be copied into the run's folder, nor both be imported."""
    seen: dict[str, tuple[str, OwnCode]] = {}
    for code in codes:
        for file, sha256 in code.files:
            before = seen.setdefault(file, (sha256, code))
            if before[0] != sha256:
                text = f"{code.name} and {before[1].name} come from two different files {file}; rename one"
                complaints.append(Complaint(code.place, text))


def _is_own(path: Path, working: Path) -> bool:
    """Whether a file lies in the working directory, or ships with the package."""
    absolute = Path(os.path.abspath(path))
    return any(absolute.is_relative_to(os.path.abspath(place)) for place in (working, shipped_folder()))


def find_weights(resolved: ResolvedRecipe) -> Path | None:
    """The file, looked for beside the recipe, beside what it extends, then in the working directory; None if none."""
    pretrained = resolved.recipe.model.pretrained
    if not isinstance(pretrained, str) or pretrained == "auto":
        return None
    folders = list(dict.fromkeys([*(path.parent for path in resolved.files), resolved.folder]))
    paths = [Path(os.path.abspath(folder / os.path.expanduser(pretrained))) for folder in folders]
    weights = next((path for path in paths if path.is_file()), None)
    if weights is None:
        near = closest(paths[0].name, sorted(path.name for path in paths[0].parent.glob("*.*")))
        text = f"model.pretrained: there is no file {shown_path(paths[0], resolved.folder)}"
        raise_together(
            [Complaint(Place(resolved.origins["model.pretrained"]), text + (f"; did you mean {near}?" if near else ""))]
        )
    return weights


def check_same_weights(decided: Mapping[str, Any], weights: Path | None, where: Path) -> None:
    """Refuse to go on with a run whose file of weights is not what it started with."""
    before = decided.get("weights")
    if weights is not None and before is not None and sha256_file(weights) != before["sha256"]:
        raise InputError(
            f"{weights}: not the weights that {where} started with; "
            "give this run another --name, or pass --fresh to move the old one aside"
        )
