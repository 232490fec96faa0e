"""Released checkpoints at full size: their published tensors fill the model that their config describes, one by one.

Each file of `released/` holds a `checkpoint`'s config, the `parameters` that its publisher states, how many numbers are stored
`in_files` (scales and draft layers too; null where that is not published), how many they are `unpacked` (packed ones singly,
scales not), and the names, dtypes and shapes of the tensors, written as patterns: `{0-47}` counts, `{gate,up}` chooses. Where
its index is known by a count alone, `num_tensors` or `num_bytes` is that. `also` names the checkpoints with the very same
tensors, and what is `changed` in their configs. A file may be `like` another, but for its values, what is `changed`, further
tensors, another `dtype` of its bf16 tensors, experts stored `singly`, and what is packed: `in_fp8` the matrices that a pattern
names, in blocks of 128 with scales of a dtype; `in_awq` and `in_gptq` in groups of 128, the latter with or without the biases
that AutoGPTQ adds. `size` is that of all tensors. `source` says what all this rests on.

Nothing is allocated: before loading, a model has no tensors.

Without a public source for their names, or one to derive them from, and so not here: Kimi-K3.1, DeepSeek-V4.1-Flash-1017,
DeepSeek-V4.1-Flash-Base; the tied Qwen2.5 and Qwen3 models up to 4B, Qwen2.5-72B and Qwen1.5-MoE in AWQ and GPTQ (whether a
head is stored, how far rows are padded, which small matrices are packed).
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

from parity.core.errors import ConfigError, ParityError, WeightError
from parity.hub import account
from parity.hub.folding import fold
from parity.hub.safetensors import DTYPES, Entry
from parity.hub.weights import all_to_model
from parity.models import registry
from parity.stacks.reference import OPS

FOLDER = Path(__file__).parent / "released"
UNITS = {"B": 10**9, "T": 10**12, "GiB": 2**30}
GROUP = 128
Shapes: TypeAlias = dict[str, tuple[int, ...]]


@pytest.fixture(autouse=True, scope="module")
def without_what_was_there() -> Iterator[None]:
    """What is there before these tests is not looked at for garbage after each of them."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def without_collection(without_what_was_there: None) -> Iterator[None]:
    """Half a million names are no garbage, and looking for some among them costs a third of the time."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def expanded(pattern: str) -> Iterator[str]:
    """Every name that a pattern means."""
    pieces: list[list[str]] = []
    for text, choice in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", pattern):
        pieces.append([text])
        if choice:
            first, dash, last = choice.partition("-")
            pieces.append([str(n) for n in range(int(first), int(last) + 1)] if dash else choice.split(","))
    return map("".join, itertools.product(*pieces))


def merged(config: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what is changed in it, however deep."""
    deeper = {key: merged(config[key], value) for key, value in changed.items() if isinstance(value, dict) and config.get(key)}
    return {**config, **changed, **deeper}


def in_fp8(tensors: Mapping[str, Sequence[Any]], pattern: str, scales: str) -> dict[str, Sequence[Any]]:
    """The same tensors with the matrices that `pattern` names in FP8, a scale for every 128 x 128 of them."""
    packed = dict(tensors)
    for name, (_, *shape) in tensors.items():
        if re.fullmatch(pattern, name):
            packed[name] = ("F8_E4M3", *shape)
            packed[f"{name}_scale_inv"] = (scales, *(math.ceil(size / 128) for size in shape))
    return packed


