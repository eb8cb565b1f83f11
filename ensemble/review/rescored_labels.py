"""`rescore_labels`: runs and blends scored by the labels as given and as a person corrects them; nothing is trained.

Whether the order survives is what it answers: the models themselves were trained on the labels as they were. A blend
answers with what it has learned, so its own number is a little better than its honest score; both columns alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.align import align
from ensemble.combining.combine import Combined
from ensemble.core.complaints import any_of, counted
from ensemble.core.labels import Labels, labels_of_plain
from ensemble.core.metrics import decide, decide_sets, is_greater_better, metric_problem, metrics_for, shared_scorers
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.records import doubt_lines
from ensemble.data.corrections import Corrections, KnownRows, load_corrections
from ensemble.errors import InputError
from ensemble.review.out_of_fold import LabelSource, find_sources
from ensemble.review.suspicious_labels import find_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class RescoredLabels(NotebookValue):
    """Scores under given and corrected labels; `document` is what `ens labels --rescore F --json` prints."""

    document: dict[str, Any]

    @property
    def headline(self) -> str:
        """Whether the order stays."""
        order = "the same order" if self.document["same_order"] else "another order"
        return f"{counted(len(self.document['scored']), 'name')} by {self.document['metric']}: {order} when corrected"

    def table(self) -> pd.DataFrame:
        """A row for each run or blend, the best by corrected labels first."""
        import pandas as pd

        return pd.DataFrame(self.document["scored"])


@check_arguments
def rescore_labels(
    paths: Sequence[Path | str] | Path | str,
    corrections: Path | str,
    *,
    metric: str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
) -> RescoredLabels:
    """Score the out-of-fold rows of runs and blends by the given labels and by those that `corrections` makes of them.

    `corrections`: a CSV file of `id` and `label`, a class or `drop`. No run is changed.
    """
    outputs = Path(outputs)
    sources = find_sources(listed(paths), outputs)
    sets = sources[0].oofs[0].activation == "sigmoid"
    name, remarks = _metric(sources, metric, sets=sets)
    verdicts = _corrections(Path(corrections), sources, outputs, Path(folder))
    items = [_scored(source, verdicts, name, tuple(sources[0].oofs[0].classes)) for source in sources]
    _rank(items, "given", name)
    _rank(items, "corrected", name)
    items.sort(key=lambda item: item["rank_corrected"])
    ids = {row_id for source in sources for oof in source.oofs for row_id in oof.ids}
    without = [row_id for row_id in (*verdicts.labels, *verdicts.dropped) if row_id not in ids]
    if without:
        remarks.append(f"{counted(len(without), 'corrected row has', 'corrected rows have')} no out-of-fold prediction")
    if len({item["rows"] for item in items}) > 1:
        remarks.append("these are scored on different numbers of rows, so their order says little")
    doubts = {name: why for source in sources for name, why in source.doubts.items()}
    return RescoredLabels(
        {
            "metric": name,
            "greater_is_better": is_greater_better(name),
            "corrections": {"file": str(verdicts.path), "sha256": verdicts.sha256},
            "scored": items,
            "same_order": all(item["rank_given"] == item["rank_corrected"] for item in items),
            "same_best": items[0]["rank_given"] == 1,
            "unverified": list(doubts),
            "remarks": remarks + doubt_lines(doubts),
        }
    )


def _metric(sources: Sequence[LabelSource], wanted: str | None, *, sets: bool) -> tuple[str, list[str]]:
    """The metric that was asked for, else the one that all share, else accuracy."""
    known = metrics_for(sets=sets)
    if wanted is not None:
        if problem := metric_problem(wanted, sets=sets):
            raise InputError(f"--metric {problem}")
        if wanted not in known:
            raise InputError(f"--metric {wanted}: no such metric; there are {any_of(list(known))}")
        return wanted, []
    shared = {source.metric for source in sources}
    name = shared.pop() if len(shared) == 1 else "accuracy"
    if name in known:
        return name, []
    return "accuracy", [f"metric {name} is code of a recipe, which is not run here; scored by accuracy"]


def _corrections(path: Path, sources: Sequence[LabelSource], outputs: Path, folder: Path) -> Corrections:
    """The verdicts; an id that no file has may still be a training row that is never validated."""
    first = sources[0].oofs[0]
    test_ids = {row_id for source in sources for member in source.members for row_id in _test_ids(member)}
    ids = {row_id: None for source in sources for oof in source.oofs for row_id in oof.ids}
    sets = first.activation == "sigmoid"
    try:
        return load_corrections(path, KnownRows(first.classes, sets, ids, test_ids))
    except InputError:
        table, _, _ = find_table(sources, outputs, folder, lambda event: None)
        if table is None or set(table.train.ids) <= ids.keys():
            raise
        ids.update(dict.fromkeys(table.train.ids))
        return load_corrections(path, KnownRows(first.classes, sets, ids, test_ids))


def _test_ids(member: Any) -> tuple[str, ...]:
    return member.test.ids if member.test is not None and member.test.kind == "test" else ()


def _answers(source: LabelSource, classes: Sequence[str]) -> tuple[Sequence[str], Combined, Labels]:
    """Ids, probabilities with decisions, and labels, columns in the order of `classes`."""
    document, formula = source.document, source.formula
    own = tuple(classes) if document is None else tuple(document["classes"])
    aligned = align(
        source.oofs, [str(oof.path) for oof in source.oofs], kind="oof", classes=own, sort_rows=True, keep_order=True
    )
    assert aligned.labels is not None  # a file without is refused where it is loaded
    if document is None:
        combined = _decided(aligned.stack[0], sets=source.oofs[0].activation == "sigmoid")
    elif formula is None:
        raise InputError(f"{source.name}: its blend.json does not say how it answers; blend its members again")
    else:
        place = {number: index for index, number in enumerate(source.places)}
        # A member without a say is never read; any matrix may stand in its place.
        stack = [aligned.stack[place.get(number, 0)] for number in range(len(document["members"]))]
        combined = formula.answer(stack)
    return aligned.ids, combined, aligned.labels


def _decided(probs: NDArray[Any], *, sets: bool) -> Combined:
    decisions = decide_sets(probs) if sets else decide(probs)
    return Combined(np.asarray(probs), np.asarray(decisions, dtype=np.int64))


def _scored(source: LabelSource, verdicts: Corrections, metric: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """One run's or blend's scores; `classes`: in whose order the verdicts name theirs."""
    own = classes if source.document is None else tuple(source.document["classes"])
    ids, combined, labels = _answers(source, classes)
    sets = labels.ndim == 2
    position = {row_id: row for row, row_id in enumerate(ids)}
    column = [own.index(name) for name in classes]
    corrected = labels.copy()
    meant = {position[row_id]: value for row_id, value in verdicts.labels.items() if row_id in position}
    if meant:
        values = [[column[label] for label in value] if sets else column[value] for value in meant.values()]
        corrected[list(meant)] = labels_of_plain(values, len(own), sets=sets)
    kept = np.ones(len(ids))
    kept[[position[row_id] for row_id in verdicts.dropped if row_id in position]] = 0
    differs = (corrected != labels).reshape(len(ids), -1).any(axis=1)

    def score(truth: Labels, weights: NDArray[np.float64]) -> float | None:
        known = metrics_for(sets=sets)
        scorers = shared_scorers({metric: known[metric]}, truth, combined.probs, combined.decisions)
        value = float(scorers[metric](weights))
        return None if np.isnan(value) else value

    return {
        "name": source.name,
        "kind": "run" if source.document is None else "blend",
        "rows": len(ids),
        "changed": int(differs.sum()),
        "dropped": int((kept == 0).sum()),
        "given": score(labels, np.ones(len(ids))),
        "corrected": score(corrected, kept),
    }


def _rank(items: list[dict[str, Any]], key: str, metric: str) -> None:
    """Write each one's rank by one of its scores; equals share the better rank, those without a score are last."""
    sign = -1.0 if is_greater_better(metric) else 1.0
    values = [float("inf") if item[key] is None else sign * item[key] for item in items]
    for item, value in zip(items, values, strict=True):
        item[f"rank_{key}"] = 1 + sum(other < value for other in values)
