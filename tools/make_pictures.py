"""The pictures of docs/, drawn from plans and blends that the package itself makes, so that they can't lie.

`python tools/make_pictures.py` writes them; with `--check` it writes nothing, names the stale ones, and exits 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.blending.selection import frontier
from ensemble.combining.crossfit import Labelled
from ensemble.commands.blend_command import draw_frontier
from ensemble.data.folds import make_plan
from ensemble.data.table import Rows, Table
from ensemble.recipe.parts import FoldsPart

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # told apart by colour-blind readers too
_NEVER = "#d0d0d0"
_CELL, _GAP = 22, 4
_STEP = _CELL + _GAP

Folds = npt.NDArray[np.int64]


def main() -> int:
    """Write the pictures, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a picture is stale")
    check = parser.parse_args().check
    stale = []
    pictures = {
        "leak.svg": _leak(),
        "schemes.svg": _schemes(),
        "duplicates.svg": _duplicates(),
        "frontier.svg": _frontier(),
    }
    for name, text in pictures.items():
        path = PICTURES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale and check:
        print(f"stale: {', '.join(stale)}; run python tools/make_pictures.py")
        return 1
    print(f"{len(stale)} pictures written" if stale else "the pictures are up to date")
    return 0


def _frontier() -> str:
    """Eight members of growing cost, most of them better the dearer they are."""
    random = np.random.default_rng(4)
    rows, costs = 3000, [1.0, 1.2, 2.0, 2.5, 4.0, 4.5, 8.0, 9.0]
    labels = random.integers(0, 6, rows)
    signal = random.normal(size=(rows, 6))
    signal[np.arange(rows), labels] += 2.2
    stack = []
    for cost in costs:
        scores = np.exp(signal + 2.2 / np.sqrt(cost) * random.normal(size=signal.shape))
        stack.append(np.round(scores / scores.sum(axis=1, keepdims=True), 9))
    labelled = Labelled(stack, labels, (np.arange(rows) % 5)[None, :], metric="accuracy")
    return draw_frontier(frontier(labelled, costs), [f"net {cost:g} s" for cost in costs], "accuracy")


def _leak() -> str:
    """Eight people of five photographs each, split by photograph and by person."""
    people, photographs = 8, 5
    labels = [person % 2 for person in range(people) for _ in range(photographs)]
    names = [f"person {person + 1}" for person in range(people) for _ in range(photographs)]
    by_image = _folds(labels, None, FoldsPart(k=4))
    by_person = _folds(labels, names, FoldsPart(k=4))
    parts = []
    for left, title, folds in ((90, "by photograph: leaks", by_image), (290, "by person: can't leak", by_person)):
        parts.append(_text(left, 24, title, bold=True))
        for row, fold in enumerate(folds[:, 0]):
            person, photograph = divmod(row, photographs)
            parts.append(_cell(left + photograph * _STEP, 40 + person * _STEP, int(fold), names[row]))
    parts += [_text(12, 56 + person * _STEP, f"person {person + 1}") for person in range(people)]
    return _svg(460, 40 + people * _STEP + 40, [*parts, *_legend(90, 40 + people * _STEP + 24, 4)])


def _schemes() -> str:
    """Sixteen rows in the schemes that differ in more than which rows: one line a repeat."""
    labels = [0, 0, 0, 1] * 4
    groups = [f"group {row // 2}" for row in range(16)]
    only = np.arange(16) >= 12
    lines = [
        ("stratified", _folds(labels, None, FoldsPart(k=4)), None),
        ("stratified-group", _folds([row // 2 % 2 for row in range(16)], groups, FoldsPart(k=4)), groups),
        ("repeats: 2", _folds(labels, None, FoldsPart(k=4, repeats=2)), None),
        ("holdout: 0.25", _folds(labels, None, FoldsPart(scheme="holdout", holdout=0.25)), None),
        ("train-only rows", _folds(labels, None, FoldsPart(k=3), only), None),
    ]
    parts, top = [], 16
    for name, folds, named in lines:
        parts.append(_text(12, top + 16, name, bold=True))
        for repeat in range(folds.shape[1]):
            for row, fold in enumerate(folds[:, repeat]):
                pair = 0 if named is None else 2 * (1 - row % 2) - 1  # rows of one group stand closer
                parts.append(_cell(150 + row * _STEP + pair, top, int(fold), f"row {row}"))
            top += _STEP
        top += 12
    return _svg(150 + 16 * _STEP + 12, top + 32, [*parts, *_legend(112, top + 16, 4, "only trained on")])


def _duplicates() -> str:
    """Six groups of two rows; a copy in each of two groups joins them."""
    clusters = np.arange(12)
    clusters[8] = 3
    labels = [row // 2 % 2 for row in range(12)]
    groups = [f"person {row // 2 + 1}" for row in range(12)]
    apart = _folds(labels, groups, FoldsPart(k=2))
    together = _folds(labels, groups, FoldsPart(k=2, keep_together="duplicates", rare="allow"), clusters=clusters)
    parts = []
    lines = ((34, "keep_together: none", apart), (116, "keep_together: duplicates", together))
    for top, name, folds in lines:
        parts.append(_text(12, top - 10, name, bold=True))
        for row, fold in enumerate(folds[:, 0]):
            parts.append(_cell(_left(row), top, int(fold), groups[row]))
        start, end, low = _left(3) + _CELL // 2, _left(8) + _CELL // 2, top + _CELL
        curve = f"M {start} {low} C {start} {low + 22}, {end} {low + 22}, {end} {low}"
        parts.append(f'<path d="{curve}" fill="none" stroke="#333333" stroke-width="1.5"/>')
        parts.append(_text(end + 12, low + 16, "the same picture"))
    return _svg(450, 208, [*parts, *_legend(12, 192, 2)])


def _left(row: int) -> int:
    """Rows of one person stand closer."""
    return 12 + row * _STEP + 12 * (row // 2)


def _folds(
    labels: Sequence[int],
    groups: Sequence[str] | None,
    wish: FoldsPart,
    train_only: npt.NDArray[np.bool_] | None = None,
    clusters: Folds | None = None,
) -> Folds:
    """(rows, repeats), in the order of the rows."""
    ids = tuple(f"{row:03d}" for row in range(len(labels)))
    table = Table(
        dataset="picture",
        classes=("a", "b"),
        train=Rows(ids, ids, Path()),
        labels=np.array(labels),
        groups=tuple(groups) if groups is not None else None,
        test=None,
        train_only=train_only,
    )
    return make_plan(table, wish, None if clusters is None else lambda: clusters).folds


def _legend(left: int, top: int, folds: int, never: str = "") -> list[str]:
    parts = []
    for fold in range(folds):
        parts += [_cell(left + 80 * fold, top - 14, fold, ""), _text(left + 80 * fold + 28, top + 2, f"fold {fold}")]
    if never:
        parts += [_cell(left + 80 * folds, top - 14, -1, ""), _text(left + 80 * folds + 28, top + 2, never)]
    return parts


def _cell(left: int, top: int, fold: int, title: str) -> str:
    """A row, in the colour of the fold that validates it; grey where none does."""
    colour = _NEVER if fold < 0 else _COLOURS[fold]
    named = f"<title>{title}: {'only trained on' if fold < 0 else f'fold {fold}'}</title>" if title else ""
    return f'<rect x="{left}" y="{top}" width="{_CELL}" height="{_CELL}" rx="3" fill="{colour}">{named}</rect>'


def _text(left: int, base: int, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{left}" y="{base}"{weight}>{text}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13" fill="#222222">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
