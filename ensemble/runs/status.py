"""What is in an outputs folder: runs, studies and blends as their own files say, how far they are, what is missing.

Only reads, and takes no lock, so it works beside a running command. The next step is worded in `status_command.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.core.files import load_json
from ensemble.core.locks import lock_holder
from ensemble.core.metrics import is_greater_better
from ensemble.core.notebook import NotebookValue, check_arguments
from ensemble.core.run import FoldKey, RunFolder, find_runs, verify_files
from ensemble.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"run": "runs", "study": "studies", "blend": "blends"}
_COLUMNS = ("kind", "name", "state", "dataset", "metric", "value", "plan", "missing", "path")
_TAIL = 8192  # bytes: the last line of a log, with room for a long one
_EPOCH = re.compile(rb"epoch (\d+)\b")  # bytes: half a character at the cut must not matter


class Status(NotebookValue, dict[str, Any]):
    """What an outputs folder holds, as `ens status --json` prints it: lists of mappings, `runs`, `studies`, `blends`."""

    @property
    def headline(self) -> str:
        """How many of each kind."""
        counts = [f"{len(self[plural])} {plural if len(self[plural]) != 1 else kind}" for kind, plural in KINDS.items()]
        return f"{self['outputs']}: {', '.join(counts)}"

    def table(self) -> pd.DataFrame:
        """A row a run, study and blend: its state, deciding metric and score; only scores of one `plan` compare."""
        import pandas as pd

        rows = [_row(kind, item) for kind, plural in KINDS.items() for item in self[plural]]
        return pd.DataFrame(rows, columns=_COLUMNS)


@check_arguments
def status(outputs: Path | str = "outputs") -> Status:
    """`runs`, `studies`, `blends`, best first, each with what its JSON file says, its `state` and what is `missing`."""
    outputs = Path(outputs)
    if not outputs.is_dir():
        raise InputError(f"{outputs}: no such folder; `ens train` makes it, --outputs names another")
    return Status(
        outputs=str(outputs),
        runs=_ranked([_run(folder) for folder in find_runs(outputs)]),
        studies=[_study(path) for path in sorted(outputs.glob("studies/*/study.json"))],
        blends=[_blend(path) for path in sorted(outputs.glob("blends/*/blend.json"))],
    )


def _row(kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """One run, study or blend of the table; an unreadable one has no more than its name and state."""
    value = {
        "run": ((item.get("scores") or {}).get("oof") or {}).get(item.get("metric")),
        "study": (item.get("best") or {}).get("value"),
        "blend": (item.get("honest") or {}).get("value"),
    }[kind]
    return {
        "kind": kind,
        "name": item[kind],
        "state": item.get("state"),
        "dataset": item.get("dataset"),
        "metric": item.get("metric"),
        "value": value,
        "plan": plan_of(item),
        "missing": "; ".join(item["missing"]),
        "path": item["path"],
    }


def plan_of(item: Mapping[str, Any]) -> str | None:
    """The first letters of the hash of the fold plan of a run or blend: scores on different plans do not compare."""
    sha256 = (item.get("folds") or {}).get("sha256") or item.get("folds_sha256")
    return None if sha256 is None else str(sha256)[:8]


def _run(folder: RunFolder) -> dict[str, Any]:
    """A run's record with its state as of now; a broken record is reported, not raised, so that others are shown."""
    try:
        record, problems = folder.load_record(), ["run.json"]
    except InputError as error:
        record, problems = None, list(error.messages)
    if record is None:
        return {"run": folder.name, "path": str(folder.path), "state": "unreadable", "missing": problems}
    holder = lock_holder(folder.path)
    now = "running" if holder is not None else "interrupted" if record["state"] == "running" else str(record["state"])
    missing = []
    for fold in record["fold_states"]:
        if fold["state"] != "complete":
            repeat = f" of repeat {fold['repeat']}" if record["folds"]["repeats"] > 1 else ""
            was_cut = fold["state"] == "running" and now == "interrupted"  # nobody is training it any more
            missing.append(
                f"fold {fold['fold']}{repeat}: {fold['error'] or ('interrupted' if was_cut else fold['state'])}"
            )
    report = {**record, "path": str(folder.path), "state": now, "missing": [*missing, *_lost(folder, record)]}
    if holder is not None:
        report.update(process=str(holder), progress=_folds_in_progress(folder, record))
    return report


