"""Counter-based random numbers: a sample depends on its seed, request and position, and on nothing else that runs.

Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011): key = the seed, counter = (position, sample).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(key: npt.NDArray[np.uint64], counter: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Ten rounds over each row: key [n, 2] and counter [n, 4] of 32-bit words -> [n, 4]."""
    words = [counter[:, i] for i in range(4)]
    for turn in range(10):
        keys = [(key[:, i] + np.uint64(turn * _WEYL[i] & 0xFFFFFFFF)) & _LOW for i in range(2)]
        first, second = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [
            (second >> _SHIFT) ^ words[1] ^ keys[0],
            second & _LOW,
            (first >> _SHIFT) ^ words[3] ^ keys[1],
            first & _LOW,
        ]
    return np.stack(words, axis=1)


def uniforms(seeds: list[int], samples: list[int], positions: list[int]) -> npt.NDArray[np.float32]:
    """One number in [0, 1) for each (seed, sample, position): float32 [n], multiples of 2^-24."""
    words = np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], dtype=np.uint64)
    key = np.stack([words & _LOW, words >> _SHIFT], axis=1)
    counter = np.zeros((len(seeds), 4), dtype=np.uint64)
    counter[:, 0], counter[:, 1] = positions, samples
    return (philox(key, counter)[:, 0] >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
