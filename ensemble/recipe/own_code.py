"""Code and weights that a recipe names: found, read and hashed. None of it is run here.

The module is a .py file beside the recipe, or an installed package. docs/models.md says whose code may run, and what
of it belongs to a run's identity. `own_import` imports it, in a worker.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ensemble.core.complaints import Complaint, FaultyInput, Place, closest, raise_together
from ensemble.core.files import canonical_json, save_bytes, sha256_file, sha256_text
from ensemble.core.schema import CODE_NAME
from ensemble.errors import InputError
from ensemble.recipe.find import shipped_folder, shown_path
from ensemble.recipe.load import ResolvedRecipe

CODE_FOLDER = "code"  # copied, so that a run still predicts when it is moved or its code edited
"""Where a run's folder keeps the files of its own code."""
ALLOWED_CODE = "ENS_ALLOWED_CODE"
"""The user's list of installed code that runs and packs may name, with commas: packages, modules, `module:function`."""
_MAY_NAME_CODE = (("model", "name"), ("loss", "name"), ("loss", "plus"), ("metric",))
"""The keys of a recipe where `module:function` may stand, as a value or as a key below."""
_RECORDS = ("run.json", "study.json", "blend.json")  # a folder with one of them is a run's, a study's or a blend's
_CONSENT = f"read it, then pass --allow-code, or put its package in {ALLOWED_CODE}"


@dataclass(frozen=True)
class OwnCode:
    """One `module:function`: in `folder`, or with `folder` None in an installed package."""

    name: str
    folder: Path | None
    files: tuple[tuple[str, str], ...]
    """The module's file, then the files beside it that it imports, each with its hash; empty for a package."""
    sha256: str
    refusal: str
    """Why it does not run unasked; empty where the user's own recipe names it, and its file is the user's."""
    place: Place
    """Where the recipe names it."""

    @property
    def is_own(self) -> bool:
        """Whether it runs unasked."""
        return not self.refusal

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
    # Two files of one name can't both be copied into the run's folder, nor both be imported.
    first: dict[str, tuple[str, OwnCode]] = {}
    for code in by_name.values():
        for file, sha256 in code.files:
            first_sha256, other = first.setdefault(file, (sha256, code))
            if first_sha256 != sha256:
                text = f"{code.name} and {other.name} come from two different files {file}; rename one"
                complaints.append(Complaint(code.place, text))
    raise_together(complaints)
    return tuple(by_name[name] for name in sorted(by_name))


def require_allowed(codes: Sequence[OwnCode], allow_code: bool) -> None:
    """Refuse code that is not the user's own, unless it was allowed."""
    if not allow_code:
        raise_together(Complaint(code.place, code.refusal) for code in codes if code.refusal)


def save_code(run: Path, codes: Sequence[OwnCode]) -> None:
    """Copy the files into a run's folder, so that the run can predict wherever it is moved."""
    for code in codes:
        for name, sha256 in code.files:
            target = run / CODE_FOLDER / name
            if code.folder is None or (target.exists() and sha256_file(target) == sha256):
                continue
            save_bytes(target, (code.folder / name).read_bytes())
            if sha256_file(target) != sha256:  # the identity holds the hash of what was read before
                raise InputError(f"{code.folder / name}: changed while the run was being prepared; start it again")


def check_code_of_run(
    run: Path, codes: Mapping[str, Mapping[str, Any]], recipes: Path, *, allow_code: bool
) -> dict[str, dict[str, Any]]:
    """What a worker needs to import the code of a run's folder; refused if it is neither the user's own nor allowed.

    `codes` is what a `model.json` says, which may be anybody's: name to hashes. A function counts as the user's own
    where files of the same bytes lie in the folder `recipes`, and define it. One of an installed package, which the run
    may call with any arguments, has to be on the user's list.
    """
    faults: list[str] = []
    for name, code in codes.items():
        if not is_code_name(name):
            faults.append(f"{run}: {name!r} is no module:function")
        elif code["files"]:
            faults += _faults_of_copies(run, name, code["files"], recipes, allow_code=allow_code)
        elif not (allow_code or is_listed(name)):
            faults.append(f"{run}: {name} of an installed package would be run for this run; {_CONSENT}")
    if faults:
        raise InputError(*faults)
    copies = str((run / CODE_FOLDER).absolute())
    return {name: {**code, "folder": copies if code["files"] else None} for name, code in codes.items()}


