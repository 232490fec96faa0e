"""What a decode step's sparse attention costs as the context grows: the choice of entries, and the attention to them.

    python bench/sparse.py [--stack cpu] [--contexts 4096,16384,65536] [--architectures deepseek_v32,deepseek_v4]

Small models of the four architectures that choose what they attend to: few layers and experts, but the released dimensions of
heads, latents, windows, groups and indexes, and released numbers of chosen entries. One sequence, random weights and state. The
choice looks at one index key for each entry, so it grows with the context; the attention reads the chosen entries and no more.
`step` is the whole decode step. Times are medians in milliseconds, summed over the layers.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parity.core.batch import Batch
from parity.core.state import PerToken
from parity.engine.memory import StateMemory, choose_page_size
from parity.models import registry
from parity.models.decoder import Decoder
from parity.stacks.base import Stack
from parity.stacks.ops import Ops
from parity.stacks.registry import open_stack

COMMON = {"vocab_size": 256, "hidden_size": 512, "num_hidden_layers": 4, "max_position_embeddings": 1 << 20}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {"q_lora_rank": 512, "kv_lora_rank": 512, "intermediate_size": 512, "n_routed_experts": 8}
LATENT |= {"n_group": 1, "topk_group": 1}
SHARED = {"head_dim": 512, "q_lora_rank": 512, "o_groups": 4, "o_lora_rank": 128, "n_routed_experts": 8, "sliding_window": 128}
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v32": {**LATENT, "num_attention_heads": 16, "first_k_dense_replace": 1, "index_topk": 2048, "index_n_heads": 64},
    "deepseek_v4": {
        **SHARED,
        "num_attention_heads": 8,
        "index_n_heads": 64,
        "index_topk": 512,
        "num_hash_layers": 0,
        "compress_ratios": [4, 128, 4, 128],
    },
    "deepseek_v41": {
        **SHARED,
        "num_attention_heads": 8,
        "index_n_heads": 32,
        "index_topk": 512,
        "compress_ratios": [2, 2, 1, 1],
        "kv_source_layer_ids": [0, 2],
        "index_source_layer_ids": [0, 2, 3],
        "candidate_source_layer_id": 2,
    },
    "qwen4_exp_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "num_experts": 8,
        "shared_expert_intermediate_size": 64,
        "hc_lowrank": 32,
        "indexer_n_heads": 4,
        "indexer_head_dim": 128,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    },
}
CHOICES, ATTENTIONS = ("select", "select_blocks"), ("attend", "attend_latent", "attend_selected", "attend_pooled")


class Clock:
    """Adds up the time spent in ops, by name."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self.spent: dict[str, float] = defaultdict(float)

    def timed(self, name: str, op: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*words: Any, **named: Any) -> Tensor:
            self._synchronize()
            started = time.perf_counter()
            result = op(*words, **named)
            self._synchronize()
            self.spent[name] += time.perf_counter() - started
            return result

        return run

    def ops(self, ops: Ops) -> Ops:
        return dataclasses.replace(ops, **{name: self.timed(name, getattr(ops, name)) for name in (*CHOICES, *ATTENTIONS)})


def random_model(config: dict[str, Any], ops: Ops, stack: Stack, dtype: torch.dtype) -> Decoder:
    """The model of a config with random weights."""
    model, _ = registry.build(config, ops, dtype)
    device, generator = stack.device.torch_device, torch.Generator().manual_seed(0)
    for slot in model.all_slots().values():
        values = torch.randn(slot.shape, generator=generator) * slot.shape[-1] ** -0.5
        kind = torch.float32 if slot.exact else dtype
        slot.put(values, lambda weight, kind=kind: weight.to(device, kind))
    return model.to(device).eval()


def decode(context: int, page_size: int, device: torch.device) -> Batch:
    """The last token of a sequence of `context`."""

    def ints(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    pages = torch.arange(-(-context // page_size), dtype=torch.int32, device=device)[None]
    return Batch(ints(5), ints(context - 1), ints(0, 1), ints(context), pages, ints(0), page_size, (0, 1), (context,))


def measure(architecture: str, contexts: list[int], spec: str | None, repeats: int) -> None:
    stack, dtype = open_stack(spec)
    dtype, device = dtype or stack.dtypes[0], stack.device.torch_device
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    clock = Clock(synchronize)
    config = {"model_type": architecture, **COMMON, **EXPERTS, **CONFIGS[architecture]}
    model = random_model(config, clock.ops(stack.ops), stack, dtype)
    page_size = choose_page_size(model.state, 64)
    print(f"{architecture} on {stack.name}, {str(dtype).removeprefix('torch.')}")
    print(f"{'context':>9} {'choice':>9} {'attention':>9} {'step':>9}")
    for context in contexts:
        memory = StateMemory(
            model.state,
            num_pages=-(-context // page_size),
            page_size=page_size,
            num_slots=1,
            num_snapshots=0,
            dtype=dtype,
            device=stack.device,
        )
        for specs, arrays in zip(model.state, memory.state, strict=True):
            for one in specs:
                if isinstance(one, PerToken):
                    arrays[one.name].normal_()
        batch = decode(context, page_size, device)
        rows: list[tuple[float, float, float]] = []
        for _ in range(repeats + 1):
            clock.spent.clear()
            synchronize()
            started = time.perf_counter()
            with torch.inference_mode():
                model(batch, memory.state)
            synchronize()
            total = time.perf_counter() - started
            spent = [sum(clock.spent[name] for name in names) for names in (CHOICES, ATTENTIONS)]
            rows.append((*spent, total))
        choice, attention, step = (1000 * statistics.median(column) for column in zip(*rows[1:], strict=True))
        print(f"{context:>9} {choice:>9.2f} {attention:>9.2f} {step:>9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default=None)
    parser.add_argument("--contexts", default="4096,16384,65536")
    parser.add_argument("--architectures", default=",".join(CONFIGS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    contexts = [int(context) for context in arguments.contexts.split(",")]
    for architecture in arguments.architectures.split(","):
        measure(architecture, contexts, arguments.stack, arguments.repeats)


if __name__ == "__main__":
    main()
