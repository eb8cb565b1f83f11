"""Where pages lie, what their files are called, and the way from one to another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

REPORTS = "reports"
"""The folder of `outputs/` that pages go to."""


def page_name(kind: str, places: Sequence[str]) -> str:
    """The name of a page's file, without its ending: `index`, `run-NAME`, `study-NAME`, `data-NAME`, `A-vs-B`."""
    if kind == "index":
        return "index"
    names = [_file_name(place) for place in places]
    if kind == "comparison":
        return "-vs-".join(names)[:150]
    return f"{kind}-{names[0]}"


class PageLinks:
    """The pages that are there already, as addresses from the page that is being written."""

    def __init__(self, outputs: Path, page: Path | None = None) -> None:
        """`page`: the file that the links stand in; None for one beside the others."""
        self._reports = outputs / REPORTS
        try:
            self.names = sorted(path.stem for path in self._reports.glob("*.html"))
        except OSError:
            self.names = []
        self._known = frozenset(self.names)
        self._prefix = ""
        if page is not None:
            way = os.path.relpath(self._reports.resolve(), page.parent.resolve())
            self._prefix = "" if way == "." else f"{quote(Path(way).as_posix())}/"

    def to(self, kind: str, place: str) -> str | None:
        """The address of the page of a run, study, blend or dataset; None where it was not written yet."""
        return self.of(page_name(kind, [place]))

    def of(self, name: str) -> str | None:
        """The address of a page by the name of its file; `./`, or a colon in a name would make a scheme of it."""
        if name not in self._known:
            return None
        return f"{self._prefix or './'}{quote(name)}.html"


def _file_name(place: str) -> str:
    """A place's last name as a file's; one that loses letters gets a short hash, so that no two names share a page."""
    path = Path(place.partition("=")[0])
    name = "-".join(path.parts[-2:]) if path.name.startswith("trial-") else path.name
    name = name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".csv")
    kept = "".join(letter if letter.isalnum() or letter in "-_.+" else "-" for letter in name)[:100]
    return kept if kept == name and kept else f"{kept or 'page'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
