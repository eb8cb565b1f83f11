"""Imported by the server of workers alone: it has nothing to clean up, so that it ends at once with its command.

Taking down an interpreter that has torch imported takes a second, in which whoever reads the command's output waits.
"""

from __future__ import annotations

import atexit
import os

atexit.register(os._exit, 0)
