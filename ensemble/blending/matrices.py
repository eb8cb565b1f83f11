"""A sequence of matrices, one a member, each made when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matrices", "Matrix"]

Matrix = NDArray[np.floating[Any]]


class Matrices(Sequence[Matrix]):
    """What is alike in all of them; one says how many it has, and makes one."""

    @abstractmethod
    def member(self, index: int) -> Matrix:
        """Make one member's matrix."""

    def __iter__(self) -> Iterator[Matrix]:
        return (self.member(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Matrix: ...
    @overload
    def __getitem__(self, index: slice) -> list[Matrix]: ...
    def __getitem__(self, index: int | slice) -> Matrix | list[Matrix]:
        if isinstance(index, slice):
            return [self.member(one) for one in range(*index.indices(len(self)))]
        return self.member(index)
