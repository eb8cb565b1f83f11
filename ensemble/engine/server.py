"""Imported by the server of worker processes alone: makes it exit at once with its command.

Taking down an interpreter that has torch imported takes a second, during which whoever reads the command's output
waits.
"""

from __future__ import annotations

import atexit
import os

atexit.register(os._exit, 0)  # the server owns no files or locks, so there is nothing to clean up
