"""The parts of docs/ that come from the code: recipe keys, dataset keys, commands, public names, between two markers.

`python tools/make_docs.py` writes them; with `--check` it writes nothing, names the pages that are stale, and exits 1.
"""

from __future__ import annotations

import argparse
import ast
import collections.abc
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import ensemble
from ensemble.cli import build_parser
from ensemble.core.dataset import DatasetDescription, PartSpec
from ensemble.core.schema import allowed_text, leaf_keys, part_of
from ensemble.recipe.recipe import Recipe, SearchBudget, SearchDimension
from ensemble.recipe.transforms import PRESETS, argument_names
from ensemble.recipe.yaml import format_yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- generated -->", "<!-- end -->"
_KEY_HEADERS = ["key", "allowed", "default", "meaning"]
_SHORT = {
    " that is not empty": "",
    "a whole number": "whole number",
    "a number": "number",
    "a list": "list",
    "a mapping": "mapping",
    ", at least ": " >= ",
    " greater than ": " > ",
    " and at most ": ", <= ",
    " and less than ": ", < ",
}
"""How a table shortens what messages say of allowed values."""


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name the pages that are stale")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of pages")
    parser.add_argument("pages", nargs="*", choices=[*PAGES, []], help="these pages alone (default: all)")
    arguments = parser.parse_args()
    pages = arguments.pages or list(PAGES)
    problems = [problem for page in pages if (problem := renew(arguments.docs / page, PAGES[page], arguments.check))]
    print("\n".join(problems or [f"up to date: {', '.join(pages)}"]), file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


def renew(path: Path, make_part: Callable[[], str], only_check: bool) -> str:
    """Put the generated part into a page; gives back what is wrong, or nothing."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        return f"{path}: needs one {BEGIN} and, after it, one {END}"
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    new = f"{before}{BEGIN}\n\n{make_part()}\n\n{END}{after}"
    if new == old:
        return ""
    if only_check:
        return f"{path}: stale; python tools/make_docs.py renews it"
    path.write_text(new, encoding="utf-8")
    return ""


def recipe_part() -> str:
    """Every key of a recipe, and below it those of one dimension of `search`."""
    return "\n".join(
        [
            *_key_table(Recipe),
            "",
            "One dimension of `search` is a list of values, or a mapping with these keys:",
            "",
            *_key_table(SearchDimension),
            "",
            "`search.budget` has these keys:",
            "",
            *_key_table(SearchBudget),
        ]
    )


def dataset_part() -> str:
    """Every key of a dataset's description, and below it those of one part of a composed label.

    A key of `validation` or `test` that means what that of `train` means has no row of its own.
    """
    rows = {row[0].strip("`"): row for row in _key_rows(DatasetDescription)}
    for key, row in list(rows.items()):
        for part in ("validation", "test"):
            twin = rows.get(f"{part}.{key.removeprefix('train.')}", row)
            if twin is not row and [row[1], row[3]] == [twin[1], twin[3]]:
                row[0] += f", {twin[0]}"
                del rows[twin[0].strip("`")]
    return "\n".join(
        [
            *_table(_KEY_HEADERS, list(rows.values())),
            "",
            "A part of `train.label.parts` has these keys:",
            "",
            *_key_table(PartSpec),
        ]
    )


def augmentation_part() -> str:
    """Every preset written out, then the name of every transform; messages list the arguments of one."""
    lines: list[str] = []
    for name, transforms in PRESETS.items():
        items = [f"  - {_flow(item)}" for item in transforms]
        lines += [f"`{name}`:", "", "```yaml", "\n".join(["augment:", *items]) if items else "augment: []", "```", ""]
    names = " ".join(f"`{name}`" for name in argument_names())
    return "\n".join([*lines, "The transforms:", "", names])


def _flow(transform: Any) -> str:
    """`{Blur: {p: 1.0}}` as an item of a YAML list, on one line."""
    shown = format_yaml({"one": [transform]}).strip().removeprefix("one: [").removesuffix("]")
    return shown.removeprefix("{").removesuffix("}") if isinstance(transform, dict) else shown


def commands_part() -> str:
    """Every command: its job, its own options, one example; at the end, once, the options that commands share."""
    commands = _commands(build_parser())
    users: dict[tuple[str, str], list[str]] = {}
    for name, command in commands.items():
        for action in filter(lambda action: action.option_strings, _split_options(command)[0]):
            users.setdefault((_spelling(action), _help(action)), []).append(name)
    lines: list[str] = []
    common: list[argparse.Action] = []
    for name, command in commands.items():
        options, common = _split_options(command)
        own = [action for action in options if len(users.get((_spelling(action), _help(action)), [])) < 2]
        shared = [f"`{action.option_strings[-1]}`" for action in options if action not in own]
        lines += [f"## ens {name}", "", command.description or "", ""]
        lines += [*_option_table(own), ""] if own else []
        lines += (
            [f"And, [as in other commands](#options-of-several-commands): {' '.join(shared)}", ""] if shared else []
        )
        lines += ["```sh", (command.epilog or "").removeprefix("example:\n").strip(), "```", ""]
    rows = [[f"`{option}`", " ".join(names), meaning] for (option, meaning), names in users.items() if len(names) > 1]
    lines += ["## Options of several commands", "", *_table(["option", "commands", "meaning"], rows), ""]
    lines += ["## Options of every command", "", "They may stand before or after the verb.", "", *_option_table(common)]
    return "\n".join(lines)


def api_part() -> str:
    """Every public name: functions with their arguments, what they give back, the words of the annotations."""
    values = {name: getattr(ensemble, name) for name in ensemble.__all__ if name != "__version__"}
    functions = {name: value for name, value in values.items() if not isinstance(value, type)}
    classes = {name: value for name, value in values.items() if isinstance(value, type)}
    lines: list[str] = []
    aliases: dict[str, str] = {}
    for name, function in functions.items():
        lines += [
            f"## {name}",
            "",
            "```python",
            _signature(name, function, aliases),
            "```",
            "",
            *_doc_lines(function),
            "",
        ]
    for name, value in classes.items():
        lines += [f"## {name}", "", *_doc_lines(value), ""]
        members = list(_members(value))
        lines += [*_table(["member", "what it is"], members), ""] if members else []
    lines += [
        "## Words of the annotations",
        "",
        *_table(["word", "what it allows"], sorted(map(list, aliases.items()))),
    ]
    return "\n".join(lines)


def _signature(name: str, function: Callable[..., Any], aliases: dict[str, str]) -> str:
    """A function as it would be defined, an argument a line; words that stand for types are added to `aliases`."""
    signature = inspect.signature(function)
    lines, is_keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            lines.append("    *,")
            is_keyword = True
        default = "" if parameter.default is parameter.empty else f" = {_shown_default(parameter.default)}"
        lines.append(f"    {parameter.name}: {parameter.annotation}{default},")
        names = sys.modules[inspect.unwrap(function).__module__].__dict__
        for word in re.findall(r"\b[A-Z]\w+", str(parameter.annotation)):
            if word not in ensemble.__all__ and (meaning := _meaning(names.get(word))):
                aliases[f"`{word}`"] = meaning
    return "\n".join([f"{name}(", *lines, f") -> {signature.return_annotation}"])


def _shown_default(value: Any) -> str:
    """A default as code; a listener does nothing unless a terminal or notebook shows progress."""
    return "..." if callable(value) else repr(value)


def _meaning(alias: Any) -> str:
    """What a name that stands for a type allows; empty for a plain class."""
    if get_origin(alias) is Annotated:
        return str(get_args(alias)[1])
    if get_origin(alias) is Literal:
        return ", ".join(f"`{choice!r}`" for choice in get_args(alias))
    if get_origin(alias) is collections.abc.Callable:
        *arguments, result = [getattr(part, "__name__", str(part)) for part in _flat(get_args(alias))]
        return f"a function of ({', '.join(arguments)}) that gives {result.replace('NoneType', 'nothing')}"
    return ""


def _flat(parts: tuple[Any, ...]) -> list[Any]:
    """`Callable`'s arguments and its result in one list."""
    return [*parts[0], parts[1]]


def _doc_lines(value: Any) -> list[str]:
    return (inspect.getdoc(value) or "").splitlines()


def _members(value: type) -> Iterator[list[str]]:
    """A class's fields with the text behind each, then its properties and methods, what it inherits left out."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield [f"`{node.target.id}: {ast.unparse(node.annotation)}`", str(text)]
        elif isinstance(node, ast.FunctionDef) and node.name[0] != "_":
            is_property = any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)
            result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
            yield [f"`{node.name}{'' if is_property else '()'}{result}`", ast.get_docstring(node) or ""]


PAGES: dict[str, Callable[[], str]] = {
    "api.md": api_part,
    "recipes.md": recipe_part,
    "datasets.md": dataset_part,
    "augmentation.md": augmentation_part,
    "commands.md": commands_part,
}
"""The pages with a generated part, and what makes it."""


def _key_table(schema: type[BaseModel]) -> list[str]:
    return _table(_KEY_HEADERS, _key_rows(schema))


def _key_rows(schema: type[BaseModel]) -> list[list[str]]:
    return [
        [f"`{key}`", _allowed(field), _default(schema, key, field), field.description or ""]
        for key, field in leaf_keys(schema).items()
    ]


def _allowed(field: FieldInfo) -> str:
    """What messages say of a field's values, in the short form of a table: `number > 0, <= 1`.

    That null is allowed is left out: the default `none` says it.
    """
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        annotation = Union[tuple(member for member in get_args(annotation) if member is not NoneType)]  # noqa: UP007
    # its limits, which pydantic keeps apart
    text = allowed_text(Annotated[annotation, *field.metadata] if field.metadata else annotation)
    for words, short in _SHORT.items():
        text = text.replace(words, short)
    return text


def _default(schema: type[BaseModel], key: str, field: FieldInfo) -> str:
    """The default as a file would hold it."""
    if field.is_required():
        optional = _optional_part(schema, key)
        return f"required with `{optional}`" if optional else "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "":
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _optional_part(schema: type[BaseModel], key: str) -> str:
    """The innermost part above a key that may be left out; empty where there is none."""
    parts = key.split(".")[:-1]
    optional = ""
    for depth, name in enumerate(parts, start=1):
        field = schema.model_fields[name]
        optional = optional if field.is_required() else ".".join(parts[:depth])
        inner = part_of(field.annotation)
        if inner is None:
            break
        schema = inner
    return optional


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every command's own parser, by name."""
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def _split_options(command: argparse.ArgumentParser) -> tuple[list[argparse.Action], list[argparse.Action]]:
    """A command's own arguments, and those that every command has."""
    common = [
        action
        for group in command._action_groups
        if group.title == "options of every command"
        for action in group._group_actions
    ]
    own = [action for action in command._actions if action not in common and "--help" not in action.option_strings]
    return own, common


def _option_table(actions: list[argparse.Action]) -> list[str]:
    return _table(["option", "meaning"], [[f"`{_spelling(action)}`", _help(action)] for action in actions])


def _spelling(action: argparse.Action) -> str:
    """How an argument is written: `--method soft|hard`, `--folds 0,2`, `PROBS…`."""
    value = str(action.metavar or "") if action.nargs != 0 else ""
    if action.choices is not None:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return f"[{value}]" if action.nargs == "?" else f"{value}…" if action.nargs == "+" else value
    return " ".join([", ".join(action.option_strings), value]).strip()


def _help(action: argparse.Action) -> str:
    return f"{action.help or ''}{'; required' if action.required and action.option_strings else ''}"


def _table(headers: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [_row(headers), "|" + "---|" * len(headers), *(_row(row) for row in rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_escaped(cells)) + " |"


def _escaped(cells: list[str]) -> Iterator[str]:
    return (" ".join(cell.split()).replace("|", "\\|") for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
