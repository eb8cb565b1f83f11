"""From probability files to `outputs/blends/<name>/`: gather, judge, answer, write. Owns the folder,
`blend.json` and the tables.

says is `document`'s.

Everything is checked before anything is written. `blend.json` is written last, so a folder without it is unfinished. No
path or time goes into the files: the same members give the same bytes, in whatever order and wherever they lie.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ensemble.blending.combine import Combined
from ensemble.blending.honest import EVIDENCE, RESAMPLES, Honest
from ensemble.blending.inputs import FindDataset, Ingredients, gather
from ensemble.blending.options import Wish
from ensemble.blending.selection import Diversity, Point
from ensemble.blending.submission import (
    Difference,
    Labels,
    OldSubmission,
    Submission,
    make_submission,
    read_old,
    save_submission,
)
from ensemble.blending.verdict import Verdict, judge
from ensemble.core.dataset import SubmissionSpec
from ensemble.core.files import save_json, save_text, sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.core.predictions import Predictions, ProbabilityPaths, save_predictions
from ensemble.core.run import hash_files
from ensemble.errors import InputError

BLEND_FORMAT = 1
CARRIED = ("dataset", "dataset_sha256", "folds_sha256")


def describe(ingredients: Ingredients, wish: Wish, verdict: Verdict, name: str) -> dict[str, Any]:
    """The document, all but the hashes of the files."""
    test = ingredients.test
    return {
        "format": BLEND_FORMAT,
        "name": name,
        "method": wish.method,
        "used": verdict.used,
        "members": _members(ingredients, verdict),
        "metric": ingredients.metric,
        "honest": _honest(ingredients, verdict, verdict.honest),
        "honest_reason": verdict.honest_reason,
        "scored_rows": _scored_rows(ingredients),
        "asked": _asked(ingredients, verdict),
        "fallback": verdict.fallback,
        "forced": wish.force,
        "learned": verdict.fitted.told,
        "rows": len(test.ids),
        "classes": list(test.classes),
        **({} if test.activation == "softmax" else {"activation": test.activation}),
        "cost": _total_cost(ingredients, verdict),
        "frontier": [
            {
                "members": [ingredients.names[member] for member in point.members],
                "seconds_per_1000_images": point.cost,
                "value": point.value,
                "best": point.best,
            }
            for point in verdict.frontier
        ],
        "renormalized_rows": ingredients.renormalized_rows,
        **_carried(ingredients),
    }


def _members(ingredients: Ingredients, verdict: Verdict) -> list[dict[str, Any]]:
    return [
        {
            "run": name,
            "weight": verdict.weights[index],
            "oof_score": None if verdict.scores is None else verdict.scores[index],
            "worth": verdict.worth.get(index),
            "dropped": verdict.dropped.get(index),
            "cost": member.test.sidecar.get("cost"),
            "npy_sha256": member.test.npy_sha256,
            **({"optimistic": True} if member.test.sidecar.get("optimistic") else {}),
        }
        for index, (member, name) in enumerate(zip(ingredients.members, ingredients.names, strict=True))
    ]


def _honest(ingredients: Ingredients, verdict: Verdict, honest: Honest | None) -> dict[str, Any] | None:
    """The honest scores, and what was resampled."""
    if honest is None or ingredients.labelled is None:
        return None
    return {
        **honest.plain([ingredients.names[member] for member in verdict.kept]),
        "resamples": RESAMPLES,
        "resampled": "rows" if ingredients.labelled.groups is None else "groups",
        "evidence": EVIDENCE,
    }


def _scored_rows(ingredients: Ingredients) -> dict[str, int] | None:
    """How many out-of-fold rows were looked at, and how many there are."""
    labelled = ingredients.labelled
    return None if labelled is None else {"used": labelled.rows, "of": ingredients.oof_rows}


def _asked(ingredients: Ingredients, verdict: Verdict) -> dict[str, Any] | None:
    """The method that was asked for and is not used."""
    honest = _honest(ingredients, verdict, verdict.asked)
    return None if honest is None else {"method": verdict.asked_name, **honest}


def _total_cost(ingredients: Ingredients, verdict: Verdict) -> dict[str, float] | None:
    """What the members with a say cost together, for what every one of them tells."""
    pairs = zip(ingredients.members, verdict.weights, strict=True)
    costs = [member.test.sidecar.get("cost") or {} for member, weight in pairs if weight]
    told = [key for key in costs[0] if all(cost.get(key) is not None for cost in costs)]
    return {key: sum(cost[key] for cost in costs) for key in told} or None


def _carried(ingredients: Ingredients) -> dict[str, Any]:
    """Dataset and fold plan, as far as any member tells; they agree, or it would not have come to this."""
    told = {
        key: [one.test.sidecar[key] for one in ingredients.members if one.test.sidecar.get(key) is not None]
        for key in CARRIED
    }
    return {key: values[0] for key, values in told.items() if values}


def diversity_csv(found: Diversity, names: Sequence[str]) -> str:
    """A line a pair of members."""
    pairs = [(one, other) for one in range(len(names)) for other in range(one + 1, len(names))]
    rows = [
        [
            names[one],
            names[other],
            *(f"{matrix[one, other]:.6f}" for matrix in (found.correlation, found.disagreement, found.q_statistic)),
        ]
        for one, other in pairs
    ]
    return _csv(["member", "other", "correlation_of_errors", "disagreement", "q_statistic"], rows)


def frontier_csv(points: Sequence[Point], names: Sequence[str], metric: str) -> str:
    """A line a point, the cheapest first."""
    rows = [
        [
            f"{point.cost:.6g}",
            repr(point.value),
            "yes" if point.best else "no",
            str(len(point.members)),
            "+".join(names[member] for member in point.members),
        ]
        for point in points
    ]
    return _csv(["seconds_per_1000_images", metric, "on_the_frontier", "count", "members"], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


Draw = Callable[[Sequence[Point], Sequence[str], str], str]
_SIDE_FILES = ("diversity.csv", "frontier.csv", "frontier.svg")


@dataclass(frozen=True)
class Blend:
    """A blend that was written."""

    folder: Path
    submission: Path
    copy: Path | None
    """Where the submission lies as well, if `out` was given."""
    document: dict[str, Any]
    """The content of `blend.json`."""
    sample: Path | None = None
    """The dataset's own sample file, if it was found and followed."""
    missing_sample: str | None = None
    """The sample file that the dataset names, if nobody knows where it lies."""
    difference: Difference | None = None
    """What is answered otherwise than in the submission it was compared with."""


