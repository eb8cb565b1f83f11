"""What is compared: names and paths to sides, each with the out-of-fold rows of its trainings.

A side is one recipe, trained once or several times, or a blend, whose answers are learned anew for each fold without
that fold, as `ens blend` judged them. Loads and refuses; what the sides are worth is in `compare`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blending.blend import load_blend
from ensemble.blending.formula import Formula
from ensemble.blending.inputs import Ingredients, Member, doubts_of, gather, load_members, sampled_rows
from ensemble.blending.methods import method_of, stages_of
from ensemble.blending.options import METHODS, BlendOptions
from ensemble.blending.selection import chosen_first, harmless
from ensemble.combining.combine import Combined, Integers
from ensemble.combining.crossfit import Fitted, Labelled, Method, cross_fit, learn
from ensemble.core.complaints import any_of, closest, counted
from ensemble.core.predictions import Predictions, load_predictions
from ensemble.core.records import Record
from ensemble.core.run import FoldKey, RunFolder
from ensemble.core.text import natural_key
from ensemble.errors import InputError
from ensemble.recipe.recipe import differing_values

_MOST_SIDES = 20
_MOST_NUMBERS = 1 << 28  # rows x classes x repeats that are read again, fold by fold: 1 GB
_QUICK_NUMBERS = 2_000_000  # rows x classes x members that a fold learns from in haste: 3 s for 20 members, 18 classes
_QUICK_ROWS = 2_000  # but not fewer
RETRAINED = ("seed", "folds_sha256", "folds.seed", "folds.repeats")
"""Keys that make a training another one of the same recipe."""


@dataclass(frozen=True, eq=False)
class Trained:
    """One training of all folds: its out-of-fold rows."""

    name: str
    rows: Predictions
    folds: Integers
    models: int
    decisions: Integers | None = None
    """Where they aren't simply the largest probability."""


@dataclass(frozen=True, eq=False)
class Side:
    """What is compared: one recipe, trained once or several times, or a blend."""

    name: str
    kind: str
    trained: tuple[Trained, ...]
    facts: Mapping[str, Any] | None
    """What a difference of recipes is looked for in."""
    metric: str | None
    doubts: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def load_sides(words: Sequence[str], outputs: Path, *, is_quick: bool = False) -> list[Side]:
    """Every side, of one dataset and the same classes; all that is wrong is one error. `is_quick` as for blends."""
    if not 2 <= len(words) <= _MOST_SIDES:
        raise InputError(f"{counted(len(words), 'name')} given; name 2 to {_MOST_SIDES} runs, trials or blends")
    groups: list[list[Path]] = []
    problems: list[str] = []
    for word in words:
        try:
            parts = [word] if "," not in word or Path(word).exists() else word.split(",")
            groups.append([_folder_of(part.strip(), outputs) for part in parts])
        except InputError as error:
            problems += error.messages
    named = Counter(path.absolute() for group in groups for path in group)
    problems += [f"{path}: named twice; compare it with another" for path, count in named.items() if count > 1]
    if problems:
        raise InputError(*problems)
    sides = []
    for word, group in zip(words, groups, strict=True):
        try:
            sides.append(_load_side(word, group, set(named), is_quick=is_quick))
        except InputError as error:
            problems += error.messages
    if problems:
        raise InputError(*dict.fromkeys(problems))
    if problems := _strangers(sides):
        raise InputError(*problems)
    return _with_own_names(sides)


def _folder_of(word: str, outputs: Path) -> Path:
    """The folder or the file that a name, or a path, stands for."""
    path = Path(word)
    if path.is_file() and ((path.parent / "blend.json").is_file() or path.stem == "oof"):
        return path.parent
    is_bare = not path.is_absolute() and ".." not in path.parts
    places = [outputs, outputs / "blends", outputs / "studies"] if is_bare else []
    near = [place / path for place in places if any((place / path / name).is_file() for name in _RECORDS)]
    is_ours = path.is_file() or path.with_name(f"{path.name}.npy").is_file() or _has_record(path)
    if not is_ours and len(near) > 1:
        raise InputError(f"{word}: may be {any_of([str(place) for place in near])}; give the path")
    folder = path if is_ours or not near else near[0]
    if (folder / "study.json").is_file():
        best = f"{folder.name}/{next((trial.name for trial in sorted(folder.glob('trial-*'))), 'trial-0')}"
        raise InputError(f"{word}: is a study; name a trial of it, such as {best}")
    if is_ours or near:
        return folder
    names = sorted({note.parent.name for place in places for name in _RECORDS for note in place.glob(f"*/{name}")})
    meant = closest(path.name, names)
    hint = f"did you mean {meant}?" if meant else f"ens status --outputs {outputs} lists what there is"
    raise InputError(f"{word}: no such run, trial, blend or file; {hint}")


