"""Draw a small, learnable stand-in for a dataset, with its files, columns and traps.

    python tools/make_dataset.py mask18 data/mask18 --rows 700
    ens train --recipe quickstart --data mask18=data/mask18

The answers of the test rows lie apart, in `kept_apart/`. The same name, number of rows and seed give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from standins.make import LAYOUTS, make_standin

from ensemble.errors import InputError


def main() -> int:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(LAYOUTS)}")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder that is not there yet, or empty")
    parser.add_argument("--rows", type=int, default=240, help="images in all, 24 to 100000 (default 240)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other images (default 0)")
    arguments = parser.parse_args()

    def tell(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} of {arguments.rows:,} images", end="", file=sys.stderr, flush=True)

    try:
        plan = make_standin(arguments.name, arguments.folder, arguments.rows, arguments.seed, tell)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"\r{arguments.folder}: {len(plan.pictures):,} images and {', '.join(sorted(plan.texts))}")
    print(f"next: ens train --recipe quickstart --data {arguments.name}={arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
