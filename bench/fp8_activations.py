"""How far rounding activations to FP8 moves a model, beside rounding its weights.

    python bench/fp8_activations.py [MODEL] [--tokens 1024]

Vendors run their FP8 checkpoints with activations rounded to FP8, too, in groups of 128 (W8A8); Parity multiplies FP8 weights
with activations as they are. This puts a size on the difference: the layers' weights are rounded to FP8 in blocks of 128 x 128,
then the activations in front of them as well, and both are compared with the model as it is, over this project's own documents.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from parity import LLM
from parity.formats import expand, pack
from parity.stacks.ops import Ops

GROUP, LARGEST, WINDOW = 128, 448.0, 512
ROOT = Path(__file__).parents[1]


def rounded_activations(x: Tensor) -> Tensor:
    """Each group of a row divided by its largest over FP8's largest, rounded, and multiplied back."""
    groups = x.unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LARGEST
    return ((groups / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2)


def rounded(ops: Ops, vocab_size: int, *, activations: bool) -> Ops:
    """The table with the layers' weights, and if asked for their inputs, rounded to FP8; the output head is left as it is."""
    made: dict[int, Tensor] = {}

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.shape[0] == vocab_size:
            return ops.linear(x, weight, bias)
        if id(weight) not in made:
            made[id(weight)] = expand(pack(weight, "fp8_block", block_rows=GROUP, block_columns=GROUP, e8m0=0))
        return ops.linear(rounded_activations(x) if activations else x, made[id(weight)], bias)

    return dataclasses.replace(ops, linear=linear)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="qwen2.5-coder-0.5b")
    parser.add_argument("--tokens", type=int, default=1024)
    arguments = parser.parse_args()
    llm = LLM(arguments.model, stack="cpu:reference:float32", max_model_len=WINDOW)
    text = "".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    tokens = llm.tokenizer.encode(text)[: arguments.tokens]
    windows = [tokens[start : start + WINDOW] for start in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    model = llm._engine.runner.model
    plain = model.ops

    def distributions(ops: Ops) -> Tensor:
        for module in model.modules():
            if hasattr(module, "ops"):
                module.ops = ops
        return torch.cat([torch.from_numpy(llm.logits(window)) for window in windows]).log_softmax(-1)

    truth = distributions(plain)
    for name, activations in (("weights", False), ("weights and activations", True)):
        found = distributions(rounded(plain, model.vocab_size, activations=activations))
        divergence = (truth.exp() * (truth - found)).sum(-1).mean()
        same = (truth.argmax(-1) == found.argmax(-1)).float().mean()
        print(f"FP8 {name}: mean KL divergence {divergence:.5f} nats, same most likely token {same:.1%}")


if __name__ == "__main__":
    main()
