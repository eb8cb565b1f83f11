"""`python -m ensemble` is `ens`."""

from __future__ import annotations

import sys

from ensemble.cli import main

if __name__ == "__main__":
    sys.exit(main())
