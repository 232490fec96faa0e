"""DSpark's draft layers, loaded when they are asked for, guess the blocks that the reference guesses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.core.batch import Batch
from parity.core.errors import ConfigError
from parity.hub import open_checkpoint, write_safetensors
from parity.models import registry
from parity.models.decoder import Decoder
from parity.models.drafting import Drafted
from parity.stacks.reference import OPS

from . import test_deepseek_v41 as v41
from . import tiny
from .recorded import recorded
from .test_deepseek_v4 import FLASH
from .test_deepseek_v4 import save as save_v4
from .test_deepseek_v41 import mlx_arrays
from .test_drafts import DEEPSEEK_V4, PAGE_SIZE, Runs, arrays, random_tensors

# Two draft layers, so that one stands at each end; a window of 6 that the context outgrows; other experts than the model's.
SPARK: dict[str, Any] = {
    "dspark_block_size": 3,
    "dspark_noise_token_id": 7,
    "dspark_target_layer_ids": [1, 3],
    "dspark_markov_rank": 5,
}
V4 = DEEPSEEK_V4 | SPARK | {"compress_ratios": [0, 128, 4, 4, 0, 0]}
V41 = v41.config_of(
    **SPARK,
    compress_ratios=[*v41.TEXT["compress_ratios"][:8], 0, 0],
    dspark_n_routed_experts=5,
    dspark_num_experts_per_tok=2,
)
LENGTH, BLOCK = 30, 3
TOKENS = tiny.prompt(LENGTH + 1, 160)


def context(config: dict[str, Any]) -> Tensor:
    """What the model would leave to read."""
    width = len(SPARK["dspark_target_layer_ids"]) * config["hidden_size"]
    return torch.randn(LENGTH, width, generator=torch.Generator().manual_seed(1))


class Seen:
    """A module that keeps what it was given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.given = inner, None

    def __call__(self, x: Any) -> Any:
        self.given = x
        return self.inner(x)


def likely(weight: Tensor, hidden: Any, markov: Any, anchor: int, tokens: Any) -> np.ndarray:
    """How likely mlx-vlm holds each of the tokens to be accepted: [block, 1]."""
    import mlx.core as mx
    from mlx_vlm.speculative.drafters.dspark.dspark import DSparkConfidenceHead

    head = DSparkConfidenceHead(hidden.shape[-1], weight.shape[-1] - hidden.shape[-1])
    head.load_weights([("proj.weight", mx.array(weight.numpy())), ("proj.bias", mx.zeros((1,)))])
    before = mx.concatenate([mx.array([[anchor]]), tokens[:, :-1]], axis=1)
    return np.array(head(hidden, markov.get_prev_embeddings(before))[0])[:, None]


def mlx_vlm_v4(config: dict[str, Any], tensors: dict[str, Tensor]) -> np.ndarray:
    """The logits and the confidence of the block after each token: [tokens, block, vocabulary + 1]."""
    import mlx.core as mx
    from mlx_vlm.speculative.drafters.deepseek_v4_dspark import deepseek_v4_dspark as reference

    names = {"target_layer_ids": "target_layer_ids", "mask_token_id": "noise_token_id", "markov_rank": "markov_rank"}
    own = {name: SPARK[f"dspark_{key}"] for name, key in names.items()}
    own |= {"text_config": config, "n_mtp_layers": 2, "block_size": BLOCK + 1}
    model = reference.DeepseekV4DsparkDraftModel(reference.DeepseekV4DsparkConfig.from_dict(own))
    model.load_weights(list(model.sanitize(arrays(tensors)).items()))
    embedding, head = (mx.array(tensors[name].numpy()) for name in ("embed.weight", "head.weight"))
    model._input_embed, model._lm_head_fn = (lambda ids: embedding[ids]), (lambda x: x @ head.T)
    model.stages[-1].norm = collapsed = Seen(model.stages[-1].norm)
    cache, hidden = model.make_cache(), mx.array(context(config).numpy())[None]
    blocks = []
    for place, anchor in enumerate(TOKENS[1:]):
        scores: list[Any] = []

        def choose(logits: Any, kept: list[Any] = scores) -> Any:
            kept.append(logits)
            return mx.argmax(logits, axis=-1)

        tokens = model.draft_block(anchor, hidden[:, place : place + 1], cache, BLOCK + 1, choose)
        sure = likely(tensors["mtp.1.confidence_head.proj.weight"], collapsed.given, model.markov_head, anchor, tokens)
        blocks.append(np.concatenate([np.array(mx.stack(scores, 1)[0]), sure], axis=1))
    return np.stack(blocks)


