"""How a set of classes is spelled in files, in one cell. Imports nothing, so that reading a description stays quick."""

from __future__ import annotations

__all__ = ["JOINER"]

JOINER = "|"
"""Between the classes of a set; no class of such data may hold it."""
