"""How much memory a blend of very many rows takes, and how long: `ens blend` on files made for it, as its own process.

.venv/bin/python tools/bench/blend_memory.py                                   40 x 100,000 x 18
.venv/bin/python tools/bench/blend_memory.py --members 200 --rows 1000000      7.2 GB of disk, a quarter of an hour
                                             --oof                             out-of-fold rows too: twice that

Resident memory is what the kernel counts for the process: its own (anonymous) and the pages of mapped files that it has
touched and not let go of. The system's cache of files, which no process owns, is not in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

METHODS = ("soft", "hard", "geometric", "power:2", "weighted", "rank")
_TILE = 4096
_FOLDS = 5


def main() -> int:
    """Make the files, blend them by each method, and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=40)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=18)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--oof", action="store_true", help="as many out-of-fold rows beside the test rows")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--folder", type=Path, help="where the files are made (and removed)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ens-bench-", dir=arguments.folder))
    try:
        size = arguments.members, arguments.rows, arguments.classes
        for kind in ("probs", "oof") if arguments.oof else ("probs",):
            make_members(folder, kind, *size, arguments.dtype)
        print(f"{size[0]} members x {size[1]:,} rows x {size[2]} classes, {arguments.dtype}", flush=True)
        for method in arguments.methods:
            print(_line(method, folder, arguments.members), flush=True)
    finally:
        shutil.rmtree(folder)
    return 0


def make_members(folder: Path, kind: str, members: int, rows: int, classes: int, dtype: str) -> None:
    """Trios `m000/probs.npy`, …: a common part, and for each member some of its own that is repeated."""
    random = np.random.default_rng(len(kind))
    labels = random.integers(0, classes, rows)
    common = random.random((rows, classes), dtype=np.float32)
    common[np.arange(rows), labels] += 2
    ids = "".join(f"images/{kind}_{row:08}.jpg\n" for row in range(rows)).encode()
    truth = {"labels": labels.tolist(), "folds": (np.arange(rows) % _FOLDS).tolist(), "groups": list(range(rows))}
    said = json.dumps({key: value if kind == "oof" else None for key, value in truth.items()})[1:-1]
    for member in range(members):
        own = random.random((_TILE, classes), dtype=np.float32) * (1 + member % 7)
        matrix = np.empty((rows, classes), dtype=dtype)
        for start in range(0, rows, _TILE):
            part = common[start : start + _TILE]
            part = part + own[: len(part)]
            matrix[start : start + _TILE] = part / part.sum(axis=1, keepdims=True)
        target = folder / f"m{member:03}" / kind
        target.parent.mkdir(exist_ok=True)
        np.save(target, matrix)
        target.with_name(f"{kind}.ids.txt").write_bytes(ids)
        document = {
            "format": 1,
            "kind": "oof" if kind == "oof" else "test",
            "rows": rows,
            "classes": [f"class {number}" for number in range(classes)],
            "npy_sha256": hashlib.sha256(target.with_name(f"{kind}.npy").read_bytes()).hexdigest(),
            "ids_sha256": hashlib.sha256(ids).hexdigest(),
            "run": f"m{member:03}",
        }
        target.with_name(f"{kind}.json").write_text(json.dumps(document)[:-1] + f", {said}}}", encoding="utf-8")


def _line(method: str, folder: Path, members: int) -> str:
    """One method: seconds, and the most memory at a time."""
    names = [f"m{member:03}" for member in range(members)]
    command = [sys.executable, "-m", "ensemble", "-C", str(folder), "blend", *names, "--method", method, "--json"]
    if method == "weighted":
        command += ["--weights", ",".join(f"{name}={1 + number % 3}" for number, name in enumerate(names))]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        most: dict[str, int] = {}
        while process.poll() is None:
            for key, kilobytes in _status(process.pid).items():
                most[key] = max(most.get(key, 0), kilobytes)
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        errors.seek(0)
        if process.returncode:
            return f"  {method:<10} failed after {seconds:.1f} s: {errors.read()}"
    return (
        f"  {method:<10} {seconds:7.1f} s, resident at most {most['VmHWM'] / 1e6:5.2f} GB "
        f"(its own {most['RssAnon'] / 1e6:.2f}, of mapped files {most['RssFile'] / 1e6:.2f})"
    )


def _status(pid: int) -> dict[str, int]:
    """Kilobytes: the most that was resident so far; its own memory and its pages of files as they are now."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key: int(value.split()[0]) for key, _, value in pairs if key in ("VmHWM", "RssAnon", "RssFile")}


if __name__ == "__main__":
    sys.exit(main())
