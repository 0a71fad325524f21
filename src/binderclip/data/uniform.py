"""Random numbers of augmentation: a hash of (seed, key, epoch), whatever the worker, the order or the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, the step of SplitMix64."""


def uniform(seed: int, keys: Sequence[str], epoch: int, n: int) -> Float[np.ndarray, "B n"]:
    """`n` numbers in [0, 1) for each key, float32, a hash of (seed, key, epoch) and of nothing else.

    The stream of a key is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) started at a BLAKE2 hash.
    """
    prefix = f"{seed}/{epoch}/".encode()
    starts = b"".join(hashlib.blake2b(prefix + key.encode(), digest_size=8).digest() for key in keys)
    state = np.frombuffer(starts, np.uint64)[:, None]
    z = mix64(state + np.arange(1, n + 1, dtype=np.uint64)[None] * GOLDEN)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def mix64(z: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """The output function of SplitMix64: a bijection of 64-bit words in which every bit depends on every bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
