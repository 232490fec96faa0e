"""What all exact checkpoints are made of: orthogonal rows, and where a sublayer stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

HIDDEN, TOKENS, CLASSES, LAYERS, HEADS, HEAD_DIM = 128, 16, 4, 2, 4, 4
CONSTANT, CLASS, TOKEN, SPARE, FREE = 0, 1, 8, 6, 24
"""The stream's rows: always there, one for a token's class, one for the token, one to fill up, and those that sublayers add."""
ROWS_PER_SUBLAYER = 12
AHEAD = 32.0
"""Size of a query's and a key's entries: scores differ by multiples of 512."""
SHUT = 256.0
"""What a gate is given to be wholly open or, negative, wholly shut: exp(-256) is 0 in float32, and sigmoid(256) is 1."""


def hadamard(size: int) -> Matrix:
    """Sylvester's matrix of +1 and -1 with orthogonal rows."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


ROWS = hadamard(HIDDEN)


def bit(number: int, place: int) -> float:
    """A bit of a number as +1 or -1."""
    return 1.0 if number >> place & 1 else -1.0


def reads(rows: dict[int, float], size: float) -> Matrix:
    """Weights [HIDDEN] that turn a normed stream, whose rows have the coefficients 1 / `size`, into a sum over `rows`."""
    return np.asarray(sum(weight * ROWS[row] for row, weight in rows.items()) * (size / HIDDEN))


@dataclass(frozen=True, slots=True)
class Sublayer:
    """Where a sublayer stands: `index` 0, 1, 2, ... over the model.

    `share` is what of the normed stream it is given.
    """

    index: int
    share: float = 1.0

    @property
    def size(self) -> float:
        """The root mean square of the stream as it comes in, over the share."""
        return 2.0 ** (self.index + 1) / self.share

    @property
    def adds(self) -> float:
        """The coefficient of each new row: 12 adds^2 + size^2 = (2 size)^2."""
        return 2.0**self.index

    @property
    def rows(self) -> range:
        first = FREE + ROWS_PER_SUBLAYER * self.index
        return range(first, first + ROWS_PER_SUBLAYER)


def class_reads(place: int, size: float) -> Matrix:
    """A weight that gives the sign of a bit of the token's class."""
    return reads({CLASS + c: bit(c, place) for c in range(CLASSES)}, size)


def token_reads(place: int, size: float) -> Matrix:
    """A weight that gives the sign of a bit of the token."""
    return reads({TOKEN + t: bit(t, place) for t in range(TOKENS)}, size)


def constant_reads(size: float) -> Matrix:
    """A weight that always gives 1."""
    return reads({CONSTANT: 1.0}, size)


def output(sublayer: Sublayer) -> Matrix:
    """[HIDDEN, HEADS * 4]: each bit of what the first three heads found becomes a new row; the fourth's is dropped."""
    rows = [sublayer.adds * ROWS[row] for row in sublayer.rows]
    return np.stack(rows + [np.zeros(HIDDEN)] * (HEADS * HEAD_DIM - len(rows)), axis=1)


def token_bits(token: int) -> Matrix:
    """The four bits of a token as +1 and -1."""
    return np.array([bit(token, place) for place in range(HEAD_DIM)])
