"""How long tables and fold plans take to read and write, against pandas, which has to be imported first.

.venv/bin/python tools/bench/tables.py --rows 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from side_by_side import Contest

from ensemble.core.foldplan import FoldPlan, load_plan, save_plan
from ensemble.core.text import read_text_table

_FOLDS = 5


def main() -> int:
    """Time both in turn, three lines for each number of rows; pandas without its import, which is printed first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of tables")
    parser.add_argument("--runs", type=int, default=3, help="how often to time each (3)")
    arguments = parser.parse_args()
    print(f"import pandas, beyond numpy: {_import_seconds('numpy, pandas') - _import_seconds('numpy'):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for rows in arguments.rows:
            _compare(Path(folder), rows, arguments.runs)
    return 0


def _import_seconds(modules: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return time.perf_counter() - started


def _compare(folder: Path, rows: int, runs: int) -> None:
    """Both end with the same values: columns as tuples of text, folds as whole numbers."""
    table, plan_file, frame_file = folder / "table.csv", folder / "plan.csv", folder / "frame.csv"
    ids = tuple(f"{row:07d}" for row in range(rows))
    lines = (f"{row_id},images/{row_id}.jpg,class {row % 10},p{row // 5}" for row, row_id in enumerate(ids))
    table.write_text("\n".join(["id,image,label,person", *lines, ""]))
    groups = tuple(f"p{row // 5}" for row in range(rows))
    labels = tuple(f"class {row % 10}" for row in range(rows))
    folds = (np.arange(rows) // 5 % _FOLDS).reshape(-1, 1)

    def read_frame() -> dict[str, tuple[str, ...]]:
        frame = pd.read_csv(table, dtype=str, keep_default_na=False, na_filter=False)
        return {str(name): tuple(frame[name].tolist()) for name in frame}

    def write_plan() -> None:
        save_plan(plan_file, FoldPlan("made-up", "group", _FOLDS, 0, ids, labels, groups, folds))

    def write_frame() -> None:
        columns = {"id": ids, "group": groups, "label": labels, "fold": folds[:, 0]}
        pd.DataFrame(columns).to_csv(frame_file, index=False, lineterminator="\n")

    def read_plan_frame() -> tuple[object, ...]:
        frame = pd.read_csv(frame_file, dtype={"id": str, "group": str, "label": str}, na_filter=False)
        return (
            tuple(frame["id"].tolist()),
            tuple(frame["group"].tolist()),
            tuple(frame["label"].tolist()),
            frame["fold"],
        )

    for what, ours, theirs in (
        ("read a table", lambda: read_text_table(table), read_frame),
        ("write a plan", write_plan, write_frame),
        ("read a plan", lambda: load_plan(plan_file), read_plan_frame),
    ):
        contest = Contest(runs)
        contest.enter(f"{what}, {rows:,} rows", ours)
        contest.enter("pandas", theirs)
        print(contest.hold().row(f"{what}, {rows:,} rows", "pandas"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
