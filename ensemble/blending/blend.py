"""From probability files to `outputs/blends/<name>/`: load, align, score honestly, vote, write. Owns `blend.json`.

Everything is checked before anything is written. `blend.json` is written last, so a folder without it is unfinished. No
path or time goes into the files: the same members give the same bytes, in whatever order and wherever they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.blending.align import Aligned, align
from ensemble.blending.honest import RESAMPLES, Honest, assess
from ensemble.blending.members import Member, load_members, unique_names
from ensemble.blending.sample import find_sample
from ensemble.blending.submission import Labels, Submission, make_submission, save_submission
from ensemble.blending.vote import COMBINERS, Combined
from ensemble.core.complaints import any_of
from ensemble.core.dataset import DatasetDescription, SubmissionSpec
from ensemble.core.files import save_json, sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.core.metrics import METRICS
from ensemble.core.probability import Predictions, ProbabilityPaths, save_predictions
from ensemble.core.run import check_run_name, hash_files
from ensemble.errors import InputError

__all__ = ["BLEND_FORMAT", "Blend", "blend"]

BLEND_FORMAT = 1
_CARRIED = ("dataset", "dataset_sha256", "folds_sha256")
_FILES = ("submission.csv", "probs.npy", "probs.ids.txt", "probs.json")


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


def blend(
    paths: Sequence[Path | str],
    *,
    outputs: Path | str = "outputs",
    method: str = "soft",
    metric: str | None = None,
    name: str | None = None,
    template: Path | str | None = None,
    out: Path | str | None = None,
    labels: Labels | None = None,
    renormalize: bool = False,
    submission: SubmissionSpec | None = None,
    find_dataset: Callable[[str], DatasetDescription | None] | None = None,
) -> Blend:
    """Combine the members in `paths` into a submission and a `blend.json` with honest scores.

    The submission's format is `submission`, else that of the dataset `find_dataset` knows by the members' name for it.
    Its sample file is the template where none is given and it can be found.
    """
    _check_words(method, metric, name)
    template = Path(template) if template is not None else None
    out = Path(out) if out is not None else None
    members = load_members([Path(path) for path in paths], renormalize=renormalize)
    name_of_data = _dataset_name(members)
    dataset = _known_dataset(members, name_of_data, find_dataset)
    test = align(
        [member.test for member in members],
        [str(member.path) for member in members],
        classes=dataset.class_names if dataset is not None else None,
    )
    members = _in_order(members, test)
    spec = submission or (dataset.submission if dataset is not None else SubmissionSpec())
    sample = None
    if template is None and spec.sample is not None and name_of_data is not None:
        template = sample = find_sample(spec.sample, name_of_data, members)
    has_order = dataset is not None and dataset.class_names is not None
    if (labels or spec.value) == "index" and not has_order and not test.classes_agreed:
        raise InputError("members order their classes differently, so class numbers mean nothing; say --labels name")
    metric = metric or _common_metric(members)
    honest, scores, reason = _honest(members, test, method, metric)
    combined = COMBINERS[method](test.stack, None)
    table = make_submission(test.ids, test.classes, combined, spec, template, labels)
    folder = Path(outputs) / "blends" / (name or f"{method}-{len(members)}")
    _check_targets(folder, out, template, members)
    names = unique_names(members)
    document = {
        "format": BLEND_FORMAT,
        "name": folder.name,
        "method": method,
        "members": _member_entries(members, names, scores),
        "metric": metric,
        "honest": None if honest is None else _honest_entry(honest, names, members),
        "honest_reason": reason,
        "fallback": None,
        "rows": len(test.ids),
        "classes": list(test.classes),
        "cost": _total_cost(members),
        "renormalized_rows": sum(one.test.renormalized + (one.oof.renormalized if one.oof else 0) for one in members),
        **_carried(members),
    }
    missing = spec.sample if template is None else None
    return _write(folder, out, document, table, _predictions(test, combined, document), sample, missing)


def _check_words(method: str, metric: str | None, name: str | None) -> None:
    """Refuse unknown methods, metrics and names that are no folder's, all together."""
    problems = []
    if method not in COMBINERS:
        problems.append(f"--method {method}: unknown; known are {any_of(list(COMBINERS), 'and')}")
    if metric is not None and metric not in METRICS:
        problems.append(f"--metric {metric}: unknown; known are {any_of(list(METRICS), 'and')}")
    if name is not None:
        try:
            check_run_name(name)
        except InputError as error:
            problems += error.messages
    if problems:
        raise InputError(*problems)


def _dataset_name(members: Sequence[Member]) -> str | None:
    """What the first member that tells calls its dataset."""
    named = (member.test.sidecar.get("dataset") for member in members)
    return next((str(name) for name in named if name is not None), None)


def _known_dataset(
    members: Sequence[Member], name: str | None, find_dataset: Callable[[str], DatasetDescription | None] | None
) -> DatasetDescription | None:
    """The description of the members' dataset; None when unknown, or when it tells of other classes."""
    found = find_dataset(name) if name is not None and find_dataset is not None else None
    if found is None or found.class_names is None:
        return found
    return found if set(found.class_names) == set(members[0].test.classes) else None


def _in_order(members: Sequence[Member], test: Aligned) -> list[Member]:
    """Members in the order of the aligned stack."""
    by_test = {id(member.test): member for member in members}
    return [by_test[id(predictions)] for predictions in test.members]


