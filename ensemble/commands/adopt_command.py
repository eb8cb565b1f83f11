"""`ens adopt`: a teammate's bare probabilities get ids, classes and hashes, after every check."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from ensemble.blending.adopt import Adopted, adopt
from ensemble.commands.outcome import Outcome, ShownTable, shown_path, shown_score


def run(arguments: Namespace) -> Outcome:
    """Adopt `arguments.files` and tell what they are now."""
    done = adopt(
        arguments.files,
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
    return Outcome({"adopted": [one.plain() for one in done]}, [_table(done), *_remarks(done)])


def _table(done: Sequence[Adopted]) -> ShownTable:
    """A line a file."""
    rows = [
        [
            str(one.path),
            one.kind,
            str(one.rows),
            str(one.classes),
            one.run,
            *([shown_score(one.scores["accuracy"])] if one.scores is not None else ["-"]),
            "adopted" if one.is_new else "was there, the same",
        ]
        for one in done
    ]
    return ShownTable(["file", "kind", "rows", "classes", "run", "accuracy", ""], rows)


def _remarks(done: Sequence[Adopted]) -> list[str]:
    """What was changed, what looks wrong, and what to do next."""
    shown = [f"{one.path}: {one.renormalized} rows were divided by their sum" for one in done if one.renormalized]
    shown += [
        f"{one.path}: its numbers were changed; the file as it was is {one.original}" for one in done if one.original
    ]
    shown += [
        f"{one.path}: accuracy {one.scores['accuracy']:.4f}, the commonest class alone makes {one.commonest:.4f}; "
        "are ids and classes in the order of its rows and columns?"
        for one in done
        if one.scores is not None and one.commonest is not None and (one.scores["accuracy"] or 0.0) < one.commonest
    ]
    if done and done[0].kind == "test":
        shown.append(
            f"next: ens blend {' '.join(shown_path(str(one.path)) for one in done[:3])}{' …' * (len(done) > 3)}"
        )
    return shown
