"""Loops as machine code. Importing the compiler takes half a second, so it is imported when the first is asked for.

The machine code is kept beside the function's file, else in the user's cache folder (NUMBA_CACHE_DIR names another),
else made anew by each process, in a second. Sums and products are rounded one by one, as NumPy and Python do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The same function as machine code, which leaves Python's lock to others while it runs."""
    import numba

    try:
        found: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # there is no folder that the machine code could be written to
        found = numba.njit(nogil=True)(function)
    return cast(Function, found)
