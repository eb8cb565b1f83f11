"""How long `ens --help` takes against a Python that does nothing; medians of alternating runs.

.venv/bin/python tools/bench/help_time.py --runs 21
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

_HELP = "import sys; from ensemble.cli import main; sys.argv = ['ens', '--help']; sys.exit(main())"


def main() -> int:
    """Time both commands in turn, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, help="how often to run each command (21)")
    runs = parser.parse_args().runs
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "ens --help": [sys.executable, "-c", _HELP]}
    times_ms: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            elapsed_ms = _time_ms(command)
            if turn:  # the first turn fills the file cache
                times_ms[name].append(elapsed_ms)
    medians = {name: median(values) for name, values in times_ms.items()}
    for name, value in medians.items():
        print(f"{name:<16} {value:7.1f} ms (median of {runs}, {min(times_ms[name]):.1f} to {max(times_ms[name]):.1f})")
    print(f"{'ratio':<16} {medians['ens --help'] / medians['python -c pass']:7.2f}")
    return 0


def _time_ms(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
