"""The generator against the vectors that its authors publish (Random123), and the uniform numbers made of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from parity.engine.philox import philox, uniforms

VECTORS = [
    ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([[int(word, 16) for word in text.split()]], dtype=np.uint64)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_published_vectors(counter: str, key: str, expected: str) -> None:
    assert (philox(words(key), words(counter)) == words(expected)).all()


def test_a_number_depends_on_its_own_key_only() -> None:
    together = uniforms([7, 8, -1, 2**64 - 1], [0, 1, 2, 2], [5, 5, 9, 9])
    alone = [uniforms([seed], [sample], [place])[0] for seed, sample, place in [(7, 0, 5), (8, 1, 5), (-1, 2, 9)]]
    assert together[:3].tolist() == alone
    assert together[2] == together[3], "a seed is taken modulo 2^64"


def test_numbers_are_uniform_over_each_part_of_the_key() -> None:
    count = 20_000
    for parts in ((range(count), [0] * count, [0] * count), ([3] * count, [0] * count, range(count))):
        numbers = uniforms(*(list(part) for part in parts))
        assert numbers.min() >= 0.0
        assert numbers.max() < 1.0
        assert stats.kstest(numbers, "uniform").pvalue > 0.01
