"""From a row of logits to what a pack keeps of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from ..record import Float32s, Int32s, Positions
from ..statistics.divergence import Top, signs

_ROWS_AT_ONCE = 32
"""So many share one reading of the projections; all of it is bounded, whatever the prompt."""
_FOLDS = 32
_Piece: TypeAlias = tuple[Int32s, Float32s, Float32s, Float32s, Float32s]
"""Of some rows: ids, log-probabilities and tail of the head, log-sum-exp, sketch."""


class Reducer:
    """Turns logits into heads and sketches, some rows at a time, so that memory stays bounded.

    Args:
        vocab_size: width of the logits.
        top_k, sketch_size, seed: as in the plan.
    """

    def __init__(self, vocab_size: int, *, top_k: int, sketch_size: int, seed: int) -> None:
        self._top_k = min(top_k, vocab_size)
        self._signs = signs(vocab_size, seed=seed, count=sketch_size)
        # Written over for each piece: touching new memory page by page costs more than the sums.
        self._room = np.empty((_ROWS_AT_ONCE, vocab_size), np.float32)

    def positions(self, first: int, logits: Iterable[Float32s]) -> Positions:
        """The positions from `first` on; `logits` comes in pieces of [rows, vocabulary]."""
        ((_, positions),) = self.together((0, piece) for piece in logits)
        return replace(positions, at=positions.at + np.int32(first))

    def together(self, logits: Iterable[tuple[int, Float32s]]) -> Iterator[tuple[int, Positions]]:
        """The positions from 0 on of several prompts, whose pieces come as (which prompt, [rows, vocabulary]) in any order."""
        pieces: dict[int, list[_Piece]] = {}
        for prompt, piece in logits:
            parts = [self._reduce(piece[i : i + _ROWS_AT_ONCE]) for i in range(0, len(piece), _ROWS_AT_ONCE)]
            pieces.setdefault(prompt, []).extend(parts)
        for prompt, known in pieces.items():
            ids, logprobs, log_tail, lse, sketches = (np.concatenate(column) for column in zip(*known, strict=True))
            yield prompt, Positions(np.arange(len(ids), dtype=np.int32), Top(ids, logprobs, log_tail), lse, sketches)

    def _reduce(self, logits: Float32s) -> _Piece:
        ids = head_ids(logits, self._top_k)
        head = np.take_along_axis(logits, ids, axis=1).astype(np.float64)
        peak = head[:, :1]
        room = self._room[: len(logits)]
        weights = np.subtract(logits, peak.astype(np.float32), out=room)
        torch.from_numpy(weights).exp_()  # four times as fast as numpy's where there is no AVX-512
        np.put_along_axis(weights, ids, 0, axis=1)
        tail = weights.sum(axis=1).astype(np.float64)
        total = np.exp(head - peak).sum(axis=1) + tail
        lse = np.log(total) + peak[:, 0]
        log_tail = np.log(np.maximum(tail, 1e-300)) + peak[:, 0] - lse
        return (
            ids,
            (head - lse[:, None]).astype(np.float32),
            log_tail.astype(np.float32),
            lse.astype(np.float32),
            sketch(logits, self._signs, room),
        )


def sketch(logits: Float32s, matrix: Float32s, room: Float32s | None = None) -> Float32s:
    """Projections of the logits, centred over the vocabulary: [positions, count]. `room`, shaped like the logits, is written
    over."""
    # By PyTorch: numpy's threads would compete with those of the engine beside it.
    rows = torch.from_numpy(logits)
    centred = torch.sub(rows, rows.mean(dim=1, keepdim=True), out=None if room is None else torch.from_numpy(room))
    return (centred @ torch.from_numpy(matrix)).numpy()


def _edges(logits: Float32s, count: int) -> Float32s:
    """A value of each row that at least `count` of its others reach: the count-th largest of the columns' peaks, which costs
    far less than sorting the whole row."""
    rows, width = logits.shape
    folds = min(_FOLDS, width // count)
    peaks = logits[:, : width // folds * folds].reshape(rows, folds, -1).max(axis=1)
    return np.asarray(np.partition(peaks, peaks.shape[1] - count, axis=1)[:, peaks.shape[1] - count])


def head_ids(logits: Float32s, count: int) -> Int32s:
    """The `count` most likely ids of each row, best first; ties go to the lowest id."""
    rows = []
    edges = _edges(logits, count)
    for row, edge in zip(logits, edges, strict=True):
        candidates = np.flatnonzero(row >= edge)
        order = np.argsort(-row[candidates], kind="stable")[:count]
        rows.append(candidates[order])
    return np.stack(rows).astype(np.int32)
