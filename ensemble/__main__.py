"""`python -m ensemble` is `ens`."""

import sys

if not sys.flags.safe_path and sys.argv[0] == __file__:
    # -m has put the working directory first, so that a numpy.py there would be imported. What Python itself and the
    # package's `__init__` import came before this line; `ens` and `python -P -m ensemble` have no such gap.
    del sys.path[0]

from ensemble.cli import main

if __name__ == "__main__":
    sys.exit(main())
