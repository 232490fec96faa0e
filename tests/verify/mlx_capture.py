"""A side made of MLX and mlx-lm's own model code: nothing of Parity computes in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import mlx.core as mx
import numpy as np
import transformers
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from parity.hub import open_checkpoint
from parity.hub.content import content_leaves, root_of
from parity.verify.record import Answer, Exact, Identity, Int32s, Isolated, Layers, Path, Plan, Positions
from parity.verify.sides.base import Tokens
from parity.verify.sides.features import Reducer
from parity.verify.statistics.divergence import Top
from parity.verify.suites import Item


class MlxSide:
    """A checkpoint folder on MLX, in float32."""

    paths: tuple[Path, ...] = ("one_shot", "chunked", "stepwise")

    def __init__(self, folder: FilePath, name: str = "mlx") -> None:
        self.name, self._folder = name, folder
        self._model, self._config = load_model(folder)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._reducer: Reducer | None = None

    def identity(self) -> Identity:
        leaves = content_leaves(open_checkpoint(self._folder))
        kind = self._config["model_type"]
        return Identity(self.name, "local", self._folder.name, kind, "mlx", "float32", root_of(leaves), leaves)

    def tokens(self, items: Sequence[Item]) -> list[Tokens]:
        return [self._tokens(item) for item in items]

    def _tokens(self, item: Item) -> Tokens:
        if item.kind == "text":
            ids = self._tokenizer.encode(item.text, add_special_tokens=False)
        else:
            messages = [{"role": m.role, "content": m.content} for m in item.messages]
            thinking = {} if item.thinking is None else {"enable_thinking": item.thinking}
            tools = [
                {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
                for t in item.tools
            ]
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=True, **thinking
            )
            ids = self._tokenizer.encode(text, add_special_tokens=False)
        return Tokens(np.array(ids, np.int32), len(ids))

    def capture(
        self, items: Sequence[Item], tokens: Sequence[Int32s], plan: Plan
    ) -> Iterator[tuple[int, Mapping[Path, Positions]]]:
        for place, (item, ids) in enumerate(zip(items, tokens, strict=True)):
            yield place, self._along(item, ids, plan)

    def _along(self, item: Item, tokens: Int32s, plan: Plan) -> Mapping[Path, Positions]:
        found: dict[Path, Positions] = {"one_shot": self._pieces(tokens, [len(tokens)], plan)}
        if item.paths:
            size = plan.chunk_tokens
            found["chunked"] = self._pieces(tokens, [*range(size, len(tokens), size), len(tokens)], plan)
            cut = max(1, len(tokens) - plan.stepwise_tokens)
            found["stepwise"] = self._pieces(tokens, list(range(cut, len(tokens) + 1)), plan)
        return found

    def _pieces(self, tokens: Int32s, ends: Sequence[int], plan: Plan) -> Positions:
        cache, parts, start = make_prompt_cache(self._model), [], 0
        for end in ends:
            logits = self._model(mx.array(tokens[None, start:end]), cache=cache)
            parts.append(np.array(logits.astype(mx.float32))[0])
            start = end
        if self._reducer is None:
            width = parts[0].shape[1]
            self._reducer = Reducer(width, top_k=plan.top_k, sketch_size=plan.sketch_size, seed=plan.seed)
        return self._reducer.positions(0, parts)

    def mixed(self, items: Sequence[Item], tokens: Sequence[Int32s | None], plan: Plan) -> list[Positions | None]:
        return [None] * len(items)

    def to_float32(self) -> bool:
        return False

    def generate(self, items: Sequence[Item], plan: Plan) -> list[Answer | None]:
        return [self._greedy(item, plan) if item.answer_tokens else None for item in items]

    def _greedy(self, item: Item, plan: Plan) -> Answer:
        ids = self._tokens(item).ids
        assert ids is not None
        cache, given, tokens, rows = make_prompt_cache(self._model), ids, [], []
        for _ in range(item.answer_tokens):
            logits = np.array(self._model(mx.array(given[None]), cache=cache).astype(mx.float32))[0, -1:]
            assert self._reducer is not None
            rows.append(self._reducer.positions(0, [logits]).top)
            tokens.append(int(rows[-1].ids[0, 0]))
            given = np.array(tokens[-1:], np.int32)
            if tokens[-1] == self._config["eos_token_id"]:
                break
        top = Top(*(np.concatenate([getattr(row, name) for row in rows]) for name in ("ids", "logprobs", "log_tail")))
        finish = "stop" if tokens[-1] == self._config["eos_token_id"] else "length"
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(text, finish, tuple(tokens), top, len(tokens))

    def layers(self, tokens: Int32s) -> Layers:
        body = self._model.model
        stream = body.embed_tokens(mx.array(tokens[None]))
        mask = create_attention_mask(stream, None)
        values = []
        for layer in body.layers:
            stream = layer(stream, mask, None)
            values.append(np.array(stream.astype(mx.float32))[0])
        return Layers(tokens, tuple((index, "stream") for index in range(len(values))), tuple(values))

    def sample(self, items: Sequence[Item], plan: Plan) -> list[Int32s | None]:
        return [None] * len(items)

    def isolated(self, reference: Layers, reference_hash: str) -> Isolated | None:
        return None

    def exact(self, plan: Plan) -> Mapping[str, Exact] | None:
        return None

    def unreached(self) -> Mapping[str, Any]:
        return {"prefix_hit": "mlx-lm has no shared cache", "mixed": "one prompt at a time"}

    def close(self) -> None:
        """Nothing is held."""