def blend(
    paths: Sequence[Path | str],
    *,
    outputs: Path | str = "outputs",
    method: str = "soft",
    metric: str | None = None,
    name: str | None = None,
    weights: Mapping[str, float] | None = None,
    calibrate: Literal["none", "temperature", "vector"] = "none",
    calibrate_when: Literal["before", "after"] = "after",
    tune_classes: bool = False,
    select: Literal["useful", "all"] = "useful",
    max_cost: str | None = None,
    force: bool = False,
    template: Path | str | None = None,
    out: Path | str | None = None,
    labels: Labels | None = None,
    compare: Path | str | None = None,
    renormalize: bool = False,
    submission: SubmissionSpec | None = None,
    find_dataset: FindDataset | None = None,
    draw: Draw | None = None,
) -> Blend:
    """Combine the members in `paths` into a submission and a `blend.json` with honest scores.

    The submission's format is `submission`, else that of the dataset `find_dataset` knows by the members' name for it.
    Its sample file is the template where none is given and it can be found. `draw` makes a picture of the frontier.
    """
    wish = Wish(method, metric, name, weights, calibrate, calibrate_when, tune_classes, select, max_cost, force)
    wish.check()
    target = _Target(
        None if template is None else Path(template), None if out is None else Path(out), labels, Path(outputs), draw
    )
    ingredients = gather(
        paths, metric=metric, renormalize=renormalize, submission=submission, find_dataset=find_dataset
    )
    fitting = target.check(ingredients, wish)
    old = None if compare is None else read_old(Path(compare), fitting, ingredients.test.classes)
    verdict = judge(ingredients, wish)
    combined = verdict.answer(ingredients.test.stack)
    return target.write(ingredients, wish, verdict, combined, old)


