"""`ens report`: write one page about what lies there, and say where it is."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.reporting.report import report
from ensemble.screen.outcome import Outcome, shown_path
from ensemble.screen.progress import progress


def run(arguments: argparse.Namespace) -> Outcome:
    """Write the page of `arguments.reported`; with `--open` show it."""
    is_shown = False
    with progress(arguments) as told:

        def on_event(event: Mapping[str, Any]) -> None:
            nonlocal is_shown
            if event["event"] == "live-page" and arguments.open:
                is_shown = _open(event["path"])
            told(event)

        document = report(
            arguments.reported,
            out=arguments.out,
            thumbnails=arguments.thumbnails,
            live=arguments.live,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        ).document
    lines = [f"{document['title']}: {document['verdict']}", *document["remarks"]]
    pictures = f"{document['pictures']:,} pictures" if document["pictures"] != 1 else "1 picture"
    size = document["bytes"] / 1e6
    lines.append(f"written: {shown_path(document['page'])} ({size:.2f} MB, {pictures}, {document['seconds']:.1f} s)")
    if arguments.open and not is_shown and not _open(document["page"]):
        lines.append("no browser could be opened here; open that file in one")
    return Outcome(document, lines)


def _open(page: str) -> bool:
    return webbrowser.open(Path(page).absolute().as_uri())
