"""From probability files to `outputs/blends/<name>/`: gather, judge, answer, write.

Owns the folder, `blend.json` and the tables beside it. The same members give the same bytes, in whatever order they are
named and wherever they lie. Everything is checked before anything is written, and all files are replaced together.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ensemble.blending.formula import Formula
from ensemble.blending.inputs import FindDataset, Ingredients, gather, optimism_of
from ensemble.blending.options import BlendOptions, Calibration, LabelForm
from ensemble.blending.selection import Diversity, Point
from ensemble.blending.submission import Difference, Submission, make_submission, read_old, write_submission
from ensemble.blending.verdict import Verdict, judge
from ensemble.combining.combine import Combined
from ensemble.combining.honest import EVIDENCE, Honest
from ensemble.core.complaints import counted
from ensemble.core.dataset import SubmissionSpec
from ensemble.core.files import (
    RUN_SWAP,
    atomic_path,
    flush_to_disk,
    newest,
    replaced_together,
    save_text,
    sweep_temporaries,
)
from ensemble.core.locks import folder_lock
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.predictions import Predictions, ProbabilityPaths, save_predictions
from ensemble.core.records import (
    Count,
    FileName,
    InnerPath,
    Record,
    RecordSchema,
    Schema,
    Sha256,
    load_record,
    save_record,
)
from ensemble.core.run import hash_files
from ensemble.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

CARRIED = ("dataset", "dataset_sha256", "folds_sha256")
_TEST_FILES = ("submission.csv", "probs.npy", "probs.ids.txt", "probs.json")
_SIDE_FILES = ("diversity.csv", "frontier.csv", "frontier.svg")

Draw = Callable[[Sequence[Point], Sequence[str], str], str]
"""A picture of the frontier, from its points, the members' names and the metric."""


_Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
_Cost = dict[str, float | None] | None


class _BlendMember(Schema):
    run: InnerPath
    weight: float
    oof_score: float | None
    worth: float | None = None
    dropped: str | None = None
    cost: _Cost
    npy_sha256: Sha256
    identity: str | None
    optimistic: bool = False
    why_optimistic: list[str] = Field(default_factory=list)


class _Score(Schema):
    value: float


class _BestSingle(_Score):
    run: InnerPath


class _Gain(_Score):
    ci95: _Interval
    p_better: float


class _HonestScore(_Score):
    ci95: _Interval
    best_single: _BestSingle
    uniform: _Score | None = None
    optimistic: _Score | None = None
    gain_over_best_single: _Gain | None = None
    gain_over_uniform: _Gain | None = None
    units: Count | None = None
    independent: Literal["rows", "groups"] | None = None
    trusted: bool | None = None
    doubt: str | None = None


class _Learned(Schema):
    """Of what was learned, what `score` decides by; the rest is for people."""

    class_multipliers: list[float] | None = None
    class_thresholds: list[float] | None = None
    class_cuts: list[float] | None = None


class _CalibrationError(_Score):
    ci95: _Interval


class _Calibrating(Schema):
    """How well what is used is calibrated; the keys from `kind` on are of `--calibrate`."""

    ece: _CalibrationError
    log_loss: float
    kind: str | None = None
    when: str | None = None
    used: bool = False
    ece_without: _CalibrationError | None = None
    log_loss_without: float | None = None
    log_loss_with: float | None = None


class _Suspicion(Schema):
    run: InnerPath
    kind: Literal["leak", "mix"]
    score: float
    of: list[InnerPath]
    message: str


class _OtherFolds(Schema):
    plans: Count
    runs: list[InnerPath]


class BlendRecord(RecordSchema):
    """`blend.json`; keys with a default were not there in earlier versions."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "blend again"

    name: FileName
    method: str
    used: str = ""
    members: Annotated[list[_BlendMember], Field(min_length=1)]
    unverified: list[InnerPath] = Field(default_factory=list)
    suspicious: list[_Suspicion] = Field(default_factory=list)
    other_folds: _OtherFolds | None = None
    metric: str
    honest: _HonestScore | None
    honest_reason: str | None
    fallback: str | None
    learned: _Learned | None = None
    calibration: _Calibrating | None = None
    rows: Count
    classes: Annotated[list[str], Field(min_length=1)]
    activation: Literal["sigmoid"] | None = None
    cost: _Cost
    dataset: str | None = None
    dataset_sha256: str | None = None
    folds_sha256: str | None = None
    files: dict[FileName, Sha256]
    apply: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _decides_each_class(self) -> BlendRecord:
        learned = self.learned or _Learned()
        for values in (learned.class_multipliers, learned.class_thresholds):
            if values is not None and len(values) != len(self.classes):
                raise ValueError(f"learned holds {len(values)} numbers for {len(self.classes)} classes")
        if learned.class_cuts is not None and len(learned.class_cuts) != len(self.classes) - 1:
            raise ValueError(f"learned holds {len(learned.class_cuts)} cuts for {len(self.classes)} classes")
        return self


def load_blend(path: Path) -> Record:
    """A blend's record; `path` is that of its `blend.json`."""
    record = load_record(newest(path, RUN_SWAP), BlendRecord, shown=path)  # perhaps on its way to its place
    record.setdefault("used", record["method"])
    record.setdefault("unverified", [])
    record.setdefault("suspicious", [])
    record.setdefault("other_folds", None)
    return record


