"""A matrix written to an `.npy` file block after block, so that its size does not matter to memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowsFile"]


class RowsFile:
    """An `.npy` file of float32 rows, of which there will be `rows`. As a context manager it is closed."""

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self._rows, self._columns, self._written = rows, columns, 0
        self._stream: BinaryIO = path.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def add(self, block: NDArray[np.floating[Any]]) -> None:
        """The next rows."""
        if block.ndim != 2 or block.shape[1] != self._columns or self._written + len(block) > self._rows:
            raise ValueError(f"{block.shape} does not go on from row {self._written} of {self._rows, self._columns}")
        self._stream.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        self._written += len(block)

    def __enter__(self) -> RowsFile:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._stream.close()
        if kind is None and self._written != self._rows:
            raise ValueError(f"{self._written} of {self._rows} rows were written")