def in_int4(tensors: Mapping[str, Sequence[Any]], pattern: str, *, gptq: bool, biased: bool = False) -> dict[str, Any]:
    """The same tensors with the matrices that `pattern` names as AWQ or GPTQ store them, in groups of 128 inputs."""
    packed = dict(tensors)
    for name, shape in tensors.items():
        if re.fullmatch(pattern, name):
            stem, outputs, inputs = name.removesuffix("weight"), *shape[1:]
            del packed[name]
            words = ("I32", inputs // 8, outputs) if gptq else ("I32", inputs, outputs // 8)
            more = {"g_idx": ("I32", inputs)} if gptq else {}
            more |= {"bias": ("F16", outputs)} if biased else {}
            groups = inputs // GROUP
            shared = {"qzeros": ("I32", groups, outputs // 8), "scales": ("F16", groups, outputs)}
            packed = {f"{stem}{ending}": shape for ending, shape in {"qweight": words, **shared, **more}.items()} | packed
    return packed


def singly(tensors: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The same tensors with each expert by itself, gate and up apart."""
    found: dict[str, Sequence[Any]] = {}
    for name, (dtype, *shape) in tensors.items():
        stem, experts, kind = name.partition(".experts.")
        if kind not in ("gate_up_proj", "down_proj"):
            found[name] = (dtype, *shape)
            continue
        count, rows, columns = shape
        part, rows = ("{gate,up}_proj", rows // 2) if kind == "gate_up_proj" else (kind, rows)
        found[f"{stem}{experts}{{0-{count - 1}}}.{part}.weight"] = (dtype, rows, columns)
    return found


def stored_as(tensors: Mapping[str, Sequence[Any]], values: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    """Tensors in the form that a file of `released/` says."""
    if "dtype" in values:
        tensors = {name: (values["dtype"] if dtype == "BF16" else dtype, *shape) for name, (dtype, *shape) in tensors.items()}
    if values.get("singly"):
        tensors = singly(tensors)
    if "in_fp8" in values:
        tensors = in_fp8(tensors, *values["in_fp8"])
    if "in_awq" in values:
        tensors = in_int4(tensors, values["in_awq"], gptq=False)
    if "in_gptq" in values:
        pattern, biases = values["in_gptq"]
        tensors = in_int4(tensors, pattern, gptq=True, biased=biases == "biases")
    return tensors


def read(name: str) -> dict[str, Any]:
    """A file of `released/`, with what it takes from the one that it is like."""
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    if "like" not in values:
        return values
    base = read(values["like"])
    config = merged(base["config"], values.get("changed", {}))
    tensors = stored_as(base["tensors"] | values.get("tensors", {}), values)
    return values | {"config": config, "tensors": tensors}


class Index:
    """What is known of a checkpoint from its files' headers."""

    def __init__(self, name: str) -> None:
        values = read(name)
        self.path = Path(name)
        self.config: dict[str, Any] = values["config"]
        self.parameters: str | None = values["parameters"]
        self.size: str | None = values.get("size")
        self.also: dict[str, dict[str, Any]] = values.get("also", {})
        entries: dict[str, Entry] = {}
        stored = num_bytes = 0
        for pattern, (dtype, *shape) in values["tensors"].items():
            names, entry = list(expanded(pattern)), Entry(DTYPES[dtype], tuple(shape), 0, 0)
            entries |= dict.fromkeys(names, entry)
            stored += len(names) * math.prod(shape)
            num_bytes += len(names) * math.prod(shape) * entry.dtype.itemsize
        self.tensors = fold(entries, self.config)
        unpacked = sum(math.prod(one.shape) for one in self.tensors.values())
        self.counted = {"num_tensors": len(entries), "num_bytes": num_bytes, "in_files": stored, "unpacked": unpacked}
        self.published = {key: values[key] for key in self.counted if values.get(key) is not None}

    def fitted(self, *, draft: bool = False) -> tuple[Shapes, dict[str, tuple[str, ...]]]:
        """(the model's tensors and their shapes, what is left out by the reason)."""
        model, architecture = registry.build(self.config, OPS, torch.bfloat16, draft=draft)
        assert not list(model.parameters())
        rules = registry.rules(model, architecture)
        targets = all_to_model(self.tensors, rules)
        slots = model.all_slots({targets[name]: info.shape for name, info in self.tensors.items()})
        shapes = {name: slot.shape for name, slot in slots.items()}
        return shapes, dict(account(shapes, self, rules, targets).ignored)  # type: ignore[arg-type]


def wanted(config: Mapping[str, Any], present: Shapes) -> Shapes:
    """The tensors, and their shapes, of the model that a config describes; `present` is what there is to fill it."""
    model, _ = registry.build(config, OPS, torch.bfloat16)
    return {name: slot.shape for name, slot in model.all_slots(present).items()}


def stated(text: str, count: int) -> str:
    """A count with the digits and the unit that `text` has."""
    if text.isdigit():
        return str(count)
    number, unit = re.fullmatch(r"([\d.]+)( ?\w+)", text).groups()  # type: ignore[union-attr]
    return f"{count / UNITS[unit.strip()]:.{len(number.partition('.')[2])}f}{unit}"


NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


DRAFTED = (
    "deepseek-v3",
    "deepseek-v3.2",
    "deepseek-v4-flash",
    "deepseek-v4-flash-0731",
    "deepseek-v4.1-flash",
    "qwen3-next-80b-a3b",
    "qwen3.5-0.8b",
    "qwen3.5-35b-a3b",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_tensor_has_its_place_and_every_place_its_tensor(name: str) -> None:
    index = Index(name)
    shapes, ignored = index.fitted()
    parameters = sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith("e_score_correction_bias"))
    assert index.parameters or index.published or index.size
    assert index.size is None or stated(index.size, index.counted["num_bytes"]) == index.size
    assert index.published.items() <= index.counted.items()
    assert index.parameters is None or stated(index.parameters, parameters) == index.parameters
    draft = index.config.get("num_nextn_predict_layers", 0) or any(key.startswith("mtp.") for key in index.tensors)
    assert any("draft" in why for why in ignored) == bool(draft)
    assert len(shapes) + sum(map(len, ignored.values())) == len(index.tensors)
    if name in DRAFTED:
        draft_layers_take_all_their_tensors(index, shapes, ignored)
    for values in index.also.values():
        assert {key: values[key] for key in index.counted if key in values}.items() <= index.counted.items()
        if "changed" in values:
            assert wanted(merged(index.config, values["changed"]), shapes) == shapes


def test_no_checkpoint_is_named_twice() -> None:
    names = [name for file in NAMES for values in [read(file)] for name in (values["checkpoint"], *values.get("also", {}))]
    assert len(names) == len(set(names))


def draft_layers_take_all_their_tensors(index: Index, shapes: Shapes, left: Mapping[str, tuple[str, ...]]) -> None:
    """`shapes` and `left`: what the model takes, and leaves, without draft layers."""
    with_drafts, ignored = index.fitted(draft=True)
    drafts = {key: shape for key, shape in with_drafts.items() if key.startswith("mtp.")}
    assert drafts
    assert with_drafts.keys() - drafts.keys() == shapes.keys()
    shared = sum(len(names) for why, names in ignored.items() if "share" in why)
    skipped = sum(len(names) for why, names in left.items() if "draft" in why)
    assert skipped == len(drafts) + shared
    assert not any(why == "draft layers for speculative decoding" for why in ignored)


def test_counts_that_are_published_to_the_last_digits() -> None:
    shapes, _ = Index("moonlight-16b-a3b").fitted()
    parameters = sum(math.prod(shape) for key, shape in shapes.items() if "embed_tokens" not in key and "lm_head" not in key)
    assert stated("15.29B", parameters) == "15.29B"


def test_a_tensor_less_and_a_tensor_more_are_named() -> None:
    index = Index("qwen3-0.6b")
    index.tensors["model.layers.28.self_attn.q_proj.weight"] = index.tensors.pop("model.layers.27.self_attn.q_proj.weight")
    with pytest.raises(
        WeightError, match=r"layers\.28\.self_attn\.q_proj\.weight is in the checkpoint(.|\n)*layers\.27\.\S* is missing"
    ):
        index.fitted()


OF_EACH_FAMILY = (
    "qwen1.5-moe-a2.7b",
    "qwen3.5-0.8b",
    "qwen3.5-35b-a3b",
    "deepseek-v2-lite",
    "moonlight-16b-a3b",
    "kimi-linear-48b-a3b",
)


NOT_NUMBERS_OF_A_MODEL: tuple[tuple[str, Any, str], ...] = (
    ("rms_norm_eps", -1e-6, "rms_norm_eps must not be negative, not -1e-06"),
    ("rms_norm_eps", math.inf, "rms_norm_eps must be a finite number, not inf"),
    ("rope_theta", math.nan, "rope_theta must be a finite number, not nan"),
    ("rope_parameters", {"rope_type": "yarn", "factor": 1e300}, r"factor must be a number up to 1e\+36, not 1e\+300"),
    ("num_experts", 10**6, "1000000 experts in a layer are more than the 10000 that can be"),
    ("n_routed_experts", 10**6, "1000000 experts in a layer are more than the 10000 that can be"),
    ("rope_theta", 0, "rope_theta must be above 0, not 0"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": -1e6}, "rope_theta must be above 0, not -1000000"),
    ("rope_parameters", {"rope_theta": "much"}, "rope_theta must be a number, not 'much'"),
    ("rope_parameters", {"rope_type": []}, r"rope_type \[\] is not supported"),
    ("rope_parameters", {"partial_rotary_factor": 2.5}, "partial_rotary_factor must be at most 1, not 2.5"),
    ("rope_parameters", {"partial_rotary_factor": "half"}, "partial_rotary_factor must be a number, not 'half'"),
    ("rope_parameters", {"rope_type": "yarn", "factor": 0}, "factor must be above 0, not 0"),
    ("rope_parameters", {"rope_type": "yarn"}, "rope lacks 'factor'"),
    ("head_dim", 2**23, "dimensions cannot be rotated: an even number of them can, up to 1048576"),
    ("qk_rope_head_dim", 63, "63 dimensions cannot be rotated"),
    ("num_hidden_layers", 10**9, "num_hidden_layers must be at most 10000, not 1000000000"),
    ("num_experts_per_tok", 999, "num_experts_per_tok = 999 is above the number of experts"),
    ("num_experts_per_token", 999, "num_experts_per_tok = 999 is above the number of experts"),
    ("n_group", 7, "do not fit n_group = 7 with topk_group"),
    ("topk_group", 99, r"do not fit n_group = \d+ with topk_group = 99"),
    ("num_expert_group", 7, "do not fit n_group = 7 with topk_group"),
)

# Greedy routing has no groups; nothing is rotated.
NOT_COMPUTED_WITH = {
    "deepseek-v2-lite": {"n_group", "topk_group"},
    "kimi-linear-48b-a3b": {"rope_theta", "head_dim", "qk_rope_head_dim"},
}


@pytest.mark.parametrize("name", OF_EACH_FAMILY)
def test_what_is_wrong_is_named_in_every_family(name: str) -> None:
    index = Index(name)
    config = index.config
    text = config.get("text_config", config)
    text["frobnicate"] = 7
    with pytest.raises(ConfigError, match="frobnicate"):
        registry.build(config, OPS, torch.bfloat16)
    del text["frobnicate"]
    given, text["hidden_act"] = text["hidden_act"], "gelu_new"
    with pytest.raises(ParityError, match="gelu_new"):
        registry.build(config, OPS, torch.bfloat16)
    text["hidden_act"] = given
    used = text.keys() - NOT_COMPUTED_WITH.get(name, set())
    for key, value, said in NOT_NUMBERS_OF_A_MODEL:
        if key in used:
            given, text[key] = text[key], value
            with pytest.raises(ConfigError, match=said):
                registry.build(config, OPS, torch.bfloat16)
            text[key] = given
    text["hidden_size"] *= 1000  # terabytes, if it came to that
    with pytest.raises(WeightError, match=r"embed_tokens\.weight has shape \[\d+, \d+\], the model wants \[\d+, \d+000\]"):
        index.fitted()
