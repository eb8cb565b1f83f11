"""Where every random number starts: a seed is a function of its purpose, never of what ran before (the second law)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
"""One 64-bit key a row."""


def derive_seed(purpose: str, *parts: int | str) -> int:
    """A 32-bit seed for one purpose, such as `("augment", seed, fold, epoch, id)`; the same parts, the same seed."""
    # Separator and types keep ("a", "1") apart from ("a1") and from ("a", 1). Changed bits would make other runs of the
    # same recipe, so all constants here are part of its identity. blake2b: hash() differs from process to process.
    text = "\x1f".join([purpose, *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=4).digest(), "little")


def generator(purpose: str, *parts: int | str) -> np.random.Generator:
    """A fresh NumPy generator for one purpose."""
    # PCG64 by name: NumPy may give `default_rng` another generator in a later version
    return np.random.Generator(np.random.PCG64(derive_seed(purpose, *parts)))


def hash_ids(ids: Sequence[str]) -> Keys:
    """A 64-bit number for each id, to be made into keys of many epochs by `sample_keys`."""
    digests = b"".join(hashlib.blake2b(row_id.encode("utf-8"), digest_size=8).digest() for row_id in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)  # "<": the same keys on big-endian machines


def sample_keys(id_hashes: Keys, purpose: str, *parts: int | str) -> Keys:
    """A 64-bit key for each row: a function of the purpose, its parts and the row's id, and of nothing else."""
    # one seed an epoch and one hash an id, mixed as arrays: a seed for each row would be a Python loop an epoch
    here = np.array([derive_seed(purpose, *parts, half) for half in (0, 1)], dtype=np.uint64)
    return mix_keys(id_hashes ^ mix_keys((here[:1] << np.uint64(32)) | here[1:]))


def mix_keys(keys: Keys) -> Keys:
    """Every bit of a key spread over all bits of another: the last part of SplitMix64, a bijection."""
    # multipliers and shifts of Stafford's mix 13 (2011); products wrap at 64 bits, as they must
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
