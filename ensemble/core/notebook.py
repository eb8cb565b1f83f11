"""What public names share where they are used from Python: checked arguments, values that show themselves briefly.

`check_arguments` is put on every public function; `NotebookValue` is the base of what they give back. Not here:
progress (`screen/progress.py`), and what stands in each value's table.
"""

from __future__ import annotations

import functools
import html
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from ensemble.core.complaints import any_of
from ensemble.errors import InputError, of_the_disk

if TYPE_CHECKING:
    import pandas as pd

Verb = TypeVar("Verb", bound=Callable[..., Any])

_LONGEST_VALUE = 60  # characters of a value in a message: with the rest, two lines of a notebook
_LIST: Any = Sequence  # `Any`: to mypy, what `get_origin` gives is never a class like this one
MOST_ROWS = 20  # of a table in a notebook; more push the next cell off the screen
_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("True or False", "True or False each"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
}
"""How messages call a type: one value, several."""


def check_arguments(verb: Verb) -> Verb:
    """`verb`, whose arguments of wrong types are answered together, as one `InputError`, before it is called; a disk
    that is full, or a place that can't be written, is an `EnsError` too.

    What is allowed is read from its annotations, where `Annotated[..., "words"]` gives the message's words. One text or
    path stands for a list of one, anything that can be gone through for a list, numpy's numbers for Python's.
    """
    signature = inspect.signature(verb)
    has_outputs = "outputs" in signature.parameters

    @functools.wraps(verb)
    def call(*args: Any, **keywords: Any) -> Any:
        given = signature.bind(*args, **keywords)  # an unknown name stays what it is in Python, a TypeError
        allowed, problems = _hints(verb), []
        for name, value in given.arguments.items():
            if isinstance(value, Iterator):  # a generator can be gone through once, but may be tried several times
                value = list(value)
            if isinstance(value, str) and _is_closed_list(allowed[name]):
                continue  # an unknown word is refused by the verb, together with what else is wrong with its options
            try:
                given.arguments[name] = _fitted(value, allowed[name])
            except _MisfitError:
                must_be = _phrase(allowed[name])
                problems.append(f"{verb.__name__}: {name} is {_shown(value)}, but must be {must_be}")
        if problems:
            raise InputError(*problems)
        try:
            return verb(*given.args, **given.kwargs)
        except OSError as error:
            outputs = given.arguments.get("outputs", signature.parameters["outputs"].default if has_outputs else ".")
            of_disk = of_the_disk(error, outputs)
            if of_disk is None:
                raise
            raise of_disk from error

    return cast(Verb, call)


class NotebookValue:
    """A value that shows itself in one line, and in a notebook with its table."""

    @property
    def headline(self) -> str:
        """The line that says what this is."""
        raise NotImplementedError

    def table(self) -> pd.DataFrame:
        """What it holds, as a pandas table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.headline}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the line, and the first rows of the table."""
        table = self.table()
        return html_of(self.headline, table, len(table))


def html_of(headline: str, table: pd.DataFrame, rows: int) -> str:
    """A line and the first rows of a table that has `rows` of them."""
    shown = table.head(MOST_ROWS)
    more = f"<p>… and {rows - len(shown):,} more rows</p>" if rows > len(shown) else ""
    return f"<p>{html.escape(headline)}</p>{shown.to_html(float_format='{:.4f}'.format, na_rep='')}{more}"


def listed(values: Path | str | Iterable[Path | str]) -> list[Path | str]:
    """One text or path as a list of one: a text would else be gone through by its letters."""
    return [values] if isinstance(values, str | os.PathLike) else list(values)


class _MisfitError(Exception):
    """A value is not of the type that is allowed."""


@functools.cache
def _hints(verb: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, as types; evaluated when it is first called, since that takes a millisecond."""
    return typing.get_type_hints(verb, include_extras=True)


def _is_closed_list(allowed: Any) -> bool:
    """Whether nothing but certain words is allowed, or nothing at all."""
    members = get_args(allowed) if get_origin(allowed) in (Union, types.UnionType) else (allowed,)
    return all(get_origin(member) is Literal or member is types.NoneType for member in members)


def _fitted(value: Any, allowed: Any) -> Any:
    """The value as the function takes it; `_MisfitError` where it is none that is allowed."""
    kind = get_origin(allowed)
    if kind is Annotated:
        return _fitted(value, get_args(allowed)[0])
    if allowed is Any:
        return value
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, pandas' columns
        value = value.tolist()
    if kind in (Union, types.UnionType):
        return _fitted_one_of(value, get_args(allowed))
    if kind is Literal and any(value == choice and type(value) is type(choice) for choice in get_args(allowed)):
        return value
    if kind is _LIST:
        return _fitted_list(value, get_args(allowed)[0])
    if kind is Mapping and isinstance(value, Mapping):
        of_keys, of_values = get_args(allowed)
        return {_fitted(key, of_keys): _fitted(item, of_values) for key, item in value.items()}
    if kind is Callable and callable(value):
        return value
    if kind is None:
        return _fitted_plain(value, allowed)
    raise _MisfitError


def _fitted_one_of(value: Any, members: Sequence[Any]) -> Any:
    """The value as the first member takes it; lists last, since a text that is allowed as itself is no list of one."""
    for member in sorted(members, key=lambda member: get_origin(member) is _LIST):
        try:
            return _fitted(value, member)
        except _MisfitError:
            continue
    raise _MisfitError


def _fitted_list(value: Any, item: Any) -> tuple[Any, ...]:
    """A tuple of what a list, a set, a view of keys and so on holds."""
    if isinstance(value, str | os.PathLike):
        return (_fitted(value, item),)
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise _MisfitError
    return tuple(_fitted(part, item) for part in value)


def _fitted_plain(value: Any, allowed: type) -> Any:
    """A value of a class, of numbers the plain Python ones: they are written to JSON later."""
    if allowed is Path and isinstance(value, os.PathLike):
        return Path(value)
    if allowed in (int, float) and isinstance(value, bool):  # True is a 1 to Python, not to a person
        raise _MisfitError
    if allowed is int and isinstance(value, Integral):
        return int(value)
    if allowed is float and isinstance(value, Real):
        return value if isinstance(value, int) else float(value)
    if isinstance(value, allowed):
        return value
    raise _MisfitError


def _phrase(allowed: Any, *, several: bool = False) -> str:
    """What is allowed, in words."""
    kind = get_origin(allowed)
    if kind is Annotated:
        words = next((word for word in get_args(allowed)[1:] if isinstance(word, str)), None)
        return words or _phrase(get_args(allowed)[0], several=several)
    if kind in (Union, types.UnionType):
        # What stands for "left out" is no news to who gave something; a path may always be text.
        silent = (types.NoneType, str) if Path in get_args(allowed) else (types.NoneType,)
        return any_of([_phrase(member, several=several) for member in get_args(allowed) if member not in silent])
    if kind is Literal:
        return any_of([repr(choice) for choice in get_args(allowed)])
    if kind is _LIST:
        return f"a list of {_phrase(get_args(allowed)[0], several=True)}"
    if kind is Mapping:
        return "mappings" if several else "a mapping"
    if kind is Callable:
        return "functions" if several else "a function"
    name = getattr(allowed, "__name__", str(allowed))
    return _WORDS.get(allowed, (f"a {name}", f"{name}s"))[several]


def _shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
