"""Planted faults: what really goes wrong between stacks, made on purpose, so that the verifier can be verified.

Each changes one thing of one side: a file of its checkpoint, an option, or what the loaded model does.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

Array = npt.NDArray[Any]
Patch = Callable[[Any], None]
Edit = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        name: what is wrong.
        kind: the tiny checkpoint that it is planted in.
        seen: where such things were seen.
        level: the first level that must catch it.
        place: what the first operation out of its band must match, where the fault has a place.
        edit: changes a copy of the checkpoint.
        patch: changes the loaded model (an `LLM`).
        base: changes the side that it is compared with, too.
        options: for `LLM`.
    """

    name: str
    kind: str
    seen: str
    level: int
    place: str | None = None
    edit: Edit | None = None
    patch: Patch | None = None
    base: Patch | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


# Changes of files


def config(**changes: Any) -> Edit:
    """Sets keys of config.json; a dict is merged into the one that is there."""

    def edit(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(value, dict) and isinstance(values.get(key), dict) else value
        path.write_text(json.dumps(values))

    return edit


def tensors(pattern: str, change: Callable[[Array], Array]) -> Edit:
    """Changes every tensor whose name matches."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        found = safetensors.numpy.load_file(path)
        names = [name for name in found if re.fullmatch(pattern, name)]
        assert names, f"no tensor matches {pattern}"
        for name in names:
            found[name] = np.ascontiguousarray(change(found[name]).astype(np.float32))
        safetensors.numpy.save_file(found, path, {"format": "pt"})

    return edit


def both(one: Edit, other: Edit) -> Edit:
    """One change after the other."""

    def edit(folder: Path) -> None:
        one(folder)
        other(folder)

    return edit


def swapped(one: str, other: str) -> Edit:
    """Exchanges tensors: a name with `one` in it gets what the name with `other` instead holds."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        found = safetensors.numpy.load_file(path)
        for name in [name for name in found if one in name]:
            partner = name.replace(one, other)
            found[name], found[partner] = found[partner], found[name]
        safetensors.numpy.save_file(found, path, {"format": "pt"})

    return edit


def template(change: Callable[[str], str]) -> Edit:
    """Changes the chat template."""

    def edit(folder: Path) -> None:
        jinja, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
        if jinja.is_file():
            jinja.write_text(change(jinja.read_text()))
            return
        values = json.loads(path.read_text())
        values["chat_template"] = change(values["chat_template"])
        path.write_text(json.dumps(values))

    return edit


def rounded(bits: int, block: int = 32) -> Callable[[Array], Array]:
    """A matrix rounded to integers with a scale for each block of a row."""

    def change(matrix: Array) -> Array:
        parts = matrix.reshape(-1, block)
        scale = np.abs(parts).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        return np.asarray((np.round(parts / np.where(scale == 0, 1, scale)) * scale).reshape(matrix.shape))

    return change


def shifted_scales(matrix: Array, block: int = 32) -> Array:
    """A matrix whose blocks carry the scales of their neighbours."""
    parts = matrix.reshape(matrix.shape[0], -1, block)
    scale = np.abs(parts).max(axis=2, keepdims=True)
    return np.asarray((parts / scale * np.roll(scale, 1, axis=1)).reshape(matrix.shape))


def interleaved(heads: int) -> Callable[[Array], Array]:
    """Rows of q or k as they look when a half-split rotation is taken for an interleaved one."""

    def change(matrix: Array) -> Array:
        parts = matrix.reshape(heads, -1, *matrix.shape[1:])
        half = parts.shape[1] // 2
        return np.asarray(np.stack([parts[:, :half], parts[:, half:]], axis=2).reshape(matrix.shape))

    return change


# Changes of the loaded model


def modules(llm: Any, pattern: str) -> list[Any]:
    """The model's modules whose path matches."""
    found = [module for path, module in llm._engine.runner.model.named_modules() if re.fullmatch(pattern, path)]
    assert found, f"no module matches {pattern}"
    return found


def replaced(pattern: str, change: Callable[[Any, Any, Any], Any]) -> Patch:
    """What modules return becomes `change(module, first input, result)`."""

    def patch(llm: Any) -> None:
        for module in modules(llm, pattern):
            module.register_forward_hook(lambda module, given, result: change(module, given[0], result))

    return patch


def _bias_in_weights(router: Any, x: Any, result: Any) -> Any:
    """The bias, which is for choosing only, also counts in the experts' weights."""
    weights, experts = result
    scores = (x.float() @ router.weight.tensor.float().T).sigmoid() + router.bias.tensor
    chosen = scores.gather(1, experts.long())
    return chosen / chosen.sum(-1, keepdim=True) * weights.sum(-1, keepdim=True), experts


def windowed(size: int) -> Patch:
    """Every attention sees `size` tokens only."""

    def patch(llm: Any) -> None:
        for module in modules(llm, r"model\.layers\.\d+\.self_attn"):
            module.window = size

    return patch


def position_after_hit(llm: Any) -> None:
    """Requests that begin in the cache are one position off from there on; seen where no step is recorded."""
    runner = llm._engine.runner
    prepare, hit, known = runner.prepare, set[str](), set[str]()

    def wrong(plan: Any, brought: Any = None) -> Any:
        batch = prepare(plan, brought)
        positions = batch.positions.clone()
        for chunk, first in zip(plan.chunks, batch.host_starts, strict=False):
            name = chunk.request.id
            if chunk.start and name not in known:
                hit.add(name)
            known.add(name)
            if name in hit:
                positions[first : first + len(chunk.tokens)] -= 1
        return dataclasses.replace(batch, positions=positions)

    runner.prepare = wrong


def state_kept(llm: Any) -> None:
    """A new request finds the state of the one before."""
    llm._engine.runner.memory.clear = lambda slot: None


def silent_penalty(llm: Any) -> None:
    """The server's own sampling defaults are applied to whoever asks for none."""
    service = llm.service
    submit_all = service.submit_all

    def penalised(request: Any) -> Any:
        if request.want == "tokens" and request.constraint is None:
            return dataclasses.replace(request, params=request.params.replace(repetition_penalty=1.3))
        return request

    service.submit_all = lambda requests, emit: submit_all([penalised(request) for request in requests], emit)


def truncated(llm: Any) -> None:
    """Long prompts lose their beginning."""
    encode = llm.encode
    llm.encode = lambda prompt: encode(prompt)[-24:]


_ATTENTION = r"self_attn\.o_proj\.in"
_LAYER_MATRICES = r"model\.layers\..*(proj|gate|experts.*)\.weight"

FAULTS: tuple[Fault, ...] = (
    Fault("rope base", "qwen2", "another config key read", 3, _ATTENTION, config(rope_parameters={"rope_theta": 500000.0})),
    Fault(
        "rope interleaved for half-split",
        "qwen2",
        "converters",
        3,
        r"self_attn\.qkv",
        both(
            tensors(r".*\.self_attn\.q_proj\.(weight|bias)", interleaved(4)),
            tensors(r".*\.self_attn\.k_proj\.(weight|bias)", interleaved(2)),
        ),
    ),
    Fault(
        "YaRN softmax factor missing",
        "qwen2_yarn",
        "new backends",
        3,
        _ATTENTION,
        config(rope_parameters={"attention_factor": 1.0}),
    ),
    Fault("norm epsilon", "qwen2", "defaults of a framework", 3, r"input_layernorm|self_attn\.in", config(rms_norm_eps=1e-5)),
    Fault(
        "query and key norm missing",
        "qwen3",
        "new backends",
        3,
        r"self_attn\.(q_norm|k_norm)",
        patch=replaced(r".*\.self_attn\.[qk]_norm", lambda module, x, result: x),
    ),
    Fault(
        "bias missing", "qwen2", "new backends", 3, r"self_attn\.qkv", tensors(r".*\.[qkv]_proj\.bias", lambda bias: bias * 0)
    ),
    Fault(
        "zero-centred norm read as plain",
        "qwen3",
        "Gemma and Qwen3-Next styles mixed up",
        3,
        r"input_layernorm|self_attn\.in",
        tensors(r".*layernorm\.weight", lambda weight: weight - 1),
    ),
    Fault(
        "gate and up swapped",
        "qwen3",
        "fused checkpoints",
        3,
        r"mlp\.gate_up|mlp\.down_proj\.in",
        swapped("mlp.gate_proj", "mlp.up_proj"),
    ),
    Fault(
        "router bias used in the weights",
        "deepseek_v3",
        "first DeepSeek-V3 ports",
        3,
        r"mlp\.gate",
        patch=replaced(r".*\.mlp\.gate", _bias_in_weights),
    ),
    Fault("experts' weights not renormalised", "qwen3_moe", "first MoE ports", 3, r"mlp\.gate", config(norm_topk_prob=False)),
    Fault(
        "one expert's weights swapped",
        "qwen3_moe",
        "expert parallel loading",
        3,
        r"mlp",
        swapped("layers.1.mlp.experts.0.", "layers.1.mlp.experts.1."),
    ),
    Fault(
        "shared expert dropped",
        "deepseek_v3",
        "expert parallel fusing",
        3,
        r"mlp",
        tensors(r".*shared_experts\.down_proj\.weight", lambda weight: weight * 0),
    ),
    Fault("top-k off by one", "qwen3_moe", "config keys renamed", 3, r"mlp", config(num_experts_per_tok=3)),
    Fault(
        "scale blocks off by one",
        "qwen3",
        "quantised kernels",
        3,
        r"mlp\.down_proj",
        tensors(r".*\.down_proj\.weight", shifted_scales),
    ),
    Fault("cache in lower precision", "qwen3", "a silent default", 3, _ATTENTION, options={"kv_cache_dtype": "bfloat16"}),
    Fault("window off by one", "qwen2", "new backends", 3, _ATTENTION, patch=windowed(13), base=windowed(12)),
    Fault(
        "position off by one after a prefix hit",
        "qwen3",
        "prefix caching",
        3,
        None,
        patch=position_after_hit,
        options={"enforce_eager": True},
    ),
    Fault("state not reset between requests", "qwen3_next", "linear attention", 3, None, patch=state_kept),
    Fault(
        "8-bit weights served as 16", "qwen3", "hosted endpoints", 3, r"self_attn\.qkv", tensors(_LAYER_MATRICES, rounded(8))
    ),
    Fault(
        "4-bit weights served as 16", "qwen3", "hosted endpoints", 3, r"self_attn\.qkv", tensors(_LAYER_MATRICES, rounded(4))
    ),
    Fault(
        "whitespace in the template",
        "qwen3",
        "rewritten templates",
        1,
        None,
        template(lambda text: text.replace("<|im_start|>assistant\n", "<|im_start|>assistant")),
    ),
    Fault(
        "first token missing",
        "qwen3",
        "tokenizers without BOS",
        1,
        None,
        template(lambda text: text.replace("<|im_start|>{{ message.role }}", "{{ message.role }}")),
    ),
    Fault(
        "default system prompt",
        "qwen3",
        "hosted endpoints",
        1,
        None,
        template(lambda text: "<|im_start|>system\nYou are helpful.<|im_end|>\n" + text),
    ),
    Fault("sampling defaults applied silently", "qwen3", "generation_config", 5, None, patch=silent_penalty),
    Fault("truncated context", "qwen3", "a small default context", 1, None, patch=truncated),
)