def _faults_of_copies(
    run: Path, name: str, files: Mapping[str, str], recipes: Path, *, allow_code: bool
) -> Iterator[str]:
    """What keeps a run's copies of one function's files from being run."""
    module, _, function = name.partition(":")
    if outside := [file for file in files if not is_plain_file(file)]:
        yield f"{run / CODE_FOLDER}: {outside[0]}: leads out of the run's folder; don't use this run"
        return
    if f"{module}.py" not in files:  # else an installed module of this name would be imported
        yield f"{run}: {name} is not in the files that it is said to be in: {', '.join(files)}; don't use this run"
        return
    # a working directory that is, or lies in, somebody's run has no recipes of the user's own
    is_users = not _is_in_run(recipes, recipes.parent) and not recipes.resolve().is_relative_to(run.resolve())
    for file, sha256 in files.items():
        copy, own = run / CODE_FOLDER / file, recipes / file
        if not copy.is_file() or sha256_file(copy) != sha256:
            yield f"{copy}: is not the code that the run was trained with"
        elif not copy.resolve().is_relative_to(run.resolve()):
            yield f"{copy}: leads out of the run's folder, to {copy.resolve()}; don't use this run"
        elif not allow_code and not (is_users and os.path.isfile(own) and sha256_file(own) == sha256):
            where = shown_path(recipes, Path())
            yield f"{copy}: {name} of this run is code that is not in {where}; read it, then pass --allow-code"
        elif not allow_code and file == f"{module}.py" and not _defines(own, function):
            yield f"{own}: does not define {function}, which this run names; read both, then pass --allow-code"


def is_plain_file(file: str) -> bool:
    """Whether this is the bare name of a module's file: the files of own code lie in one folder."""
    return re.fullmatch(r"[^\W\d]\w*\.py", file) is not None


def is_listed(name: str) -> bool:
    """Whether the user's list names this code of an installed package: its package, its module, or itself."""
    listed = {entry.strip() for entry in os.environ.get(ALLOWED_CODE, "").split(",")}
    parts = name.partition(":")[0].split(".")
    return name in listed or any(".".join(parts[:count]) in listed for count in range(1, len(parts) + 1))


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
    """Where the recipe says a name: the nearest key whose origin is known, since origins are those of whole values."""
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
    folder = next((folder for folder in folders if os.path.isfile(folder / f"{module}.py")), None)
    if folder is not None:
        return _beside(name, folder, resolved, place, complaints)
    installed = installed_source(module)
    if installed is None:
        present = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.py")})
        near = closest(module, present)
        looked_in = ", ".join(dict.fromkeys(shown_path(folder, resolved.folder) for folder in folders))
        text = f"there is no {module}.py beside the recipe ({looked_in}), and no installed package {module}"
        text += f"; did you mean {near}?; " if near else "; "
        text += f"the .py files there are: {', '.join(present[:8])}" if present else "there is no .py file"
        complaints.append(Complaint(place, text))
        return None
    path, sha256 = installed
    try:
        if fault := _no_such_function(path, function, path.name):
            complaints.append(Complaint(place, fault))
    except (SyntaxError, ValueError):
        pass  # compiled, or written for another Python: the import in the worker will tell
    return OwnCode(name, None, (), sha256, _refusal(name, None, resolved), place)


def _beside(
    name: str, folder: Path, resolved: ResolvedRecipe, place: Place, complaints: list[Complaint]
) -> OwnCode | None:
    """The code in a file beside the recipe, and what else beside it that file imports."""
    module, _, function = name.partition(":")
    path = folder / f"{module}.py"
    shown = shown_path(path, resolved.folder)
    if _shadows_installed(module, path):
        text = f"{shown} has the name of an installed package; rename one, so that it is clear which is meant"
        complaints.append(Complaint(place, text))
        return None
    try:
        if fault := _no_such_function(path, function, shown):
            complaints.append(Complaint(place, fault))
        files = _imported_files(path)
    except SyntaxError as error:  # perhaps of a file that this one imports
        source = shown_path(Path(error.filename or shown), resolved.folder)
        complaints.append(Complaint(Place(source, error.lineno or 0), f"is not valid Python: {error.msg}"))
        return None
    sha256 = sha256_text(canonical_json(files))
    return OwnCode(name, folder.absolute(), tuple(files.items()), sha256, _refusal(name, path, resolved), place)