def mlx_lm_v41(config: dict[str, Any], tensors: dict[str, Tensor]) -> np.ndarray:
    """As above. mlx-lm lacks DSpark: here its V4.1 model of two layers sees all of a block, and keys put into its windows."""
    import mlx.core as mx
    from mlx_lm.models import deepseek_v41 as reference
    from mlx_vlm.speculative.drafters.dspark.dspark import VanillaMarkov

    text = config["text_config"]
    sizes = {"num_hidden_layers": 2, "compress_ratios": [0, 0], "kv_source_layer_ids": [], "index_source_layer_ids": []}
    sizes |= {"n_routed_experts": text["dspark_n_routed_experts"], "num_experts_per_tok": text["dspark_num_experts_per_tok"]}
    model = reference.Model(reference.ModelArgs.from_dict(text | sizes | {"candidate_source_layer_id": -1}))
    drafts = {name: values for name, values in mlx_arrays(tensors).items() if name.startswith("mtp.")}
    layers = {name.replace("mtp", "layers"): values for name, values in drafts.items() if re.match(r"mtp\.\d\.(attn|ffn|hc)", name)}
    ends = {name: mx.array(tensors[name].numpy()) for name in ("embed.weight", "head.weight")}
    model.load_weights(list(model.sanitize(layers | ends | {"norm.weight": drafts["mtp.1.norm.weight"]}).items()))
    markov = VanillaMarkov(text["vocab_size"], text["dspark_markov_rank"])
    factors = {"markov_w1": "embed", "markov_w2": "head"}
    markov.load_weights([(f"{ours}.weight", drafts[f"mtp.1.markov_head.{name}.weight"]) for ours, name in factors.items()])
    model.model.norm = collapsed = Seen(model.model.norm)
    read = mx.array(context(text).numpy())[None] @ drafts["mtp.0.main_proj.weight"].T
    read = mx.fast.rms_norm(read, drafts["mtp.0.main_norm.weight"], text["rms_norm_eps"])

    def window(attention: Any, length: int) -> Any:
        first = max(length - text["sliding_window"], 0)
        keys = attention.kv_norm(attention.kv_proj(read[:, first:length]))
        return reference._apply_rope(keys, attention.rope, rope_dim=text["qk_rope_head_dim"], offset=first)

    def all_rows(*, previous: int, length: int, window: int) -> Any:
        return mx.broadcast_to(mx.arange(previous + length), (length, previous + length))

    blocks = []
    for length, anchor in enumerate(TOKENS[1:], start=1):
        cache = model.make_cache()
        for layer, kept in zip(model.layers, cache, strict=True):
            kept.window, kept.offset = window(layer.self_attn, length), length
        with mock.patch.object(reference, "_window_indices", all_rows):
            logits = model(mx.array([[anchor, *[text["dspark_noise_token_id"]] * (BLOCK - 1)]]), cache)
        previous, scores, chosen = mx.array([anchor]), [], []
        for place in range(BLOCK):
            scores.append(markov.apply_step_logits(logits[:, place], previous))
            previous = mx.argmax(scores[-1], axis=-1)
            chosen.append(previous[:, None])
        tokens = mx.concatenate(chosen, axis=1)
        sure = likely(tensors["mtp.1.confidence_head.proj.weight"], collapsed.given, markov, anchor, tokens)
        blocks.append(np.concatenate([np.array(mx.stack(scores, 1)[0]), sure], axis=1))
    return np.stack(blocks)


def numbers(drafted: Drafted) -> np.ndarray:
    """As a reference gives them: [sequences, block, vocabulary + 1]."""
    assert drafted.confidence is not None
    assert torch.equal(drafted.tokens, drafted.logits.argmax(-1).int())
    return torch.cat([drafted.logits, drafted.confidence.sigmoid().unsqueeze(-1)], dim=-1).numpy()


