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

from parity.core.errors import ConfigError, Unsupported, WeightError
from parity.hub import open_checkpoint, write_safetensors
from parity.hub.weights import to_checkpoint, to_model
from parity.models import registry
from parity.models.drafting import Drafted
from parity.models.layers import engram
from parity.stacks.reference import OPS

from . import packed, tiny
from . import test_deepseek_v41 as v41
from .recorded import recorded
from .test_deepseek_v4 import FLASH
from .test_deepseek_v4 import save as save_v4
from .test_deepseek_v41 import mlx_arrays
from .test_drafts import DEEPSEEK_V4, Runs, arrays, beside, random_tensors

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
    blocks = {name: values for name, values in drafts.items() if re.match(r"mtp\.\d\.(attn|ffn|hc)", name)}
    layers = {name.replace("mtp", "layers"): values for name, values in blocks.items()}
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

    guessed = []
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
        guessed.append(np.concatenate([np.array(mx.stack(scores, 1)[0]), sure], axis=1))
    return np.stack(guessed)


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
    for length, block in drafted(Runs(tmp_path, stack="cpu:float32"), before, [7, 16, 1, 1, 5]).items():
        assert tiny.relative_error(block, expected[length - 1]) < 1e-5
    assert len({tuple(block.argmax(-1)) for block in expected[:, :, :-1]}) > LENGTH // 2, "the guesses do not depend on much"

    # Two sequences of unequal length side by side, in two steps.
    runs.memory.clear(0)
    for first, second in (((0, 4), (0, 11)), ((4, 5), (11, 23))):
        batch = beside([first, second], TOKENS)
        places = batch.positions.long()
        with torch.inference_mode():
            both = runs.model.draft(batch, torch.tensor(TOKENS).int()[places + 1], runs.memory.state, before[places])
        assert tiny.relative_error(numbers(both), expected[[first[1] - 1, second[1] - 1]]) < 1e-5