_RECORDS = ("run.json", "blend.json", "study.json", "oof.npy")


def _has_record(path: Path) -> bool:
    return any((path / name).is_file() for name in _RECORDS)


def _load_side(word: str, group: Sequence[Path], named: set[Path], *, is_quick: bool) -> Side:
    """One side: its blend, or its runs with those that differ from the first in the seed alone."""
    blends = [path for path in group if (path / "blend.json").is_file()]
    if blends and len(group) > 1:
        raise InputError(f"{word}: a blend stands alone; only trainings of one recipe are named together")
    if blends:
        return _side_of(load_blend_rows(blends[0], is_quick=is_quick))
    paths = [*group, *(_seeds_beside(group[0], named) if len(group) == 1 else [])]
    members = load_members(paths)
    without = [f"{member.path.parent}: has no out-of-fold rows (oof.npy), which are compared" for member in members
               if member.oof is None]  # fmt: skip
    if without:
        raise InputError(*without)
    records = [record_in(member.path.parent) for member in members]
    facts = [None if record is None else record["identity_of"] for record in records]
    for member, other in zip(members[1:], facts[1:], strict=True):
        keys = changed_keys(facts[0], other)
        if keys and {key for key, _, _ in keys} - set(RETRAINED):
            shown = ", ".join(key for key, _, _ in keys if key not in RETRAINED)
            raise InputError(f"{word}: {members[0].run} and {member.run} are not one recipe ({shown}); compare them")
    trained = [training for member in members for training in _trainings(member)]
    kind = "file" if records[0] is None else "trial" if "/" in members[0].run else "run"
    name = members[0].run
    doubts = doubts_of(members, [member.run for member in members])
    is_optimistic = any(member.main.sidecar.get("optimistic") for member in members)
    remarks = (f"{name}: optimistic: its epoch was picked on the rows that are compared",) * is_optimistic
    return Side(name, kind, tuple(trained), facts[0], members[0].main.sidecar.get("metric"), doubts, remarks)


def record_in(folder: Path) -> Record | None:
    """What a run's `run.json` says; None for files without one."""
    try:
        return RunFolder(folder).load_record()
    except InputError:
        return None  # of another version: its probabilities may be good


