"""`ens adopt`: a teammate's bare probabilities get ids, classes and hashes, after every check."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from ensemble.blending.adopt import Adopted, AdoptOptions, adopt_files
from ensemble.core.complaints import counted
from ensemble.screen.outcome import Outcome, ShownTable, shown_path, shown_score


def run(arguments: Namespace) -> Outcome:
    """Adopt `arguments.files` and show what they are now."""
    options = AdoptOptions(
        ids=arguments.ids,
        classes=arguments.classes,
        kind=arguments.kind,
        labels=arguments.labels,
        folds=arguments.folds,
        run=arguments.run,
        out=arguments.out,
        renormalize=arguments.renormalize,
        multilabel=arguments.multilabel,
    )
    adopted = adopt_files(arguments.files, options)
    return Outcome({"adopted": [file.plain() for file in adopted]}, [_table(adopted), *_remarks(adopted)])


def _table(adopted: Sequence[Adopted]) -> ShownTable:
    """A line a file."""
    rows = [
        [
            str(file.path),
            file.kind,
            str(file.rows),
            str(file.classes),
            file.run,
            *([shown_score(file.scores["accuracy"])] if file.scores is not None else ["-"]),
            "adopted" if file.is_new else "was there, the same",
        ]
        for file in adopted
    ]
    return ShownTable(["file", "kind", "rows", "classes", "run", "accuracy", ""], rows)


def _remarks(adopted: Sequence[Adopted]) -> list[str]:
    """What was changed, what looks wrong, and what to do next."""
    shown = [
        f"{file.path}: {counted(file.renormalized, 'row was', 'rows were')} divided by their sum"
        for file in adopted
        if file.renormalized
    ]
    shown += [
        f"{file.path}: its numbers were changed; the file as it was is {file.original}"
        for file in adopted
        if file.original
    ]
    shown += [
        f"{file.path}: accuracy {file.scores['accuracy']:.4f}, the commonest class alone makes {file.commonest:.4f}; "
        "are ids and classes in the order of its rows and columns?"
        for file in adopted
        if file.scores is not None and file.commonest is not None and (file.scores["accuracy"] or 0.0) < file.commonest
    ]
    if adopted and adopted[0].kind == "test":
        shown.append(
            f"next: ens blend {' '.join(shown_path(str(file.path)) for file in adopted[:3])}{' …' * (len(adopted) > 3)}"
        )
    return shown
