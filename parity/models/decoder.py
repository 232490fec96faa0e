"""The decoder that every architecture is: embed, blocks, norm, head.

tokens -> embed -> stream -> [ site -> mixer -> site -> mlp ] x layers -> norm -> head -> logits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..core.batch import Batch, Probe
from ..core.state import State, StateSpec
from ..core.weights import Rule
from ..stacks.ops import Ops
from .block import Block
from .drafting import Choose, Drafted, Drafter, greedy
from .layers.linear import Embedding, Linear, TiedHead
from .layers.ngram import HostTable
from .layers.residual import Pending, Site, Stream, Streams
from .layers.rope import Rope
from .layers.weight import Slot, slots
from .step import Step


class Body(nn.Module):
    """What checkpoints call `model`: embedding, layers and last norm."""

    def __init__(self, embed_tokens: Embedding, layers: Sequence[Block], modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.layers = nn.ModuleList(layers)
        for name, module in modules.items():
            self.add_module(name, module)


def one_stream(x: Tensor) -> Stream:
    """The plain residual stream."""
    return Pending(x, None)


class Decoder(nn.Module):
    """A whole language model.

    Args:
        ops: the kernel table that everything in it computes with.
        body: the modules under their checkpoint names.
        lm_head: the output head; None takes the embedding's matrix.
        last: the site after the layers, which norms.
        ropes: the rotations in use, by the name that layers ask for.
        start: the embedded tokens [T, hidden] as the stream at the first layer.
        max_position: the context that it was made for.
    """

    def __init__(
        self,
        ops: Ops,
        body: Body,
        lm_head: Linear | None,
        last: Site,
        ropes: Mapping[str, Rope],
        *,
        vocab_size: int,
        max_position: int,
        start: Callable[[Tensor], Stream] = one_stream,
    ) -> None:
        super().__init__()
        self.ops, self.last, self.start = ops, last, start
        self.model = body
        self.lm_head = lm_head if lm_head is not None else TiedHead(ops, body.embed_tokens)
        self.vocab_size, self.max_position = vocab_size, max_position
        self.rules: tuple[Rule, ...] = ()
        """Rules of names that follow from the config, beside the architecture's."""
        self.readers: tuple[Callable[[Path], None], ...] = ()
        """Called at load with the checkpoint's folder, for what the model needs of it beside config and tensors."""
        self.mtp = nn.ModuleList()
        """Draft layers, where they are asked for."""
        self.drafter: Drafter | None = None
        """How they work together."""
        self.tapped: tuple[str, ...] = ()
        """What of `Step.shared` they read, side by side; nothing means that they read what the last layer leaves."""
        self._ropes = dict(ropes)
        for name, rope in self._ropes.items():
            self.register_buffer(f"inv_freq_{name}", rope.inv_freq, persistent=False)

    @property
    def tied(self) -> bool:
        """Whether the head takes the embedding's matrix."""
        return isinstance(self.lm_head, TiedHead)

    def recordable_on(self, device: torch.device) -> bool:
        """Whether a recorded step finds all that it reads there: tables that stay on the host are read by the host alone."""
        return device.type == "cpu" or not any(isinstance(module, HostTable) for module in self.modules())

    @property
    def state(self) -> list[tuple[StateSpec, ...]]:
        """What each layer keeps: the model's own, then draft layers."""
        return [block.state for block in (*self.model.layers, *self.mtp)]

    def all_slots(self, shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})) -> dict[str, Slot]:
        """Every tensor that loading must bring, by checkpoint name; `shapes` is what the checkpoint has."""
        return slots(self, shapes)

    def hidden(self, batch: Batch, state: State) -> Tensor:
        """The normed hidden state of every row: [T, hidden]."""
        return self.states(batch, state)[0]

    def states(self, batch: Batch, state: State) -> tuple[Tensor, Tensor]:
        """(the normed hidden state of every row [T, hidden], what draft layers read of it)."""
        step = self.step(batch)
        stream = self.start(self.model.embed_tokens(batch.tokens))
        for index, block in enumerate(self.model.layers):
            stream = block(stream, step, state[index])
            if batch.probe is not None:
                stream = _probed(batch.probe, index, stream)
        normed, left = ends(self.last, stream, step)
        return normed, torch.cat([step.shared[name] for name in self.tapped], dim=-1) if self.tapped else left

    def draft(self, batch: Batch, following: Tensor, state: State, before: Tensor, choose: Choose = greedy) -> Drafted:
        """Guesses what comes after a step that `states` computed, and writes what the draft layers keep of it.

        Args:
            batch: that step; its pages have room for `Drafter.num_tokens` tokens more.
            following: int32 [T], the token that comes after each row's, from the prompt or chosen.
            before: what `states` left to read of the step.
            choose: takes the guesses, one for each sequence at a time.
        """
        assert self.drafter is not None, "the model was built without draft layers"
        return self.drafter(self, batch, following, state, before, choose)

    def step(self, batch: Batch) -> Step:
        """What the layers of a step are given."""
        return Step(batch, {name: self._angles(name, batch.positions) for name in self._ropes})

    def head(self, hidden: Tensor) -> Tensor:
        """The logits of normed hidden states [rows, hidden]: float32 [rows, vocabulary]."""
        logits: Tensor = self.lm_head(hidden).float()
        return logits

    def forward(self, batch: Batch, state: State) -> Tensor:
        """The logits of every row: float32 [T, vocabulary]."""
        return self.head(self.hidden(batch, state))

    def _angles(self, name: str, positions: Tensor) -> Tensor:
        rope = self._ropes[name]
        return self.ops.rope_angles(positions, getattr(self, f"inv_freq_{name}"), rope.scale, rope.shift)


def ends(last: Site, stream: Stream, step: Step) -> tuple[Tensor, Tensor]:
    """(the normed hidden state, what a draft layer reads: the streams where there are several, else the same)."""
    normed, stream = last.enter(stream, step)
    return normed, stream.value if isinstance(stream, Streams) else normed


def _probed(probe: Probe, layer: int, stream: Stream) -> Stream:
    """Shows the stream after a layer to the probe, [T, hidden] or several [T, N, hidden]; what it returns takes their place."""
    if isinstance(stream, Pending):
        total = stream.total if stream.added is None else stream.total + stream.added
        replaced = probe(layer, "stream", total)
        return Pending(total if replaced is None else replaced, None)
    if isinstance(stream, Streams):
        replaced = probe(layer, "stream", stream.value)
        return stream if replaced is None else Streams(replaced, stream.weights)
    replaced = probe(layer, "stream", torch.stack(stream, dim=1))
    return stream if replaced is None else replaced.unbind(1)
