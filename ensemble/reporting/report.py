"""`ens report`: which page a name asks for, where it is written, and its file. Reads what is there; trains nothing."""

from __future__ import annotations

import datetime as dt
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble import __version__
from ensemble.core.complaints import any_of, closest
from ensemble.core.files import save_text
from ensemble.core.locks import lock_holder
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.run import find_runs
from ensemble.errors import InputError
from ensemble.recipe.find import datasets_by_name
from ensemble.reporting.blend_page import blend_page
from ensemble.reporting.comparison_page import comparison_page
from ensemble.reporting.data_page import data_page
from ensemble.reporting.index_page import index_page
from ensemble.reporting.page import BUDGET, Page, Pictures, ReportJob, render
from ensemble.reporting.page_files import REPORTS, page_name
from ensemble.reporting.run_page import run_page
from ensemble.reporting.study_page import study_page
from ensemble.runs.request import OnEvent

if TYPE_CHECKING:
    import pandas as pd

THUMBNAILS = 200
_RECORDS = {"run.json": "run", "blend.json": "blend", "study.json": "study"}
_LIVE_S = 5  # between two looks at a live page: an epoch of a small net takes about as long
_POLL_S = 1.0
_WATCHED = {
    "run": ("run.json", "*/history.csv"),
    "study": ("study.json", "trial-*/trial.json", "*/*/history.csv"),
    "index": ("*/run.json", "*/*/history.csv", "studies/*/study.json", "studies/*/trials.csv", "blends/*/blend.json"),
}
"""The files that a live page of each kind follows; other kinds do not change by themselves."""


@dataclass(frozen=True, repr=False)
class WrittenReport(NotebookValue):
    """A page that was written: `document` is what `ens report --json` prints, `path` the file."""

    document: dict[str, Any]

    @property
    def path(self) -> Path:
        """The HTML file."""
        return Path(self.document["page"])

    @property
    def headline(self) -> str:
        """What it comes to, and where it lies."""
        return f"{self.document['title']}: {self.document['verdict']} ({self.document['page']})"

    def table(self) -> pd.DataFrame:
        """A row a section."""
        import pandas as pd

        return pd.DataFrame(self.document["sections"])