def _common_metric(members: Sequence[Member]) -> str:
    """The metric all members that name one agree on, else accuracy; one of their own can't be had here."""
    named = {member.test.sidecar["metric"] for member in members if member.test.sidecar.get("metric") is not None}
    metric = str(named.pop()) if len(named) == 1 else "accuracy"
    if metric not in METRICS:
        raise InputError(
            f"the members' metric, {metric}, is code of their recipe, which a blend does not run; "
            f"say by which to judge with --metric: {any_of(list(METRICS))}"
        )
    return metric


def _honest(
    members: Sequence[Member], test: Aligned, method: str, metric: str
) -> tuple[Honest | None, tuple[float, ...] | None, str | None]:
    """Scores on out-of-fold rows and the members' own; None and why where they can't be had."""
    without = [member for member in members if member.oof is None]
    if without:
        more = f" (nor beside {len(without) - 1} others)" if len(without) > 1 else ""
        return None, None, f"no out-of-fold rows beside {without[0].run}'s test rows{more}"
    oofs = [member.oof for member in members if member.oof is not None]
    aligned = align(
        oofs, [str(one.path) for one in oofs], kind="oof", classes=test.classes, sort_rows=True, keep_order=True
    )
    if aligned.labels is None:  # the format demands them; this keeps a later format honest
        return None, None, "the out-of-fold rows have no labels"
    combined = COMBINERS[method](aligned.stack, None)
    honest = assess(aligned.stack, combined, aligned.labels, aligned.groups, metric)
    if honest is None:
        return None, None, f"{metric} has no meaning on these rows"
    return honest, honest.members, None


def _check_targets(folder: Path, out: Path | None, template: Path | None, members: Sequence[Member]) -> None:
    """Refuse to write over an input, or where something else stands."""
    problems = [
        f"{folder}: {parent} is a file, not a folder" for parent in (folder, *folder.parents) if parent.is_file()
    ]
    if out is not None:
        inputs = {member.path.resolve() for member in members} | ({template.resolve()} if template else set())
        trios = [ProbabilityPaths.of(path) for path in inputs]
        inputs |= {path for trio in trios for path in (trio.ids, trio.json)}
        if out.is_dir():
            problems.append(f"--out {out}: is a folder; give a file's name, such as {out / 'submission.csv'}")
        elif out.resolve() in inputs:
            problems.append(f"--out {out}: would overwrite an input of this command; give another name")
        problems += [f"--out {out}: {parent} is a file, not a folder" for parent in out.parents if parent.is_file()]
    if problems:
        raise InputError(*problems)


def _member_entries(
    members: Sequence[Member], names: Sequence[str], scores: Sequence[float] | None
) -> list[dict[str, Any]]:
    """The members as `blend.json` lists them."""
    return [
        {
            "run": name,
            "weight": 1 / len(members),
            "oof_score": None if scores is None else scores[index],
            "cost": member.test.sidecar.get("cost"),
            "npy_sha256": member.test.npy_sha256,
            **({"optimistic": True} if member.test.sidecar.get("optimistic") else {}),
        }
        for index, (member, name) in enumerate(zip(members, names, strict=True))
    ]


def _honest_entry(honest: Honest, names: Sequence[str], members: Sequence[Member]) -> dict[str, Any]:
    """The honest scores as `blend.json` holds them, and what was resampled."""
    grouped = any(member.oof is not None and member.oof.groups is not None for member in members)
    return {**honest.plain(names), "resamples": RESAMPLES, "resampled": "groups" if grouped else "rows"}


def _total_cost(members: Sequence[Member]) -> dict[str, float] | None:
    """What all members cost together, for what every one of them tells."""
    costs = [member.test.sidecar.get("cost") or {} for member in members]
    told = [key for key in costs[0] if all(cost.get(key) is not None for cost in costs)]
    return {key: sum(cost[key] for cost in costs) for key in told} or None


def _carried(members: Sequence[Member]) -> dict[str, Any]:
    """Dataset and fold plan, as far as any member tells; they agree, or it would not have come to this."""
    told = {
        key: [member.test.sidecar[key] for member in members if member.test.sidecar.get(key) is not None]
        for key in _CARRIED
    }
    return {key: values[0] for key, values in told.items() if values}


def _predictions(test: Aligned, combined: Combined, document: dict[str, Any]) -> Predictions:
    """The blend's own probability file, marked as a blend so that it can't vote in the next."""
    sidecar = {
        "run": document["name"],
        "blend_of": [member["run"] for member in document["members"]],
        "method": document["method"],
        "metric": document["metric"],
        "cost": document["cost"],
        **{key: document[key] for key in _CARRIED if key in document},
    }
    return Predictions(test.ids, test.classes, combined.probs, "test", sidecar=sidecar)


def _write(
    folder: Path,
    out: Path | None,
    document: dict[str, Any],
    table: Submission,
    predictions: Predictions,
    sample: Path | None,
    missing_sample: str | None,
) -> Blend:
    """Replace the blend's folder content, `blend.json` last."""
    path = folder / "submission.csv"
    with folder_lock(folder):
        sweep_temporaries(folder)
        (folder / "blend.json").unlink(missing_ok=True)
        save_submission(path, table)
        save_predictions(folder / "probs", predictions)
        if out is not None:
            save_submission(out, table)
        document["files"] = hash_files(folder, _FILES)
        save_json(folder / "blend.json", document)
    return Blend(folder, path, out, document, sample, missing_sample)
