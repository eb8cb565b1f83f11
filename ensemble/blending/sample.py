"""Where the organiser's sample file lies: in the folder that the members' images came from. Reads no sample."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ensemble.blending.members import Member
from ensemble.core.run import RunFolder
from ensemble.errors import InputError

__all__ = ["find_sample"]


def find_sample(sample: str, dataset: str, members: Sequence[Member]) -> Path | None:
    """The dataset's sample: below the folder that a member's `run.json` names, else below `ENS_DATA_ROOT/NAME`.

    None where it is in neither, as for files from another machine.
    """
    return next((folder / sample for folder in _folders(dataset, members) if (folder / sample).is_file()), None)


def _folders(dataset: str, members: Sequence[Member]) -> Iterator[Path]:
    for member in members:
        try:
            record = RunFolder(member.path.parent).load_record()
        except InputError:  # a run of another version of `ens`: its probabilities are good, its record no help
            continue
        if record is not None and record.get("dataset") == dataset and isinstance(record.get("data_folder"), str):
            yield Path(record["data_folder"])
    root = os.environ.get("ENS_DATA_ROOT")
    if root:
        yield Path(root) / dataset
