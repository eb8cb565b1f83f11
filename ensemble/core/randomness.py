"""Where every random number starts: a seed is a function of what it is for, never of what ran before."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["derive_seed", "generator"]


def derive_seed(purpose: str, *parts: int | str) -> int:
    """A 32-bit seed for one purpose, such as `("augment", seed, fold, epoch, id)`; the same parts, the same seed."""
    text = "\x1f".join([purpose, *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=4).digest(), "little")


def generator(purpose: str, *parts: int | str) -> np.random.Generator:
    """A fresh NumPy generator for one purpose; its stream (PCG64) is part of what a run's identity promises."""
    return np.random.Generator(np.random.PCG64(derive_seed(purpose, *parts)))
