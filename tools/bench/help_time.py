"""How long `ens --help` takes against a Python that does nothing; medians of alternating runs.

.venv/bin/python tools/bench/help_time.py --runs 21
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from side_by_side import Contest

_HELP = "import sys; from ensemble.cli import main; sys.argv = ['ens', '--help']; sys.exit(main())"


def main() -> int:
    """Time both commands in turn, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, help="how often to run each command (21)")
    runs = parser.parse_args().runs
    contest = Contest(runs)
    contest.enter("ens --help", lambda: _run(_HELP))
    contest.enter("python -c pass", lambda: _run("pass"))
    print(contest.hold().row("ens --help", "python -c pass"))
    return 0


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