def _refusal(name: str, path: Path | None, resolved: ResolvedRecipe) -> str:
    """Why code does not run unasked; empty where it does. `path`: its file, None where its package is installed.

    Who names it decides. The user does by a recipe of the working directory, or by one that ships, and by what is
    typed. A recipe in the folder of a run or study, and what a run's record says was asked, is the word of whoever made
    that run: it may name functions that the user's own files define, and installed packages on the user's list.
    """
    if path is None and is_listed(name):
        return ""
    working, recorded = resolved.folder, resolved.recorded
    recipes = (working / "recipes", shipped_folder())
    places = (working, shipped_folder()) if recorded is None else recipes  # a record may point anywhere else

    def is_users(file: Path, places: Sequence[Path]) -> bool:
        return _is_below(file, places) and not _is_in_run(file, working)

    if all(is_users(file, places) for file in resolved.files) and (recorded is None or not recorded.sets):
        if path is None or is_users(path, places):
            return ""
    elif recorded is None and not all(_is_below(file, places) for file in resolved.files):
        source = path.parent if path is not None else "an installed package"
        return (
            f"{name} would run code of {source} for a recipe that is not in the working directory; "
            "read it, then pass --allow-code, or copy recipe and code to recipes/"
        )
    elif path is not None and is_users(path, recipes) and _defines(path, name.partition(":")[2]):
        return ""
    namer = f"the record of {recorded.run}" if recorded is not None else shown_path(resolved.path, working)
    if path is None:
        return f"{name} of an installed package is named by {namer}, not by a recipe of yours; {_CONSENT}"
    shown = shown_path(path, working)
    return f"{name} would run {shown} for {namer}; read it, then pass --allow-code, or name the recipe with --recipe"


def _defines(path: Path, function: str) -> bool:
    """Whether a file itself defines a function: one that it imports may do more than its author had in mind."""
    try:
        statements = list(_statements(ast.parse(path.read_bytes(), filename=str(path))))
    except (SyntaxError, ValueError):
        return False
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, definitions) and node.name == function for node in statements)