@dataclass(frozen=True, repr=False)
class Blend(NotebookValue):
    """A blend that was written."""

    folder: Path
    submission: Path | None
    """None where the members have no test rows."""
    copy: Path | None
    """Where the submission lies as well, if `out` was given."""
    document: dict[str, Any]
    """The content of `blend.json`."""
    sample: Path | None = None
    """The dataset's own sample file, if it was found and followed."""
    missing_sample: str | None = None
    """The sample file that the dataset names, if it was not found."""
    difference: Difference | None = None
    """What changed against the submission it was compared with."""
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Why some members' labels, folds and scores can't be checked, by their names."""

    @property
    def headline(self) -> str:
        """The method and the honest score."""
        document, honest = self.document, self.document["honest"]
        score = "no honest score" if honest is None else f"{document['metric']} {honest['value']:.4f} out of fold"
        members = counted(len(document["members"]), "member")
        return f"{document['name']}: {document['used']} of {members}, {score} ({self.folder})"

    def table(self) -> pd.DataFrame:
        """A row a member: its weight, its own score, what it is worth to the blend, its cost."""
        import pandas as pd

        members = self.document["members"]
        facts = ("run", "weight", "oof_score", "worth", "dropped")
        costs = list(dict.fromkeys(key for member in members for key in member["cost"] or ()))
        rows = [
            {key: member[key] for key in facts} | {key: (member["cost"] or {}).get(key) for key in costs}
            for member in members
        ]
        return pd.DataFrame(rows)


@check_arguments
def blend(
    paths: Path | str | Sequence[Path | str],
    *,
    outputs: Path | str = "outputs",
    method: str = "auto",
    metric: str | None = None,
    name: str | None = None,
    weights: Mapping[str, float] | None = None,
    calibrate: Literal["none"] | Calibration = "none",
    calibrate_when: Literal["before", "after"] = "after",
    tune_classes: bool = False,
    select: Literal["useful", "all"] = "useful",
    max_cost: str | None = None,
    force: bool = False,
    cautious: bool = False,
    other_folds: bool = False,
    template: Path | str | None = None,
    out: Path | str | None = None,
    labels: LabelForm | None = None,
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
    options = BlendOptions(
        method=method,
        metric=metric,
        name=name,
        weights=weights,
        calibrate=calibrate,
        calibrate_when=calibrate_when,
        tune_classes=tune_classes,
        select=select,
        max_cost=max_cost,
        force=force,
        cautious=cautious,
        other_folds=other_folds,
        outputs=outputs,
        template=template,
        out=out,
        labels=labels,
        compare=compare,
        renormalize=renormalize,
    )
    return run_blend(listed(paths), options, submission=submission, find_dataset=find_dataset, draw=draw)


def run_blend(
    paths: Sequence[Path | str],
    options: BlendOptions,
    *,
    submission: SubmissionSpec | None = None,
    find_dataset: FindDataset | None = None,
    draw: Draw | None = None,
) -> Blend:
    """The same, from one options object, as the command line makes it."""
    options.check()
    ingredients = gather(paths, options, submission=submission, find_dataset=find_dataset)
    test, spec, has_test = ingredients.test, ingredients.spec, ingredients.has_test
    folder = (
        Path(options.outputs) / "blends" / (options.name or f"{options.method.replace(':', '')}-{len(test.members)}")
    )
    out = None if options.out is None else Path(options.out)
    template = ingredients.sample if options.template is None else Path(options.template)
    expected = _check_outputs(ingredients, options, folder, out, template)
    old = (
        None if options.compare is None or expected is None else read_old(Path(options.compare), expected, test.classes)
    )
    verdict = judge(ingredients, options)
    formula = Formula(verdict.fitted.step, verdict.kept, verdict.fitted.weights, ingredients.sets)
    document = describe(ingredients, options, verdict, folder.name) | {"apply": formula.plain()}
    table = predictions = None
    if has_test:
        combined = formula.answer(test.stack)
        table = make_submission(test.ids, test.classes, combined, spec, template, options.labels)
        predictions = _predictions(ingredients, combined, document)
    _save(folder, table, predictions, _side_texts(ingredients, verdict, draw), document, out)
    return Blend(
        folder,
        folder / "submission.csv" if has_test else None,
        out,
        document,
        sample=ingredients.sample if has_test and options.template is None else None,
        missing_sample=spec.sample if has_test and template is None else None,
        difference=None if old is None or table is None else old.difference(table),
        doubts=ingredients.doubts,
    )


def _check_outputs(
    ingredients: Ingredients, options: BlendOptions, folder: Path, out: Path | None, template: Path | None
) -> Submission | None:
    """Refuse to write over an input or where something else stands, and a template that doesn't fit.

    Gives a submission of the form to come, without answers; None where there are no test rows.
    """
    spec, test = ingredients.spec, ingredients.test
    if not ingredients.has_test:
        of_submissions = {"--template": options.template, "--out": out, "--labels": options.labels}
        given = [
            option for option, value in {**of_submissions, "--compare": options.compare}.items() if value is not None
        ]
        if given:
            raise InputError(
                f"{', '.join(given)}: these members have no test rows, so there is no submission; leave it out"
            )
    elif (options.labels or spec.value) == "index" and not ingredients.has_class_order and not test.classes_agreed:
        raise InputError("members order their classes differently, so class numbers mean nothing; say --labels name")
    problems = [
        f"{folder}: {parent} is a file, not a folder" for parent in (folder, *folder.parents) if parent.is_file()
    ]
    if out is not None:
        inputs = [ProbabilityPaths.of(member.path) for member in ingredients.members]
        taken = {path.resolve() for trio in inputs for path in (trio.npy, trio.ids, trio.json)}
        taken |= {template.resolve()} if template is not None else set()
        if out.is_dir():
            problems.append(f"--out {out}: is a folder; give a file's name, such as {out / 'submission.csv'}")
        elif out.resolve() in taken:
            problems.append(f"--out {out}: would overwrite an input of this command; give another name")
        problems += [f"--out {out}: {parent} is a file, not a folder" for parent in out.parents if parent.is_file()]
    if problems:
        raise InputError(*problems)
    if not ingredients.has_test:
        return None
    shape = (len(test.ids), len(test.classes))
    decisions = np.broadcast_to(np.int64(0), shape if ingredients.sets else shape[:1])
    nothing = Combined(np.broadcast_to(0.0, shape), decisions)  # a template is refused before anything is learned
    return make_submission(test.ids, test.classes, nothing, spec, template, options.labels)


def _save(
    folder: Path,
    table: Submission | None,
    predictions: Predictions | None,
    side_texts: Mapping[str, str],
    document: dict[str, Any],
    out: Path | None,
) -> None:
    """Replace the files in the blend's folder together, and the copy of the submission with them.

    All that can fail comes before the first of them has its name: the copy may lie on another disk, which is full.
    """
    with folder_lock(folder), ExitStack() as stack:
        sweep_temporaries(folder)
        if out is not None and table is not None:
            copy = stack.enter_context(atomic_path(out))
            write_submission(copy, table)
            flush_to_disk(copy)
        with replaced_together(folder, RUN_SWAP) as stage:
            names = [*side_texts]
            if table is not None and predictions is not None:
                write_submission(stage / "submission.csv", table)
                save_predictions(stage / "probs", predictions)
                names += _TEST_FILES
            for name, text in side_texts.items():
                save_text(stage / name, text)
            document["files"] = hash_files(stage, names)
            save_record(stage / "blend.json", document)
        for name in {*_TEST_FILES, *_SIDE_FILES}.difference(names):
            (folder / name).unlink(missing_ok=True)  # of an earlier blend of this name


def describe(ingredients: Ingredients, options: BlendOptions, verdict: Verdict, name: str) -> dict[str, Any]:
    """The document, all but the hashes of the files."""
    test, labelled = ingredients.test, ingredients.labelled
    asked = _honest(ingredients, verdict, verdict.asked)
    return {
        "format": BlendRecord.newest,
        "name": name,
        "method": options.method,
        "used": verdict.used,
        "members": _members(ingredients, verdict),
        "unverified": [*ingredients.doubts],
        "suspicious": _suspicious(ingredients, verdict),
        "other_folds": _other_folds(ingredients),
        "metric": ingredients.metric,
        "honest": _honest(ingredients, verdict, verdict.honest),
        "honest_reason": verdict.honest_reason,
        "scored_rows": None if labelled is None else {"used": len(labelled.labels), "of": ingredients.oof_rows},
        "asked": None if asked is None else {"method": verdict.asked_name, **asked},
        "fallback": verdict.fallback,
        "forced": options.force,
        "learned": verdict.fitted.learned,
        "calibration": _calibration(verdict),
        "rows": len(test.ids) if ingredients.has_test else 0,
        "classes": list(test.classes),
        **({"activation": "sigmoid"} if ingredients.sets else {}),
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
            "cost": member.main.sidecar.get("cost"),
            "npy_sha256": member.main.npy_sha256,
            "identity": member.main.sidecar.get("identity"),
            **optimism_of(member, ingredients.members),
        }
        for index, (member, name) in enumerate(zip(ingredients.members, ingredients.names, strict=True))
    ]


def _suspicious(ingredients: Ingredients, verdict: Verdict) -> list[dict[str, Any]]:
    """Members that leak or are blends in disguise, and of whom."""
    names = ingredients.names
    return [
        {
            "run": names[member],
            "kind": suspicion.kind,
            "score": suspicion.score,
            "of": [names[other] for other in suspicion.of] if suspicion.kind == "mix" else [],
            "message": suspicion.message(names),
        }
        for member, suspicion in verdict.suspicious.items()
    ]


def _other_folds(ingredients: Ingredients) -> dict[str, Any] | None:
    """How many fold plans there are, and the members of others than the one that was learned and scored on."""
    if not ingredients.other_folds:
        return None
    runs = [ingredients.names[member] for member in ingredients.other_folds]
    return {"plans": ingredients.plans, "runs": runs}


def _honest(ingredients: Ingredients, verdict: Verdict, honest: Honest | None) -> dict[str, Any] | None:
    """The honest scores, and how many units are independent."""
    if honest is None or ingredients.labelled is None:
        return None
    best = honest.best_single
    return {
        "value": honest.value,
        "ci95": honest.ci95,
        "best_single": {"run": ingredients.names[verdict.kept[best]], "value": honest.members[best]},
        "uniform": {"value": honest.uniform},
        "optimistic": None if honest.optimistic is None else {"value": honest.optimistic},
        "gain_over_best_single": asdict(honest.gain_over_best_single),
        "gain_over_uniform": asdict(honest.gain_over_uniform),
        "units": honest.units,
        "independent": "rows" if ingredients.labelled.groups is None else "groups",
        "trusted": honest.doubt is None,
        "doubt": honest.doubt,
        "evidence": EVIDENCE,
    }


def _calibration(verdict: Verdict) -> dict[str, Any] | None:
    """The expected calibration error as JSON holds it."""
    if verdict.calibration is None:
        return None
    plain: dict[str, Any] = json.loads(json.dumps(asdict(verdict.calibration)))  # tuples become lists
    return plain


def _total_cost(ingredients: Ingredients, verdict: Verdict) -> dict[str, float] | None:
    """What the members with a say cost together, of each kind of cost that all of them name."""
    pairs = zip(ingredients.members, verdict.weights, strict=True)
    costs = [member.main.sidecar.get("cost") or {} for member, weight in pairs if weight]
    shared = [key for key in costs[0] if all(cost.get(key) is not None for cost in costs)]
    return {key: sum(cost[key] for cost in costs) for key in shared} or None


def _carried(ingredients: Ingredients) -> dict[str, Any]:
    """Dataset and fold plan, as far as any member names them; of several plans the one that was learned on."""
    others = ingredients.other_folds
    members = [member.main.sidecar for index, member in enumerate(ingredients.members) if index not in others]
    named = {key: [sidecar[key] for sidecar in members if sidecar.get(key) is not None] for key in CARRIED}
    if ingredients.labelled is None and len(set(named["folds_sha256"])) > 1:
        named["folds_sha256"] = []  # nothing was learned, so no plan is that of the blend
    return {key: values[0] for key, values in named.items() if values}


def _side_texts(ingredients: Ingredients, verdict: Verdict, draw: Draw | None) -> dict[str, str]:
    """The tables and the picture beside `blend.json`, where there is anything to put in them."""
    texts = {}
    if verdict.diversity is not None:
        texts["diversity.csv"] = diversity_csv(verdict.diversity, ingredients.names)
    if verdict.frontier:
        texts["frontier.csv"] = frontier_csv(verdict.frontier, ingredients.names, ingredients.metric)
        if draw is not None:
            texts["frontier.svg"] = draw(verdict.frontier, ingredients.names, ingredients.metric)
    return texts


def diversity_csv(alike: Diversity, names: Sequence[str]) -> str:
    """A line a pair of members."""
    matrices = (alike.correlation, alike.disagreement, alike.q_statistic)
    rows = [
        [names[first], names[second], *(f"{matrix[first, second]:.6f}" for matrix in matrices)]
        for first, second in itertools.combinations(range(len(names)), 2)
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
    return Predictions(
        test.ids, test.classes, combined.probs, "test", sidecar=sidecar, activation=test.members[0].activation
    )