@dataclass(frozen=True)
class _Target:
    """Where a blend goes, and in which form."""

    given_template: Path | None
    out: Path | None
    labels: Labels | None
    outputs: Path
    draw: Draw | None

    def check(self, ingredients: Ingredients, wish: Wish) -> Submission:
        """Refuse to write over an input or where something else stands, and templates that don't fit.

        Gives a submission of the form to come, without answers.
        """
        spec, test = ingredients.spec, ingredients.test
        if (self.labels or spec.value) == "index" and not ingredients.has_class_order and not test.classes_agreed:
            raise InputError(
                "members order their classes differently, so class numbers mean nothing; say --labels name"
            )
        folder = self._folder(ingredients, wish)
        problems = [
            f"{folder}: {parent} is a file, not a folder" for parent in (folder, *folder.parents) if parent.is_file()
        ]
        problems += [] if self.out is None else self._out_problems(self.out, ingredients)
        if problems:
            raise InputError(*problems)
        shape = (len(test.ids), len(test.classes))
        decided = shape if ingredients.sets else shape[:1]
        nothing = Combined(np.broadcast_to(0.0, shape), np.broadcast_to(np.int64(0), decided))
        return self._table(ingredients, nothing)  # a template that doesn't fit is told before anything is learned

    def write(
        self, ingredients: Ingredients, wish: Wish, verdict: Verdict, combined: Combined, old: OldSubmission | None
    ) -> Blend:
        """Replace the blend's folder content, `blend.json` last."""
        table = self._table(ingredients, combined)
        folder = self._folder(ingredients, wish)
        document = describe(ingredients, wish, verdict, folder.name)
        predictions = _predictions(ingredients, combined, document)
        self._write(folder, table, predictions, _side_texts(ingredients, verdict, self.draw), document)
        return Blend(
            folder,
            folder / "submission.csv",
            self.out,
            document,
            sample=ingredients.sample if self.given_template is None else None,
            missing_sample=ingredients.spec.sample if self._template(ingredients) is None else None,
            difference=None if old is None else old.difference(table),
        )

    def _write(
        self,
        folder: Path,
        table: Submission,
        predictions: Predictions,
        texts: Mapping[str, str],
        document: dict[str, Any],
    ) -> None:
        with folder_lock(folder):
            sweep_temporaries(folder)
            (folder / "blend.json").unlink(missing_ok=True)
            save_submission(folder / "submission.csv", table)
            save_predictions(folder / "probs", predictions)
            for name in _SIDE_FILES:
                if name in texts:
                    save_text(folder / name, texts[name])
                else:
                    (folder / name).unlink(missing_ok=True)
            if self.out is not None:
                save_submission(self.out, table)
            names = ("submission.csv", "probs.npy", "probs.ids.txt", "probs.json", *texts)
            document["files"] = hash_files(folder, names)
            save_json(folder / "blend.json", document)

    def _table(self, ingredients: Ingredients, combined: Combined) -> Submission:
        test, template = ingredients.test, self._template(ingredients)
        return make_submission(test.ids, test.classes, combined, ingredients.spec, template, self.labels)

    def _folder(self, ingredients: Ingredients, wish: Wish) -> Path:
        return self.outputs / "blends" / wish.folder_name(len(ingredients.members))

    def _template(self, ingredients: Ingredients) -> Path | None:
        return self.given_template or ingredients.sample

    def _out_problems(self, out: Path, ingredients: Ingredients) -> list[str]:
        template = self._template(ingredients)
        inputs = {member.path.resolve() for member in ingredients.members}
        inputs |= {template.resolve()} if template else set()
        trios = [ProbabilityPaths.of(path) for path in inputs]
        inputs |= {path for trio in trios for path in (trio.ids, trio.json)}
        problems = []
        if out.is_dir():
            problems.append(f"--out {out}: is a folder; give a file's name, such as {out / 'submission.csv'}")
        elif out.resolve() in inputs:
            problems.append(f"--out {out}: would overwrite an input of this command; give another name")
        files = [parent for parent in out.parents if parent.is_file()]
        return problems + [f"--out {out}: {parent} is a file, not a folder" for parent in files]


def _side_texts(ingredients: Ingredients, verdict: Verdict, draw: Draw | None) -> dict[str, str]:
    """The files beside `blend.json` that there is something to say in."""
    texts = {}
    if verdict.diversity is not None:
        texts["diversity.csv"] = diversity_csv(verdict.diversity, ingredients.names)
    if verdict.frontier:
        texts["frontier.csv"] = frontier_csv(verdict.frontier, ingredients.names, ingredients.metric)
        if draw is not None:
            texts["frontier.svg"] = draw(verdict.frontier, ingredients.names, ingredients.metric)
    return texts


def _predictions(ingredients: Ingredients, combined: Combined, document: dict[str, Any]) -> Predictions:
    """The blend's own probability file, marked as a blend so that it can't vote in the next."""
    sidecar = {
        "run": document["name"],
        "blend_of": [member["run"] for member in document["members"]],
        "method": document["used"],
        "metric": document["metric"],
        "cost": document["cost"],
        **{key: document[key] for key in CARRIED if key in document},
    }
    test = ingredients.test
    return Predictions(test.ids, test.classes, combined.probs, "test", sidecar=sidecar, activation=test.activation)