def changed_keys(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> list[tuple[str, str, str]] | None:
    """Keys of two recipes with both values; None where one is not known."""
    return None if first is None or second is None else differing_values(dict(first), dict(second))


def _seeds_beside(path: Path, named: set[Path]) -> list[Path]:
    """Finished runs `NAME-s1`, `NAME-s2`, … that differ in the seed alone; none if any of them is itself compared."""
    record = record_in(path)
    if record is None:
        return []
    beside = []
    for place in sorted(path.parent.glob(f"{path.name}-s*"), key=lambda place: natural_key(place.name)):
        other = record_in(place) if place.name.removeprefix(f"{path.name}-s").isdecimal() else None
        if other is None or other["state"] != "complete":
            continue
        keys = changed_keys(record["identity_of"], other["identity_of"])
        if keys and {key for key, _, _ in keys} == {"seed"}:
            beside.append(place)
    return [] if {place.absolute() for place in beside} & named else beside


def _trainings(member: Member) -> list[Trained]:
    """A run's own; of a repeated plan one a repeat, from the files of its folds, where all are there."""
    oof = member.oof
    if oof is None:
        raise ValueError(f"{member.path}: a member without out-of-fold rows")
    folds = np.atleast_2d(np.array(oof.folds, dtype=np.int64))
    if len(folds) > 1 and len(folds) * oof.probs.size <= _MOST_NUMBERS:
        parts = [_repeat_rows(RunFolder(member.path.parent), oof, plan, number) for number, plan in enumerate(folds)]
        if all(part is not None for part in parts):
            return [
                Trained(f"{member.run} repeat {number}", part, folds[number], len(np.unique(folds[number])))
                for number, part in enumerate(parts)
                if part is not None
            ]
    models = sum(len(np.unique(plan)) for plan in folds)
    return [Trained(member.run, oof, folds[0], models)]


def _repeat_rows(run: RunFolder, oof: Predictions, plan: Integers, repeat: int) -> Predictions | None:
    """The out-of-fold rows of one repeat; None where a fold's file is gone, or does not fit."""
    place = {row_id: row for row, row_id in enumerate(oof.ids)}
    probs, seen = np.empty(oof.probs.shape, dtype=np.float32), np.zeros(len(oof.ids), dtype=np.bool_)
    for fold in np.unique(plan).tolist():
        try:
            part = load_predictions(run.fold_path(FoldKey(repeat, int(fold)), 2) / "oof")
        except InputError:
            return None
        rows = [place.get(row_id, -1) for row_id in part.ids]
        if min(rows) < 0 or part.classes != oof.classes or (plan[rows] != fold).any():
            return None
        probs[rows], seen[rows] = part.probs, True
    if not seen.all():
        return None
    return Predictions(oof.ids, oof.classes, probs, "oof", oof.labels, plan.tolist(), oof.groups, oof.sidecar,
                       oof.activation)  # fmt: skip


def _strangers(sides: Sequence[Side]) -> list[str]:
    """Sides that can't be compared with the first: other datasets or contents, other classes."""
    first, problems = sides[0].trained[0].rows, []
    for side in sides[1:]:
        other = side.trained[0].rows
        names = f"{sides[0].name} and {side.name}"
        values = {key: (first.sidecar.get(key), other.sidecar.get(key)) for key in ("dataset", "dataset_sha256")}
        differs = [key for key, (here, there) in values.items() if None not in (here, there) and here != there]
        if differs:
            here, there = values[differs[0]]
            what = "datasets" if differs[0] == "dataset" else "contents of the dataset"
            problems.append(f"{names}: of different {what} ({here!s:.24} and {there!s:.24}); they can't be compared")
        elif first.activation != other.activation:
            problems.append(f"{names}: one class a row in one, sets of classes in the other")
        elif set(first.classes) != set(other.classes):
            problems.append(f"{names}: different classes")
    return problems


def _with_own_names(sides: Sequence[Side]) -> list[Side]:
    """Sides whose names differ: of equal ones the later get a number."""
    seen: Counter[str] = Counter()
    named = []
    for side in sides:
        seen[side.name] += 1
        name = side.name if seen[side.name] == 1 else f"{side.name}#{seen[side.name]}"
        named.append(replace(side, name=name))
    return named


# Blends


@dataclass(frozen=True, eq=False)
class BlendRows:
    """A blend's out-of-fold rows, and its answers for them, learned anew for each fold without that fold."""

    document: Mapping[str, Any]
    formula: Formula
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    members: tuple[Member, ...]
    """In the order of the document, as the stack of `labelled`."""
    labelled: Labelled
    """Seen through all members; those that the formula looks at are `kept`."""
    answers: tuple[Combined, ...]
    """One a repeat of the fold plan."""
    learned_from: int | None = None
    """Of very many rows, how many each fold's answers were learned from; None: from all of the other folds."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Says where the answers aren't those that the blend was judged by."""
        if self.learned_from is None:
            return _honest_remark(self.document, self.kept, self.answers)
        return (
            f"{self.document['name']}: for speed, a fold's answers are learned from {self.learned_from:,} rows of the "
            f"others, by the method that was settled on ({self.document['used']}); ens compare learns from all of them",
        )

    @property
    def kept(self) -> Labelled:
        """The same rows, seen through the members that the formula looks at."""
        return self.labelled.with_members(self.formula.kept)


def load_blend_rows(folder: Path, *, is_quick: bool = False) -> BlendRows:
    """A blend's rows with their honest answers.

    `is_quick`: of very many rows some are learned from, by the method that `auto` has come to; all are answered.
    """
    document = load_blend(folder / "blend.json")
    formula = Formula.of(document, str(folder / "blend.json"))
    paths = _member_folders(folder, document)
    ingredients = gather(paths, BlendOptions(metric=str(document["metric"])))
    labelled = ingredients.labelled
    if labelled is None:
        raise InputError(f"{folder}: can't be compared: {ingredients.unlabelled_because}")
    order = [ingredients.names.index(str(member["run"])) for member in document["members"]]
    labelled = labelled.with_members(order)
    kept = labelled.with_members(formula.kept)
    most = max(_QUICK_ROWS, _QUICK_NUMBERS // (len(kept.stack) * len(ingredients.test.classes)))
    fewer = most if is_quick and len(kept.labels) > most else None
    methods = _methods_of(document, formula, str(folder), is_settled=fewer is not None)
    fewer = None if all(method.ready is not None for method in methods) else fewer
    if fewer is not None:
        methods = [_from_fewer_rows(method, fewer) for method in methods]
    tried = [cross_fit(method, kept) for method in methods]
    answers = min(tried, key=lambda each: _apart(document, kept, each))
    if not answers:
        raise InputError(f"{folder}: can't be compared: its out-of-fold rows are a single group and can't be split")
    members = tuple(ingredients.members[place] for place in order)
    ids = tuple(_labelled_ids(ingredients))
    classes = tuple(ingredients.test.classes)
    return BlendRows(document, formula, ids, classes, members, labelled, tuple(answers), fewer)


def _from_fewer_rows(method: Method, most: int) -> Method:
    """The method, learning from `most` rows at most, drawn in whole groups and always the same."""
    if method.ready is not None:
        return method

    def fit(labelled: Labelled) -> Fitted:
        part = labelled.remembered(("fewer", most, labelled.key), lambda: _drawn(labelled, most))
        return learn(method, part)

    return Method(method.name, fit)


def _drawn(labelled: Labelled, most: int) -> Labelled:
    """The rows of whole groups, about `most` in all; the same where there are no more."""
    units = labelled.units
    if len(units) <= most:
        return labelled
    sizes = np.bincount(units)
    order = np.random.default_rng(labelled.seed).permutation(len(sizes))
    is_drawn = np.zeros(len(sizes), dtype=np.bool_)
    is_drawn[order[: np.searchsorted(np.cumsum(sizes[order]), most) + 1]] = True
    rows = np.flatnonzero(is_drawn[units])
    groups = None if labelled.groups is None else labelled.groups[rows]
    part = replace(labelled, labels=labelled.labels[rows], folds=labelled.folds[:, rows], groups=groups)
    return part.with_stack([matrix[rows] for matrix in labelled.stack])


def _side_of(blend: BlendRows) -> Side:
    """A blend as a side: its honest answers."""
    document, labelled, answers = blend.document, blend.kept, blend.answers
    trained = [_blend_rows(document, labelled, each, blend.ids, blend.classes) for each in answers[:1]]
    facts = {key: document[key] for key in ("method", "used")} | {
        "members": ", ".join(str(member["run"]) for member in document["members"] if member["weight"])
    }
    return Side(str(document["name"]), "blend", tuple(trained), facts, str(document["metric"]), {}, blend.remarks)


def _labelled_ids(ingredients: Ingredients) -> list[str]:
    """The ids of the rows that a blend learns from, in their order: sorted, and of very many a sample."""
    oofs = [member.oof for member in ingredients.members if member.oof is not None]
    order = np.array(sorted(range(len(oofs[0].ids)), key=oofs[0].ids.__getitem__))
    groups = next((oof.groups for oof in oofs if oof.groups is not None), None)
    chosen = sampled_rows(
        len(order), len(oofs), len(ingredients.test.classes), None if groups is None else groups[order]
    )
    return [oofs[0].ids[row] for row in (order if chosen is None else order[chosen])]


def _member_folders(folder: Path, document: Mapping[str, Any]) -> list[Path]:
    """The folders of a blend's members, which must still hold what was blended."""
    outputs, problems, folders = folder.absolute().parent.parent, [], []
    for member in document["members"]:
        name = str(member["run"]).partition("@")[0].partition("#")[0]
        places = [place for place in (outputs / name, outputs / "studies" / name) if _has_record(place)]
        kept = [place for place in places if member["npy_sha256"] in _hashes_in(place)]
        folders += kept[:1]
        if not kept:
            what = "changed since it was blended" if places else f"no such run in {outputs}"
            problems.append(f"{folder}: its member {member['run']}: {what}; blend again, or compare its members")
    if problems:
        raise InputError(*problems)
    return folders


def _hashes_in(folder: Path) -> set[str]:
    """Hashes of a member's matrices, as their sidecars say; `load_members` checks them."""
    hashes = set()
    for name in ("probs.json", "oof.json"):
        try:
            hashes.add(json.loads((folder / name).read_text(encoding="utf-8")).get("npy_sha256"))
        except (OSError, ValueError, AttributeError):
            continue
    return hashes


def _methods_of(document: Mapping[str, Any], formula: Formula, where: str, *, is_settled: bool = False) -> list[Method]:
    """The method as `ens blend` was asked for it, or what stood in for it, as far as the record says; `is_settled`: the
    one that a choice has come to.

    Two, where it is not recorded whether members that do harm were left out by each fold's own rows.
    """
    step, calibrate, when, tuned, chooses = formula.step, "none", "after", False, False
    while step["do"] in ("tune", "calibrate", "calibrate each", "choose"):
        tuned |= step["do"] == "tune"
        chooses |= step["do"] == "choose"
        if step["do"] in ("calibrate", "calibrate each"):
            when = "before" if step["do"] == "calibrate each" else "after"
            learned = step["calibration"][0] if when == "before" else step["calibration"]
            calibrate = str(learned["kind"])
        step = step["of"]
    asked = str(document["method"])
    used = next((part for part in str(document["used"]).split("+") if part.partition(":")[0] in METHODS), "")
    stood_in = used if document["fallback"] or (is_settled and used) else asked
    weights = {str(number): weight for number, weight in enumerate(formula.weights or ())}
    options = BlendOptions(
        method=stood_in,
        weights=weights if stood_in == asked == "weighted" else None,
        calibrate=calibrate,  # type: ignore[arg-type]
        calibrate_when=when,  # type: ignore[arg-type]
        tune_classes=tuned,
    )
    metric, sets = str(document["metric"]), formula.sets
    try:
        method = method_of(options, [str(number) for number in range(len(formula.kept))], metric, sets=sets)
        for stage in stages_of(options, metric, sets=sets):
            method = stage.around(method)
    except (KeyError, ValueError, InputError) as error:
        reason = f"{where}: what it learned can't be learned again without a fold ({error}); compare its members"
        raise InputError(reason) from error
    if options.weights is not None or document["fallback"] or METHODS[asked.partition(":")[0]].prunes:
        return [method]
    both = [chosen_first(method, harmless), method]
    return both if not is_settled else both[:1] if chooses else both[1:]


def _blend_rows(
    document: Mapping[str, Any], labelled: Labelled, combined: Combined, ids: Sequence[str], classes: Sequence[str]
) -> Trained:
    """A blend's cross-fitted answers as if they were the rows of a run."""
    sidecar = {key: document[key] for key in ("dataset", "dataset_sha256", "folds_sha256") if key in document}
    rows = Predictions(
        tuple(ids),
        tuple(classes),
        np.asarray(combined.probs),
        "oof",
        labelled.labels,
        labelled.folds[0].tolist(),
        labelled.groups,
        {**sidecar, "metric": document["metric"]},
        "sigmoid" if labelled.sets else "softmax",
    )
    folds = labelled.folds[0]
    return Trained(str(document["name"]), rows, folds, len(np.unique(folds)), np.asarray(combined.decisions))


def _apart(document: Mapping[str, Any], labelled: Labelled, answers: Sequence[Combined]) -> float:
    """How far the score of these answers is from the one that the blend was judged by."""
    honest = document["honest"]
    return 0.0 if honest is None or not answers else abs(_score(labelled, answers) - float(honest["value"]))


def _score(labelled: Labelled, answers: Sequence[Combined]) -> float:
    scores = [labelled.measure(labelled.labels, each.probs, decisions=each.decisions) for each in answers]
    return float(np.mean(scores))


def _honest_remark(document: Mapping[str, Any], labelled: Labelled, answers: Sequence[Combined]) -> tuple[str, ...]:
    """Says where the answers aren't those that the blend was judged by."""
    if _apart(document, labelled, answers) < 1e-6:
        return ()
    return (
        f"{document['name']}: learned anew for each fold it scores {_score(labelled, answers):.4f}, while blend.json "
        f"says {document['honest']['value']:.4f}: its record does not hold all that it was asked for",
    )