def drafted(runs: Runs, before: Tensor, sizes: list[int]) -> dict[int, np.ndarray]:
    """The block after each of several steps of one sequence, by the tokens that were there."""
    runs.memory.clear(0)
    found, start = {}, 0
    for size in sizes:
        rows = slice(start, start + size)
        following = torch.tensor(TOKENS[start + 1 : start + size + 1], dtype=torch.int32)
        with torch.inference_mode():
            block = runs.model.draft(runs.batch(TOKENS[rows], start), following, runs.memory.state, before[rows])
        start += size
        found[start] = numbers(block)[0]
    return found


def beside(runs: Runs, spans: list[tuple[int, int]]) -> Batch:
    """One step of several sequences, each from one of its tokens to another, in pages of its own."""
    counts = [end - start for start, end in spans]
    starts, ends = [sum(counts[:index]) for index in range(len(counts) + 1)], [end for _, end in spans]
    pages = torch.arange(runs.num_pages, dtype=torch.int32).view(len(spans), -1)

    def int32(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32)

    positions = int32([place for span in spans for place in range(*span)])
    tokens = int32([TOKENS[place] for place in positions.tolist()])
    slots = int32([0] * len(spans))
    return Batch(tokens, positions, int32(starts), int32(ends), pages, slots, PAGE_SIZE, tuple(starts), tuple(ends))


REFERENCES = {
    "deepseek_v4": (V4, random_tensors, mlx_vlm_v4),
    "deepseek_v41": (V41, lambda config: v41.random_tensors(config, draft=True), mlx_lm_v41),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_block_is_guessed_as_the_reference_guesses_it(name: str, tmp_path: Path) -> None:
    config, tensors_of, reference = REFERENCES[name]
    tensors, before = tensors_of(config), context(config.get("text_config", config))
    write_safetensors(tmp_path, config, tensors)
    expected = recorded(f"{name}-dspark", lambda: reference(config, tensors))
    runs = Runs(tmp_path)
    for sizes in ([1] * LENGTH, [LENGTH], [7, 16, 1, 1, 5]):
        for length, block in drafted(runs, before, sizes).items():
            assert tiny.relative_error(block, expected[length - 1]) < 1e-5
    assert len({tuple(block.argmax(-1)) for block in expected[:, :, :-1]}) > LENGTH // 2, "the guesses do not depend on much"

    # Two sequences of unequal length side by side, in two steps.
    runs.memory.clear(0)
    for first, second in (((0, 4), (0, 11)), ((4, 5), (11, 23))):
        batch = beside(runs, [first, second])
        places = batch.positions.long()
        with torch.inference_mode():
            both = runs.model.draft(batch, torch.tensor(TOKENS).int()[places + 1], runs.memory.state, before[places])
        assert tiny.relative_error(numbers(both), expected[[first[1] - 1, second[1] - 1]]) < 1e-5


def test_a_v4_leaves_the_mean_of_what_its_layers_give(tmp_path: Path) -> None:
    """And drafting changes nothing of the model's own state."""
    reference = save_v4(tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    config = dict(saved.config) | SPARK | {"num_nextn_predict_layers": 2}
    tensors = {key: value for key, value in random_tensors(V4).items() if key.startswith("mtp.")}
    write_safetensors(tmp_path / "both", config, tensors | {key: saved.read(key) for key in saved.tensors})  # type: ignore[arg-type]
    runs, expected = Runs(tmp_path / "both"), []
    for layer in (1, 3):
        reference.get_submodule(f"model.layers.{layer}").register_forward_hook(lambda *call: expected.append(call[2][0].mean(1)))
    with torch.inference_mode():
        reference(torch.tensor([TOKENS]))
        start, rows = 0, []
        for size in (7, 16, 1, 1, 6):
            batch = runs.batch(TOKENS[start : start + size], start)
            rows.append(runs.model.states(batch, runs.memory.state)[1])
            runs.model.draft(batch, batch.tokens, runs.memory.state, rows[-1])
            start += size
    assert tiny.relative_error(torch.cat(rows).numpy(), torch.cat(expected, dim=-1).numpy()) < 1e-5
