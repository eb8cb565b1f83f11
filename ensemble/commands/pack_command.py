"""`ens pack`: all that prediction needs of a run or blend, in one folder or zip."""

from __future__ import annotations

from argparse import Namespace

from ensemble.core.complaints import counted
from ensemble.runs.pack import pack
from ensemble.screen.outcome import Outcome, shown_path


def run(arguments: Namespace) -> Outcome:
    """Pack, and show what is in it and the command that uses it."""
    packed = pack(
        arguments.source,
        arguments.out,
        allow_code=arguments.allow_code,
        outputs=arguments.outputs,
        folder=arguments.folder,
    )
    document, place = packed.document, shown_path(str(packed.path))
    names = ", ".join(document["members"])
    return Outcome(
        document,
        [
            f"complete: {place}: {document['kind']} {document['name']} of {names}",
            f"{counted(document['files'], 'file')}, {document['bytes'] / 1e6:,.1f} MB; SHA-256 of its manifest "
            f"{document['manifest_sha256']}",
            f"next, here or on another machine: ens predict {place} --images DIR",
        ],
    )