@check_arguments
def report(
    names: Sequence[Path | str] | Path | str = (),
    *,
    out: Path | str | None = None,
    thumbnails: int = THUMBNAILS,
    live: bool = False,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> WrittenReport:
    """Write one HTML page that needs nothing else: about a run, a study, a blend, a dataset, or several runs compared.

    `names`: nothing for an index of `outputs`; one run, trial, blend, study or dataset; or two and more runs, trials
    or blends. `out`: the file; `thumbnails`: how many pictures there may be. `live`: write the page again and again
    while what it is about is being trained; the page reloads itself.
    """
    outputs, words = Path(outputs), [str(name) for name in listed(names)]
    if not 0 <= thumbnails <= 5_000:
        raise InputError(f"--thumbnails {thumbnails}: 0 to 5000")
    target = None if out is None else _new_page(Path(out))
    kind, places = find_subjects(words, outputs, Path(folder))
    notes = [] if len(words) != 1 else _others_of_that_name(words[0], places[0], outputs, Path(folder))
    if live and kind not in _WATCHED:
        raise InputError(f"--live: a {kind} page does not change by itself; a run, a study or the index does")

    def write(reload_s: int | None) -> WrittenReport:
        job = ReportJob(outputs, Path(folder), Pictures(thumbnails), on_event)
        return write_page(kind, places, job, target, notes=notes, reload_s=reload_s)

    return _follow(write, kind, Path(places[0]), on_event) if live else write(None)


def _follow(write: Callable[[int | None], WrittenReport], kind: str, place: Path, on_event: OnEvent) -> WrittenReport:
    """Write the page whenever something changed until nothing works on it, or Ctrl+C; then without reloading."""
    seen: object = None
    is_first = True
    try:
        while is_active(kind, place):
            state = _stamps(kind, place)
            if state != seen:
                seen = state
                written = write(_LIVE_S)
                if is_first:
                    on_event({"event": "live-page", "path": written.document["page"]})
                is_first = False
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        if is_first:
            raise
    return write(None)


def is_active(kind: str, place: Path) -> bool:
    """Whether a command works on a run or a study, or on any of an outputs folder."""
    if kind == "index":
        folders = [
            *(run.path for run in find_runs(place)),
            *(path.parent for path in place.glob("studies/*/study.json")),
        ]
        return any(lock_holder(folder) is not None for folder in folders)
    return lock_holder(place) is not None or (kind == "run" and lock_holder(place.parent) is not None)


def _stamps(kind: str, place: Path) -> list[tuple[str, int, int]]:
    """What changes when an epoch, a fold or a trial is finished: names, sizes and times of records and histories."""
    patterns = _WATCHED[kind]
    stamps = []
    for path in sorted(path for pattern in patterns for path in place.glob(pattern)):
        try:
            facts = path.stat()
        except OSError:  # replaced at this moment
            continue
        stamps.append((str(path), facts.st_size, facts.st_mtime_ns))
    return stamps


def write_page(
    kind: str,
    places: Sequence[str],
    job: ReportJob,
    target: Path | None,
    *,
    notes: Sequence[str] = (),
    reload_s: int | None = None,
) -> WrittenReport:
    """Make a page and write it; `target`: None for its usual place below `outputs/reports`."""
    started = time.monotonic()
    path = target or job.outputs / REPORTS / f"{page_name(kind, places)}.html"
    page = _MAKERS[kind](places, replace(job, page=path))
    page.reload_s = reload_s
    page.remarks = [*notes, *page.remarks]
    text = render(page, made=dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), version=__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_text(path, text)
    size = len(text.encode())
    return WrittenReport(
        {
            "page": str(path),
            "kind": page.kind,
            "title": page.title,
            "verdict": page.verdict,
            "next": page.next_command,
            "sections": [{"anchor": section.anchor, "title": section.title} for section in page.sections],
            "remarks": list(page.remarks),
            "bytes": size,
            "budget": BUDGET,
            "pictures": len(page.pictures.content),
            "pictures_left_out": page.pictures.refused,
            "seconds": round(time.monotonic() - started, 2),
        }
    )


def find_subjects(words: Sequence[str], outputs: Path, folder: Path) -> tuple[str, list[str]]:
    """The kind of page that words ask for, and the place of each: a folder, or what `--data` takes."""
    if not words:
        if not outputs.is_dir():
            raise InputError(f"{outputs}: no such folder; `ens train` makes it, --outputs names another")
        return "index", [str(outputs)]
    subjects = [_subject(word, outputs, folder) for word in words]
    if len(subjects) == 1:
        return subjects[0][0], [subjects[0][1]]
    pairs = zip(words, subjects, strict=True)
    others = [f"{word} ({kind})" for word, (kind, _) in pairs if kind not in ("run", "blend")]
    if others:
        raise InputError(
            f"{any_of(others, 'and')}: of several names, only runs, trials and blends can be compared; "
            "give each of these a report of its own"
        )
    return "comparison", [place for _, place in subjects]


def _subject(word: str, outputs: Path, folder: Path) -> tuple[str, str]:
    """What a word names: a path before a name, and a run before a blend, a study or a dataset of the same name."""
    if not word.strip():
        raise InputError("an empty name: give a run, a blend, a study or a dataset, or no name at all for an index")
    path = Path(word)
    near = path.parent if path.suffix == ".npy" or path.name in _RECORDS else path
    is_name = not path.is_absolute() and ".." not in path.parts
    places = [near, *([outputs / near, outputs / "blends" / near, outputs / "studies" / near] if is_name else [])]
    for place in places:
        for record, kind in _RECORDS.items():
            if (place / record).is_file():
                return kind, str(place)
    for place in places:
        if (place / "oof.npy").is_file():
            return "run", str(place)
    data, _, _ = word.partition("=")
    if path.is_dir() or path.suffix in (".yaml", ".yml", ".csv") or data in _datasets(folder):
        return "data", word
    known = [note.parent.name for place in (outputs, outputs / "blends", outputs / "studies") for note in _notes(place)]
    meant = closest(path.name, sorted({*known, *_datasets(folder)}))
    hint = f"did you mean {meant}?" if meant else f"ens status --outputs {outputs} lists what there is"
    raise InputError(f"{word}: no such run, blend, study, dataset or folder of images; {hint}")


def _others_of_that_name(word: str, taken: str, outputs: Path, folder: Path) -> list[str]:
    """What else a name could have meant, and how to ask for it."""
    if Path(word).name != word:
        return []
    others = [
        str(place)
        for place in (outputs / word, outputs / "blends" / word, outputs / "studies" / word)
        if str(place) != taken and any((place / record).is_file() for record in _RECORDS)
    ]
    datasets = datasets_by_name(folder)
    if taken != word and word in datasets:
        others.append(str(datasets[word]))
    return [f"{other} has this name too: ens report {shlex.quote(other)}" for other in others]


def _notes(place: Path) -> list[Path]:
    return [note for record in _RECORDS for note in place.glob(f"*/{record}")]


def _datasets(folder: Path) -> list[str]:
    return list(datasets_by_name(folder))


def _new_page(path: Path) -> Path:
    """Refuse a file that is not a page: it may be somebody's work."""
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"--out {path}: give the name of an .html file")
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; give the name of an .html file")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"--out {path}: {parent} is a file, not a folder")
    if path.exists() and 'content="ens ' not in path.read_text(encoding="utf-8", errors="replace")[:4000]:
        raise InputError(f"--out {path}: is there already and no page of ens report; give another name")
    return path


_MAKERS: dict[str, Callable[[Sequence[str], ReportJob], Page]] = {
    "data": data_page,
    "run": run_page,
    "study": study_page,
    "index": index_page,
    "blend": blend_page,
    "comparison": comparison_page,
}
"""What makes each kind of page, from the places that it is about."""
