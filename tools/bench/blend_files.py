"""How long the mean of a hundred files takes, every check and hash included: against CSV tables and pandas.

And at what rate the averaging alone reads, against a plain sum of the same bytes.

.venv/bin/python tools/bench/blend_files.py                   100 x 50,000 x 10; the tables take 700 MB of disk
.venv/bin/python tools/bench/blend_files.py --members 20      a fifth
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from side_by_side import Contest

from ensemble.blending.align import align
from ensemble.blending.inputs import load_members
from ensemble.combining.combine import block_by_block, block_of, soft, weighted_mean
from ensemble.core.predictions import Predictions, save_predictions

Array = npt.NDArray[np.float32]
_RUNS = 5


def main() -> int:
    """Time both in turn, and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=10)
    arguments = parser.parse_args()
    size = arguments.members, arguments.rows, arguments.classes
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as name:
        _files(Path(name), *size)
    _averaging(*size)
    return 0


def _files(folder: Path, members: int, rows: int, classes: int) -> None:
    matrices = make_files(folder, members, rows, classes)
    contest = Contest(_RUNS if members <= 20 else 3)
    for name, work in {"ens": _ours, "pandas, merge": _merged, "pandas, running sum": _summed}.items():
        contest.enter(name, partial(work, folder, members))
    contest.hold(warm_up=False)
    for answer in contest.answers.values():
        np.testing.assert_allclose(answer, np.mean(matrices, axis=0, dtype=np.float64), atol=1e-6)
    print(f"mean of {members} files of {rows:,} x {classes}; ens with checks and hashes")
    print(contest.row("ens", "pandas, merge", wanted=15))
    print(contest.row("ens", "pandas, running sum"), flush=True)


def make_files(folder: Path, members: int, rows: int, classes: int) -> list[Array]:
    """The same numbers as `m000/probs.npy`, … and `m000.csv`, …; rows of each table in an order of its own."""
    import pandas as pd

    random, matrices = np.random.default_rng(0), []
    ids, names = tuple(f"images/{row:06}.jpg" for row in range(rows)), tuple(f"class {c}" for c in range(classes))
    for member in range(members):
        matrix = random.random((rows, classes), dtype=np.float32)
        matrix /= matrix.sum(axis=1, keepdims=True)
        matrices.append(matrix)
        sidecar = {"run": f"m{member:03}"}
        save_predictions(folder / f"m{member:03}" / "probs", Predictions(ids, names, matrix, "test", sidecar=sidecar))
        table = pd.DataFrame(matrix, columns=list(names))
        table.insert(0, "id", ids)
        table.to_csv(folder / f"m{member:03}.csv", index=False)
    return matrices


def _ours(folder: Path, members: int) -> Any:
    loaded = load_members([folder / f"m{member:03}" for member in range(members)])
    aligned = align([member.main for member in loaded], [str(member.path) for member in loaded])
    return soft(aligned.stack).probs


def _merged(folder: Path, members: int) -> Any:
    """As a notebook does it: all columns of all tables beside one another, and the mean of those of each class."""
    import pandas as pd

    total = pd.read_csv(folder / "m000.csv")
    names = list(total.columns[1:])
    for member in range(1, members):
        total = total.merge(pd.read_csv(folder / f"m{member:03}.csv"), on="id", suffixes=("", f"_{member}"))
    several = {name: [name, *(f"{name}_{member}" for member in range(1, members))] for name in names}
    return pd.DataFrame({name: total[columns].mean(axis=1) for name, columns in several.items()}).to_numpy()


def _summed(folder: Path, members: int) -> Any:
    """As frugal as pandas can be: merged one by one, only sums kept."""
    import pandas as pd

    total = pd.read_csv(folder / "m000.csv")
    names = list(total.columns[1:])
    for member in range(1, members):
        both = total.merge(pd.read_csv(folder / f"m{member:03}.csv"), on="id", suffixes=("", "_next"))
        sums = {name: both[name] + both[f"{name}_next"] for name in names}
        total = both[["id"]].join(pd.DataFrame(sums, index=both.index))
    return (total[names] / members).to_numpy()


def averaged(stack: list[Any]) -> list[Any]:
    """As `soft` does it: as many rows at a time, without the decisions."""
    return block_by_block(lambda start, stop: weighted_mean(block_of(stack, start, stop)), *stack[0].shape)


def _averaging(members: int, rows: int, classes: int) -> None:
    random = np.random.default_rng(0)
    for kind in (np.float32, np.float64):
        stack = [random.random((rows, classes), dtype=kind) for _ in range(members)]
        contest = Contest(_RUNS)
        contest.enter("averaging", partial(averaged, stack))
        contest.enter("plain sums", partial(_sums, stack))
        print(f"averaging alone, {members} x {rows:,} x {classes} of {np.dtype(kind).name}")
        print(contest.hold().row("averaging", "plain sums", wanted=0.7), flush=True)


def _sums(stack: list[Any]) -> list[float]:
    return [float(matrix.sum()) for matrix in stack]


if __name__ == "__main__":
    sys.exit(main())
