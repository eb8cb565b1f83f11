"""The parts of docs/ that come from the code: tables of recipe keys, dataset keys and commands, between two markers.

`python tools/make_docs.py` writes them; with `--check` it writes nothing, names the pages that are stale, and exits 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

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
    arguments = parser.parse_args()
    problems = [problem for page in PAGES if (problem := renew(arguments.docs / page, PAGES[page], arguments.check))]
    print("\n".join(problems or [f"{len(PAGES)} pages are up to date"]), file=sys.stderr if problems else sys.stdout)
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


PAGES: dict[str, Callable[[], str]] = {
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