def _folds_in_progress(run: RunFolder, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`fold, repeat, epoch, epochs` of each fold being trained; `epoch` counts finished ones."""
    repeats = record["folds"]["repeats"]
    return [
        {
            "fold": state["fold"],
            "repeat": state["repeat"],
            "epoch": _finished_epochs(run.fold_path(FoldKey(state["repeat"], state["fold"]), repeats)),
            "epochs": record["recipe"]["train"]["epochs"],
        }
        for state in record["fold_states"]
        if state["state"] == "running"
    ]


def _finished_epochs(folder: Path) -> int:
    """From the last line of the history, else of the log, that names one; 0 before the first."""
    rows = _tail(folder / "history.csv").rsplit(b"\n", 2)  # what follows the last newline may be half a row
    if len(rows) > 1 and rows[-2].split(b",")[0].isdigit():
        return int(rows[-2].split(b",")[0])
    epochs = _EPOCH.findall(_tail(folder / "log.txt"))
    return int(epochs[-1]) if epochs else 0


def _tail(path: Path) -> bytes:
    """The end of a file that may be growing; nothing if there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            return stream.read(_TAIL)
    except OSError:
        return b""


def _lost(folder: RunFolder, record: Mapping[str, Any]) -> list[str]:
    """Files that are gone or were changed; only those younger than the record, which is written last, are hashed."""
    repeats, place = record["folds"]["repeats"], str(folder.path)  # text: `Path` is slow for a thousand runs' files
    notes = [
        f"{FoldKey(state['repeat'], state['fold']).folder_name(repeats)}/fold.json"
        for state in record["fold_states"]
        if state["state"] == "complete"
    ]
    lost = [f"{note} is missing" for note in notes if not os.path.exists(f"{place}/{note}")]
    written = os.stat(folder.record_path).st_mtime_ns  # hashing all files of a thousand runs would take minutes
    doubtful = {name: sha256 for name, sha256 in record["files"].items() if _is_doubtful(f"{place}/{name}", written)}
    return lost + [f"{name} is missing or was changed" for name in verify_files(folder.path, doubtful)]


def _is_doubtful(path: str, written: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns > written
    except OSError:  # gone: `verify_files` will say so
        return True


def _study(path: Path) -> dict[str, Any]:
    """A study's record with its state as of now, and how many of its trials are done."""
    record, holder = _load(path), lock_holder(path.parent)
    trials = [_load(trial) for trial in sorted(path.parent.glob("trial-*/trial.json"))]
    states = [trial.get("state") for trial in trials]
    now = "running" if holder is not None else "complete" if record.get("ended") else "interrupted"
    under_way = sorted(trial.get("number", 0) for trial in trials if trial.get("state") == "running")
    missing = [trial["error"] for trial in [record, *trials] if "state" not in trial and "error" in trial]
    if now != "running":
        missing += [f"trial {number}: interrupted" for number in under_way]
    if record.get("best") and not (path.parent / "best.yaml").exists():
        missing.append("best.yaml")
    report = {
        **record,
        "study": path.parent.name,
        "path": str(path.parent),
        "state": "unreadable" if "error" in record else now,
        "trials": {"all": len(states)} | {state: states.count(state) for state in ("complete", "stopped", "failed")},
        "missing": missing,
    }
    if holder is not None:
        report.update(process=str(holder), under_way=under_way)
    return report


def _blend(path: Path) -> dict[str, Any]:
    """A blend's record, and which of its files are gone."""
    names = ("submission.csv", "probs.npy", "probs.json", "probs.ids.txt")
    missing = [name for name in names if not (path.parent / name).exists()]
    return {**_load(path), "blend": path.parent.name, "path": str(path.parent), "missing": missing}


def _load(path: Path) -> dict[str, Any]:
    """A JSON mapping; what is wrong with the file is in its `error`."""
    try:
        record = load_json(path)
    except (OSError, ValueError) as error:
        return {"error": f"{path}: {error}"}
    return record if isinstance(record, dict) else {"error": f"{path}: not a JSON object"}


def _ranked(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs with a score first, best first within a dataset and metric; then the others by name."""

    def rank(run: dict[str, Any]) -> tuple[Any, ...]:
        scores = (run.get("scores") or {}).get("oof") or {}
        value = scores.get(run.get("metric"))
        if value is None:
            return (1, "", "", 0.0, run["run"])
        sign = -1 if is_greater_better(run["metric"], run) else 1
        return (0, run["dataset"], run["metric"], sign * value, run["run"])

    return sorted(runs, key=rank)