def test_the_released_formats(tmp_path: Path) -> None:
    """FP8 in blocks of 32 with power-of-two scales, experts in MXFP4: the blocks of the numbers that they stand for."""
    config = v41.config_of(**V41["text_config"] | {"hidden_size": 64, "moe_intermediate_size": 32})
    stored, plain = packed.released(v41.random_tensors(config, draft=True), 32)
    assert "mtp.0.main_proj.scale" in stored
    quantised = {"quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]}}
    write_safetensors(tmp_path / "plain", config, plain)
    write_safetensors(tmp_path / "stored", config | quantised, stored)
    before = context(config["text_config"])
    ours, theirs = (drafted(Runs(tmp_path / name), before, [LENGTH])[LENGTH] for name in ("stored", "plain"))
    assert tiny.relative_error(ours, theirs) < 1e-5


def test_a_v4_leaves_the_mean_of_what_its_layers_give(tmp_path: Path) -> None:
    """And drafting changes nothing of the model's own state."""
    reference = save_v4(tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    config = dict(saved.config) | SPARK | {"num_nextn_predict_layers": 2}
    tensors = {key: value for key, value in random_tensors(V4).items() if key.startswith("mtp.")}
    write_safetensors(tmp_path / "both", config, tensors | {key: saved.read(key) for key in saved.tensors})  # type: ignore[arg-type]
    runs, expected = Runs(tmp_path / "both"), []
    for layer in (1, 3):
        module = reference.get_submodule(f"model.layers.{layer}")
        module.register_forward_hook(lambda module, given, left: expected.append(left[0].mean(1)))
    with torch.inference_mode():
        reference(torch.tensor([TOKENS]))
        start, rows = 0, []
        for size in (7, 16, 1, 1, 6):
            batch = runs.batch(TOKENS[start : start + size], start)
            rows.append(runs.model.states(batch, runs.memory.state)[1])
            runs.model.draft(batch, batch.tokens, runs.memory.state, rows[-1])
            start += size
    assert tiny.relative_error(torch.cat(rows).numpy(), torch.cat(expected, dim=-1).numpy()) < 1e-5


def mlx_vlm_taps(call: Any, layers: tuple[int, ...]) -> np.ndarray:
    """The mean of the streams that mlx-vlm's V4.1 gives to these layers' attention, while it is called."""
    from mlx_vlm.models.deepseek_v41 import language

    found, own = {}, language.DeepseekV41Block.__call__

    def watched(block: Any, x: Any, *given: Any, **options: Any) -> Any:
        found[block.layer_idx] = np.array(x[0].mean(axis=1))
        return own(block, x, *given, **options)

    with mock.patch.object(language.DeepseekV41Block, "__call__", watched):
        call()
    return np.concatenate([found[layer] for layer in layers], axis=1)


def test_a_v41_leaves_the_mean_of_what_its_layers_attention_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the n-gram memory, where the layer has one."""
    tokenizer = v41.save_tokenizer(tmp_path)
    classes = {"engram_compressed_vocab_size": max(engram.fold_tokens(tmp_path)) + 1}
    config = v41.config_of(**V41["text_config"] | v41.ENGRAM | classes | {"dspark_target_layer_ids": [3, 5]})
    tensors = v41.random_tensors(config, draft=True)
    write_safetensors(tmp_path, config, tensors)
    runs, rows = Runs(tmp_path), []
    for start, end in ((0, 7), (7, 23), (23, 24), (24, 31)):
        with torch.inference_mode():
            rows.append(runs.model.states(runs.batch(TOKENS[start:end], start), runs.memory.state)[1])
    own = {name: values for name, values in tensors.items() if not name.startswith("mtp.")}
    expected = recorded(
        "deepseek_v41-taps",
        lambda: mlx_vlm_taps(lambda: v41.mlx_vlm_logits(config, own, tokenizer, TOKENS, monkeypatch), (3, 5)),
    )
    assert tiny.relative_error(torch.cat(rows).numpy(), expected) < 1e-5


# What the published indices hold of the draft layers, and the shapes of some.
STAGE = {
    *(f"attn.{name}.weight" for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "q_norm", "kv_norm")),
    *(f"ffn.{name}.weight" for name in ("gate", "shared_experts.w1", "shared_experts.w2", "shared_experts.w3")),
    *(f"hc_{part}_{name}" for part in ("attn", "ffn") for name in ("fn", "base", "scale")),
    *("attn.attn_sink", "attn_norm.weight", "ffn_norm.weight", "ffn.gate.bias"),
}
BEFORE = {"main_proj.weight", "main_norm.weight"}
MARKOV = {"norm.weight", "confidence_head.proj.weight"}
RELEASES: dict[str, tuple[dict[str, Any], int, set[str], dict[str, tuple[int, ...]], str]] = {
    "deepseek_v4": (
        FLASH,
        256,
        MARKOV
        | {"markov_head.markov_w1.weight", "markov_head.markov_w2.weight"}
        | {"hc_head_fn", "hc_head_base", "hc_head_scale"},
        {"0.main_proj.weight": (4096, 12288), "2.confidence_head.proj.weight": (1, 4352)},
        "tap40 tap41 tap42",
    ),
    "deepseek_v41": (
        v41.RELEASED,
        128,
        MARKOV | {"markov_head.embed.weight", "markov_head.head.weight"},
        {"0.main_proj.weight": (5120, 15360), "2.confidence_head.proj.weight": (1, 5376), "1.ffn.gate.weight": (128, 5120)},
        "tap37 tap38 tap39",
    ),
}


@pytest.mark.parametrize("name", RELEASES)
def test_the_released_draft_layers_are_accounted_for(name: str) -> None:
    config, num_experts, after, shapes, taps = RELEASES[name]
    model, architecture = registry.build(config, OPS, torch.bfloat16, draft=True)
    rules = registry.rules(model, architecture)
    slots = {ours: slot.shape for ours, slot in model.all_slots().items() if ours.startswith("mtp.")}
    vendor = {ours: to_checkpoint(ours, rules) for ours in slots if ".experts." not in ours}
    assert {to_model(name, rules): name for name in vendor.values()} == vendor
    inner = {name.removeprefix("mtp.") for name in vendor.values()}
    stages = {f"{stage}.{one}" for stage in range(3) for one in STAGE}
    assert inner == stages | {f"0.{one}" for one in BEFORE} | {f"2.{one}" for one in after}
    assert len(slots) == len(vendor) + 3 * 3 * num_experts
    found = {name.removeprefix("mtp."): slots[ours] for ours, name in vendor.items()}
    assert {one: found[one] for one in shapes} == shapes
    assert " ".join(model.tapped) == taps
    assert model.drafter is not None
    assert model.drafter.num_tokens == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dspark_target_layer_ids": [3, 1]}, r"dspark_target_layer_ids = \[3, 1\] must rise"),
        ({"dspark_target_layer_ids": [1, 4]}, "some of 4 layers"),
        ({"dspark_noise_token_id": 160}, "dspark_noise_token_id = 160 is not among the 160 tokens"),
        ({"dspark_noise_token_id": None}, "lacks 'dspark_noise_token_id'"),
        ({"dspark_block_size": 0}, "dspark_block_size must be above 0"),
        ({"compress_ratios": [0, 128, 4, 4, 0, 4]}, r"compress_ratios ends in \[0, 4\]"),
        ({"dspark_num_experts_per_tok": 2}, "dspark_num_experts_per_tok = 2 does not fit dspark_n_routed_experts = 0"),
        ({"dspark_num_experts_per_tok": 5, "dspark_n_routed_experts": 4}, "= 5 does not fit dspark_n_routed_experts = 4"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        registry.build(V4 | change, OPS, torch.float32, draft=True)


def test_other_draft_layers_of_v41_are_refused() -> None:
    config = v41.config_of(**V41["text_config"] | {"dspark_target_layer_ids": []})
    with pytest.raises(Unsupported, match=r"without dspark_target_layer_ids.* load the model without drafts"):
        registry.build(config, OPS, torch.float32, draft=True)


def test_draft_layers_are_left_out_unless_they_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = random_tensors(V4)
    write_safetensors(tmp_path, V4, tensors)
    with caplog.at_level("INFO", logger="parity"):
        tiny.open_engine(tmp_path)
    count = sum(name.startswith("mtp.") for name in tensors)
    assert any(f"not loaded: {count} tensor(s) such as mtp." in line and "draft layers" in line for line in caplog.messages)
    del tensors["mtp.1.markov_head.markov_w2.weight"]
    write_safetensors(tmp_path, V4, tensors)
    with pytest.raises(WeightError, match=r"mtp\.1\.markov_head\.markov_w2\.weight is missing"):
        Runs(tmp_path)
