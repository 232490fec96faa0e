"""Engram (DeepSeek-V4.1): n-gram memory written into the residual streams, hashed over tokens that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import ConfigError, ModelNotFound
from ...core.state import LayerState, StateSpec
from ...stacks.ops import Ops
from ..step import Step
from .linear import Linear
from .ngram import HostTable, NgramHash, NgramMemory
from .weight import Parameter, Slot


def multipliers(vocab_size: int, width: int, layer: int) -> list[int]:
    """The odd hash multipliers of a layer, drawn so that no product overflows."""
    bound = max(1, np.iinfo(np.int64).max // vocab_size // 2)
    drawn = np.random.default_rng(10007 * layer).integers(0, bound, width, dtype=np.int64)
    return [2 * int(value) + 1 for value in drawn]


def fold_tokens(folder: Path) -> list[int]:
    """For each token of a folder's tokenizer the number of its class, in order of first appearance.

    Tokens are of one class if they are the same text without case, accents, compatibility forms and outer whitespace; those
    that are not whole characters stand alone.

    Raises:
        ModelNotFound: the folder has no tokenizer.json.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelNotFound(f"{file} is missing: the n-gram tables are hashed by it; fetch the model again")
    blank = "\ue000"  # a text that is one space stays one through the strip
    steps = [normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    steps += [normalizers.Replace(Regex(r"[ \t\r\n]+"), " "), normalizers.Replace(Regex(r"^ $"), blank)]
    steps += [normalizers.Strip(), normalizers.Replace(blank, " ")]
    normalizer = normalizers.Sequence(steps)
    tokenizer = Tokenizer.from_file(str(file))
    classes: dict[str, int] = {}
    folded = []
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token], skip_special_tokens=False)
        key = tokenizer.id_to_token(token) if "\ufffd" in text else normalizer.normalize_str(text) or text
        folded.append(classes.setdefault(key or "", len(classes)))
    return folded


class Engram(nn.Module):
    """What n-gram memory adds to each stream: gate_i value, gated by how well key i fits stream i.

    Args:
        dim: of all heads of a row together.
        num_classes: of tokens; `pad` is the token that stands for those that are not there.
    """

    def __init__(
        self,
        ops: Ops,
        hidden_size: int,
        count: int,
        dim: int,
        eps: float,
        hashing: NgramHash,
        table: HostTable,
        *,
        num_classes: int,
        pad: int,
        vocab_size: int,
    ) -> None:
        super().__init__()
        self.ops, self.eps = ops, eps
        self.memory = NgramMemory(ops, hashing, table, "embed")
        self.wkv = Linear(ops, dim, (count + 1) * hidden_size)
        self.q_weight = Parameter("q_weight", count, hidden_size, exact=True)
        self.k_weight = Parameter("k_weight", count, hidden_size, exact=True)
        self.state: tuple[StateSpec, ...] = self.memory.state
        self._num_classes, self._pad, self._vocab_size = num_classes, pad, vocab_size

    def slots(self) -> Iterator[Slot]:
        yield self.q_weight.slot()
        yield self.k_weight.slot()

    def take_classes(self, classes: Sequence[int]) -> None:
        """The class of each token.

        Raises:
            ConfigError: there are not as many classes as the config says.
        """
        if self._pad >= len(classes) or max(classes) + 1 != self._num_classes:
            raise ConfigError(
                f"the tokenizer's {len(classes)} tokens fold into {max(classes, default=-1) + 1} classes, "
                f"engram_compressed_vocab_size is {self._num_classes}: the n-gram tables would be misread"
            )
        pad = classes[self._pad]
        # Ids that the tokenizer does not have never come from text.
        padded = [*classes, *[pad] * (self._vocab_size - len(classes))]
        self.memory.hashing.fill = pad
        self.memory.map_tokens(torch.tensor(padded, dtype=torch.int64))

    def forward(self, streams: Tensor, step: Step, state: LayerState) -> Tensor:
        """streams [T, N, hidden] -> what is added to each, [T, N, hidden]."""
        keys_value = self.wkv(self.memory(step, state)).view(len(streams), -1, streams.shape[-1])
        keys, value = keys_value[:, :-1], keys_value[:, -1]
        gates = self.ops.stream_gate(
            self.ops.stream_norm(streams, self.q_weight.tensor, self.eps),
            self.ops.stream_norm(keys, self.k_weight.tensor, self.eps),
        )
        result: Tensor = self.ops.spread(value, streams.shape[1], gates)
        return result
