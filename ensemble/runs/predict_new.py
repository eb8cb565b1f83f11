"""New images through what is finished: a run's networks, or a blend's members and then its formula.

Needs nothing but the folders of the run, or of the blend and its members, wherever they were moved. A member's images
become probabilities in a worker; they are combined here, by the code that combined the blend's own test rows. The verbs
are in `predict.py`, packs in `pack.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blending.align import Stack
from ensemble.blending.blend import CARRIED, load_blend
from ensemble.blending.formula import Formula, blend_command
from ensemble.combining.combine import Combined, Matrix
from ensemble.core.dataset import BoxSpec
from ensemble.core.files import RUN_SWAP, replaced_together, scratch_folder, sha256_text
from ensemble.core.labels import Activation
from ensemble.core.npy import map_matrix
from ensemble.core.predictions import Predictions
from ensemble.core.records import EARLIER, Record, doubt_lines
from ensemble.core.run import PredictingRun, RunFolder, load_fold, load_model, verify_files
from ensemble.data.new_images import PredictionFiles, find_new_images
from ensemble.engine.task import Task
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews
from ensemble.recipe.own_code import check_code_of_run
from ensemble.runs.devices import Workplace
from ensemble.runs.predict_again import record_of, run_all
from ensemble.runs.record import sidecar_of
from ensemble.runs.request import OnEvent, fold_keys

_BLOCK_NUMBERS = (
    1 << 22
)  # of a member's matrix at once: 16 MB of 32 bits, and work enough for the threads of a combiner
_WEIGHTS_AT_ONCE = 4 << 30  # bytes that one worker loads: room on any GPU, and on a machine of 8 GB at most half
_TASKS = "ensemble.training.predict_images"


@dataclass(frozen=True)
class ImagesAsked:
    """Which images, and how."""

    sources: Sequence[str]
    bad_images: str = "error"
    top: int = 1
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """What the predictions' folder is called, after the sources."""
        first = Path(self.sources[0])
        name = first.stem if len(self.sources) == 1 else f"{first.stem}-and-{len(self.sources) - 1}-more"
        return name or "images"

    def plain(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What a task is told, for a run with this record."""
        decided = record["decided"]
        return {
            "sources": list(self.sources),
            "box": record.get("box"),
            "bad_images": self.bad_images,
            "precision": self.precision,
            "threads": decided["threads"] if decided["device"] == "cpu" else 1,
        }


@dataclass(frozen=True)
class RunSource:
    """A finished run that predicts: with all of its folds, or some."""

    run: RunFolder
    record: Record
    views: RunViews
    folds: Sequence[int] | None = None
    codes: Mapping[str, Any] = field(default_factory=dict)
    """How a worker imports the code that may run, see `with_code`."""

    @classmethod
    def of(cls, run: RunFolder) -> RunSource:
        """With its own views and all of its folds."""
        record = record_of(run, PredictingRun)
        return cls(run, record, RunViews.of(record))

    def folders(self) -> list[Path]:
        """The folders of the folds to predict with; refused where one has no weights."""
        k, repeats = self.record["folds"]["k"], self.record["folds"]["repeats"]
        strangers = sorted(set(self.folds or ()) - set(range(k)))
        if strangers:
            raise InputError(f"--folds {','.join(map(str, strangers))}: this run has folds 0 to {k - 1}")
        keys = [key for key in fold_keys(k, repeats) if self.folds is None or key.fold in self.folds]
        places = [self.run.fold_path(key, repeats) for key in keys]
        missing = [place.name for place in places if not (place / "model.safetensors").is_file()]
        if missing:
            whole = sorted({key.fold for key, place in zip(keys, places, strict=True) if place.name not in missing})
            rest = f"; --folds {','.join(map(str, whole))} takes those that are" if whole else ""
            raise InputError(f"{self.run.path}: {', '.join(missing)} not trained, or not here{rest}")
        return places

    def models(self) -> list[Record]:
        """What the `model.json` of each fold says."""
        return [load_model(fold) for fold in self.folders()]

    def with_code(self, folder: Path, *, allow_code: bool) -> RunSource:
        """The same, with the code that its networks name; refused if that is neither the user's own nor allowed."""
        codes: dict[str, Any] = {}
        for fold, model in zip(self.folders(), self.models(), strict=True):
            for name, code in model.get("code", {}).items():
                if codes.setdefault(name, code) != code:  # only one of them would be looked at
                    raise InputError(f"{fold / 'model.json'}: {name} is other code than in the folds before")
        codes = check_code_of_run(self.run.path, codes, folder / "recipes", allow_code=allow_code)
        return replace(self, codes=codes)

    @property
    def is_verified(self) -> bool:
        """Whether the hashes of all its records showed that they are as they were written."""
        return self.record.is_verified and all(model.is_verified for model in self.models())

    def predict_into(self, out: Path, asked: ImagesAsked, workplace: Workplace, on_event: OnEvent) -> dict[str, Any]:
        """One task that takes every image through every fold; its files are put in place when they are whole."""
        about = sidecar_of(self.record | {"tta": self.views.plain()})
        with _staged(out) as (stage, scratch):
            arguments = {
                **asked.plain(self.record),
                "folds": [str(folder.absolute()) for folder in self.folders()],
                "codes": self.codes,
                "views": self.views.choice.plain(),
                "out": str(stage.absolute()),
                "about": about,
                "top": min(asked.top, len(self.record["classes"])),
            }
            task = Task(f"{self.run.name}/images", f"{_TASKS}:predict_images", arguments, scratch / "task")
            (result,) = run_all([task], workplace, None, on_event)
        doubts = {} if self.is_verified else {self.run.name: EARLIER}
        told = {"unverified": list(doubts), "notes": doubt_lines(doubts)}
        return {"out": str(out), "tta": self.views.choice.text, **result, **told}


@dataclass(frozen=True)
class BlendSource:
    """A blend that predicts."""

    where: Path
    """Its `blend.json`."""
    document: Record
    formula: Formula
    members: Mapping[int, RunSource]
    """Those with a say, by their number in the document."""

    @classmethod
    def load(cls, where: Path, outputs: Sequence[Path]) -> BlendSource:
        """From a `blend.json`, its members' runs looked up in these folders of outputs."""
        document, formula = load_formula(where)
        runs = _find_members(where, document, formula.needed, outputs)
        return cls(where, document, formula, {number: RunSource.of(run) for number, run in runs.items()})

    def with_code(self, folder: Path, *, allow_code: bool) -> BlendSource:
        """The same, with the code that its members' networks name; refused as for a run, all of them together."""
        problems: list[str] = []
        members: dict[int, RunSource] = {}
        for number, member in self.members.items():
            try:
                members[number] = member.with_code(folder, allow_code=allow_code)
            except InputError as error:
                problems += error.messages
        if problems:
            raise InputError(*problems)
        return replace(self, members=members)

    def predict_into(self, out: Path, asked: ImagesAsked, workplace: Workplace, on_event: OnEvent) -> dict[str, Any]:
        """Every image through every member, and then through the formula, block by block; files as for a run."""
        box = next(iter(self.members.values())).record.get("box")
        rows = find_new_images(asked.sources, None if box is None else BoxSpec.model_validate(box))
        classes, sets = tuple(self.document["classes"]), self.formula.sets
        with _staged(out) as (stage, scratch):
            results = run_all(self._tasks(asked, stage, scratch), workplace, None, on_event)
            ids_sha256 = sha256_text("\n".join(rows.ids))
            if any(result["ids_sha256"] != ids_sha256 for result in results):
                raise InputError(f"{', '.join(asked.sources)}: changed while it was predicted; start again")
            order: dict[str, list[str]] = {}
            for result in results:
                order |= result["classes"]
            stack = self._stack(scratch, order, len(rows.ids))
            with PredictionFiles(stage, rows.ids, classes, asked.top, sets=sets) as files:
                for combined in self._answers(stack, len(rows.ids)):
                    files.add(combined.probs, combined.decisions)
            seconds = sum(float(result["seconds"]) for result in results)
            parameters = sum(int(result["parameters"]) for result in results)
            cost = {"seconds_per_1000_images": round(seconds, 4), "parameters": parameters}
            bad = int(results[0]["bad"])
            about = {**self._origin(), "cost": cost, **({"prior_rows": bad} if bad else {})}
            activation: Activation = "sigmoid" if sets else "softmax"
            files.save(Predictions(rows.ids, classes, files.probs(), "test", sidecar=about, activation=activation))
        return {
            "out": str(out),
            "blend": self.document["name"],
            "method": self.document["used"],
            "members": [self.document["members"][number]["run"] for number in self.members],
            "tta": "of its members",
            "rows": len(rows.ids),
            "bad": bad,
            "cost": cost,
            "folds": sum(len(member.folders()) for member in self.members.values()),
            "precision": asked.precision,
            "unverified": list(self.doubts),
            "notes": [*self.notes(), *doubt_lines(self.doubts)],
        }

    def _origin(self) -> dict[str, Any]:
        """What the probability file says of where it comes from."""
        document = self.document
        return {
            "run": document["name"],
            "blend_of": [member["run"] for member in document["members"]],  # so that it can't vote in the next
            "method": document["used"],
            "metric": document["metric"],
            **{key: document[key] for key in CARRIED if key in document},
        }

    @property
    def doubts(self) -> dict[str, str]:
        """Why the blend itself, or some of its members, are unverified, by their names."""
        members = {str(self.document["members"][number]["run"]): member for number, member in self.members.items()}
        names = [name for name, member in members.items() if not member.is_verified]
        names += [name for name in self.document["unverified"] if name not in names]
        return dict.fromkeys([*([] if self.document.is_verified else [self.document["name"]]), *names], EARLIER)

    def notes(self) -> list[str]:
        """What a person should know of the answers."""
        if self.formula.is_by_row:
            return []
        return [
            "method rank compares the images of one command with one another: an image's probabilities depend on the "
            "others, and few images, or other shares of classes than the blend was judged on, are ranked badly"
        ]

    def _tasks(self, asked: ImagesAsked, stage: Path, scratch: Path) -> list[Task]:
        """A task for all members that take images of one size; several where a worker can't hold all their weights."""
        groups: dict[str, list[tuple[int, RunSource]]] = defaultdict(list)
        for number, member in self.members.items():
            model = member.models()[0]
            same = [asked.plain(member.record), model.get("stored"), model["network"]["image_size"]]
            groups[repr(same)].append((number, member))
        tasks: list[Task] = []
        for group in groups.values():
            for part in _parts(group):
                arguments = {
                    **asked.plain(part[0][1].record),
                    "out": str(stage.absolute()),
                    "matrices": str(scratch.absolute()),
                    "members": [
                        {
                            "name": _name(number),
                            "folds": [str(folder.absolute()) for folder in member.folders()],
                            "codes": member.codes,
                            "views": member.views.choice.plain(),
                        }
                        for number, member in part
                    ],
                }
                name = f"{self.document['name']}/images" + (f"-{len(tasks) + 1}" if tasks else "")
                place = scratch / f"task-{len(tasks)}"
                tasks.append(Task(name, f"{_TASKS}:predict_members", arguments, place))
        return tasks

    def _stack(self, folder: Path, order: Mapping[str, Sequence[str]], rows: int) -> Stack:
        """The members' matrices, mapped, with the blend's classes; those without a say are never read."""
        classes = self.document["classes"]
        nothing = np.broadcast_to(np.float32(1 / len(classes)), (rows, len(classes)))
        matrices: list[Matrix] = [nothing] * len(self.document["members"])
        columns: list[Any] = [None] * len(matrices)
        for number in self.members:
            own = order[_name(number)]
            if set(own) != set(classes):
                run = self.document["members"][number]["run"]
                raise InputError(f"{self.where}: the classes of {run} are not those of the blend; blend again")
            matrices[number] = map_matrix(folder / f"{_name(number)}.npy")
            if own != classes:
                position = {name: column for column, name in enumerate(own)}
                columns[number] = np.array([position[name] for name in classes], dtype=np.int64)
        return Stack(matrices, [None] * len(matrices), columns)

    def _answers(self, stack: Stack, rows: int) -> Iterator[Combined]:
        """The blend's answers, in order; all at once where a row's depends on the others."""
        step = max(1, _BLOCK_NUMBERS // len(self.document["classes"])) if self.formula.is_by_row else rows
        for start in range(0, rows, step):
            yield self.formula.answer(stack.block(start, min(start + step, rows)))


def load_formula(where: Path) -> tuple[Record, Formula]:
    """A `blend.json`, and what it says of how to apply it."""
    try:
        document = load_blend(where)
    except FileNotFoundError:
        raise InputError(f"{where}: missing; blend again") from None
    return document, Formula.of(document, str(where))


def _find_members(
    where: Path, document: Mapping[str, Any], needed: Sequence[int], outputs: Sequence[Path]
) -> dict[int, RunFolder]:
    """The runs of the members with a say; all that are no runs, not here, or not as they were blended, together."""
    problems: list[str] = []
    runs: dict[int, RunFolder] = {}
    others: dict[str, RunFolder] | None = None  # every run here by the hashes of its files, looked up once if at all
    for number in needed:
        member = document["members"][number]
        name, sha256 = member["run"], member["npy_sha256"]
        if not member.get("identity"):
            problems.append(
                f"{name}: adopted from a file, so it has no weights to predict with; blend without it, or give it no "
                f"say (--method weighted --weights {name}=0,…)"
            )
            continue
        label = name.partition("@")[0].partition("#")[0]
        named = [RunFolder(place / path) for place in outputs for path in (label, f"studies/{label}")]
        here = [run for run in named if (run.path / "run.json").is_file()]
        run = next((run for run in here if sha256 in _hashes(run)), None)
        if run is None:
            others = _all_runs(outputs) if others is None else others
            run = others.get(sha256)
        if run is not None:
            runs[number] = run
            problems += changed_folds(run)
        elif here:
            problems.append(
                f"{here[0].path}: changed since it was blended (its predictions are others); blend again: "
                f"{blend_command(document)}"
            )
        else:
            places = " or ".join(dict.fromkeys(str(place) for place in outputs))
            problems.append(f"{name}: no such run in {places}; copy its folder there, or name its place with --outputs")
    if problems:
        raise InputError(f"{where}: can't be applied", *(f"  {problem}" for problem in problems))
    return runs


def _hashes(run: RunFolder) -> set[str]:
    """Of its merged matrices, as its record says."""
    files = record_of(run)["files"]
    return {files[name] for name in ("probs.npy", "oof.npy") if name in files}


def _all_runs(outputs: Sequence[Path]) -> dict[str, RunFolder]:
    """Every finished run in these folders, trials too, by the hash of each of its matrices: folders may be renamed."""
    runs: dict[str, RunFolder] = {}
    for place in outputs:
        for path in sorted([*place.glob("*/run.json"), *place.glob("studies/*/*/run.json")]):
            try:
                runs |= dict.fromkeys(_hashes(RunFolder(path.parent)), RunFolder(path.parent))
            except InputError:  # of another version of `ens`: not a member of this blend, which this version wrote
                continue
    return runs


def changed_folds(run: RunFolder) -> list[str]:
    """What of a run's folds is no longer what it was trained to; weights are compared when they are loaded."""
    record = record_of(run)
    problems = []
    try:
        folds = RunSource(run, record, RunViews.of(record)).folders()
    except InputError as error:
        return list(error.messages)
    for fold in folds:
        try:
            finished = load_fold(fold)
            hashes = {"model.json": finished["files"]["model.json"]}
            if finished["identity"] != record["identity"] or verify_files(fold, hashes):
                problems.append(f"{fold}: changed since it was blended; train the run again, or blend without it")
        except FileNotFoundError:
            problems.append(f"{fold / 'fold.json'}: missing; train the run again")
        except InputError as error:
            problems += error.messages
    return problems


def _parts(group: Sequence[tuple[int, RunSource]]) -> list[list[tuple[int, RunSource]]]:
    """Members in order, as many together as one worker holds; one that is too large is alone."""
    parts: list[list[tuple[int, RunSource]]] = []
    room = 0
    for number, member in group:
        size = sum((folder / "model.safetensors").stat().st_size for folder in member.folders())
        if not parts or size > room:
            parts.append([])
            room = _WEIGHTS_AT_ONCE
        parts[-1].append((number, member))
        room -= size
    return parts


def _name(number: int) -> str:
    return f"member-{number}"


@contextmanager
def _staged(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder whose files become those of `out` together, and one beside it for what is in between.

    The latter lies on the disk of `out`, which was chosen with room for predictions; a killed command's is swept.
    """
    with ExitStack() as stack:
        for place in (out.parent, out):
            if not place.exists():  # leave nothing where nothing was written
                stack.callback(_remove_if_empty, place)
        out.mkdir(parents=True, exist_ok=True)
        scratch = stack.enter_context(scratch_folder(out))
        yield stack.enter_context(replaced_together(out, RUN_SWAP)), scratch


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