def _no_such_function(path: Path, function: str, shown: str) -> str:
    """What to say when a file does not define a function; empty when it does, or when reading can't tell."""
    names: set[str] = set()
    functions: list[str] = []
    for node in _statements(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            functions.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
    names |= set(functions)
    if function in names or names & {"*", "__getattr__"}:  # with these there may be more than reading can see
        return ""
    public = [name for name in dict.fromkeys(functions) if not name.startswith("_")]
    near = closest(function, public)
    known = ", ".join(public[:8]) + (", …" if len(public) > 8 else "")
    return f"{shown} has no function {function}; " + (f"did you mean {near}?" if near else f"it has {known or 'none'}")


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a module and of its `if`, `try` and `with` blocks, but not of its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _statements(child)


def _imported_files(path: Path) -> dict[str, str]:
    """A file and all files beside it that it imports, directly or not: name to hash."""
    files: dict[str, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop(0)
        if path.name in files or not os.path.isfile(path):
            continue
        files[path.name] = sha256_file(path)
        # Wherever in the file: a function may import when it is called, in a worker.
        for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
            if isinstance(node, ast.Import):
                waiting += [path.with_name(f"{alias.name.split('.')[0]}.py") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                waiting.append(path.with_name(f"{node.module.split('.')[0]}.py"))
    return files


def installed_source(module: str) -> tuple[Path, str] | None:
    """An installed module's file, and the hash of it and of its package's version; None where there is none."""
    package, *rest = module.split(".")
    path = _file_of(_top_level(package), rest)
    if path is None:
        return None
    # The version too, since the function may call the rest of the package, of which not all is hashed.
    owners = metadata.packages_distributions().get(package, [])
    about = {"file": sha256_file(path), "version": metadata.version(owners[0]) if owners else None}
    return path, sha256_text(canonical_json(about))


def _shadows_installed(module: str, path: Path) -> bool:
    """Whether a file's name is also that of a module which Python would find elsewhere."""
    if module in sys.stdlib_module_names:
        return True
    spec = _top_level(module)
    if spec is None or spec.origin is None:
        return spec is not None  # a folder without an __init__, which has no origin
    # a Python that was started beside the recipe finds this very file
    return not (os.path.exists(spec.origin) and os.path.samefile(spec.origin, path))


def _top_level(name: str) -> ModuleSpec | None:
    """Where Python would find a top-level module. One that was imported from beside a recipe does not count."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__spec__", None) is None:  # find_spec would raise
        return None
    try:
        spec = importlib.util.find_spec(name)  # of a top-level name it runs nothing; of `a.b` it would import `a`
    except (ImportError, ValueError):
        return None
    return None if spec is not None and getattr(spec.loader, "is_beside_a_recipe", False) else spec


def _file_of(spec: ModuleSpec | None, rest: list[str]) -> Path | None:
    """The file of a submodule, by walking folders rather than importing what lies above it."""
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and os.path.isfile(spec.origin) else None
    for root in spec.submodule_search_locations or ():  # several, for a package spread over folders
        base = Path(root, *rest)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py"), *base.parent.glob(f"{base.name}.*.so")):
            if os.path.isfile(path):
                return path
    return None


def _is_below(path: Path, places: Iterable[Path]) -> bool:
    """Whether a file lies in one of the folders, as it is named: links in them are the user's own."""
    absolute = Path(os.path.abspath(path))
    return any(absolute.is_relative_to(os.path.abspath(place)) for place in places)


def _is_in_run(path: Path, working: Path) -> bool:
    """Whether a file of the working directory lies in the folder of a run, a study or a blend, or is to lie there."""
    absolute, top = Path(os.path.abspath(path)), Path(os.path.abspath(working))
    around = [folder for folder in absolute.parents if folder.is_relative_to(top)]
    return any(os.path.isfile(folder / record) for folder in around for record in _RECORDS)


def find_weights(resolved: ResolvedRecipe) -> Path | None:
    """The file, looked for beside the recipe, beside what it extends, then in the working directory; None if none."""
    pretrained = resolved.recipe.model.pretrained
    if not isinstance(pretrained, str) or pretrained == "auto":
        return None
    return _named_file(resolved, "model.pretrained", pretrained)


def find_corrections(resolved: ResolvedRecipe) -> Path | None:
    """The file that `data.corrections` names, looked for like one of weights; None if none."""
    corrections = resolved.recipe.data.corrections
    return None if corrections is None else _named_file(resolved, "data.corrections", corrections)


def _named_file(resolved: ResolvedRecipe, key: str, name: str) -> Path:
    folders = list(dict.fromkeys([*(path.parent for path in resolved.files), resolved.folder]))
    paths = [Path(os.path.abspath(folder / os.path.expanduser(name))) for folder in folders]
    file = next((path for path in paths if path.is_file()), None)
    if file is None:
        # What is typed is meant from the working directory, what a recipe says from beside it.
        wanted = paths[-1] if resolved.origins[key].startswith("--set") else paths[0]
        near = closest(wanted.name, sorted(path.name for path in wanted.parent.glob("*.*")))
        text = f"{key}: there is no file {shown_path(wanted, resolved.folder)}"
        text += f"; did you mean {near}?" if near else ""
        raise FaultyInput([Complaint(Place(resolved.origins[key]), text)])
    return file


def check_same_weights(decided: Mapping[str, Any], weights: Path | None, where: Path) -> None:
    """Refuse to go on with a run whose file of weights is not what it started with."""
    before = decided.get("weights")
    if weights is not None and before is not None and sha256_file(weights) != before["sha256"]:
        raise InputError(
            f"{weights}: not the weights that {where} started with; "
            "give this run another --name, or pass --fresh to move the old one aside"
        )
