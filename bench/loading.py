"""What loading takes at most, beside the model itself: sharded checkpoints of several formats, experts stacked.

    python bench/loading.py [--formats bf16,fp8,int4,gptq,gguf] [--stack cpu] [--folder FOLDER]

A random Qwen3-MoE is written in each format, in shards (GGUF in one file), and loaded in a process of its own. The system tells
its most resident memory, exactly, and how much of it is anonymous, asked every millisecond. A layer's experts are larger than a
shard and come last, so that nothing hides a second copy of them. `model` is what the loaded model keeps: what is anonymous
afterwards, and its weights that lie in the files. The aim: at most the model and the largest shard. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHARD_BYTES = 100_000_000
CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 8000,
    "num_experts": 64,
    "moe_intermediate_size": 1024,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
INT4 = {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "bf16": {},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "int4": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": INT4}},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
}


def write(format: str, folder: Path) -> None:
    """The checkpoint in a format; one layer's tensors are there at a time."""
    import torch

    from parity.hub import export_gguf
    from parity.hub.safetensors import write_safetensors
    from parity.models import registry
    from parity.stacks.reference import OPS

    model, _ = registry.build(CONFIG, OPS, torch.bfloat16)
    shapes = {name: slot.shape for name, slot in model.all_slots().items()}
    drawn = torch.Generator().manual_seed(0)
    tensors: dict[str, Any] = {}
    for name, shape in shapes.items():
        values = torch.empty(shape).uniform_(-0.03, 0.03, generator=drawn)
        tensors |= stored(format, name, values)
    if format == "gguf":
        export_gguf(folder / "m.gguf", CONFIG, tensors, {})
        return
    config = CONFIG | ({"quantization_config": SETTINGS[format]} if SETTINGS[format] else {})
    write_safetensors(folder, config, tensors, SHARD_BYTES)


def stored(format: str, name: str, values: Any) -> dict[str, Any]:
    """A weight's arrays by their names in a file."""
    import torch

    from parity.formats import pack
    from parity.formats.int_groups import pack_words, unpack_words

    stem, matrix = name.removesuffix("weight"), "_proj" in name
    if format == "gguf":
        return {name: pack(values, "q4_k") if matrix else values}
    if format == "fp8" and matrix:
        arrays = pack(values, "fp8_block").arrays
        return {name: arrays["data"], f"{stem}weight_scale_inv": arrays["scale"].bfloat16()}
    if format == "int4" and ".experts." in name:
        arrays = pack(values, "int4_group", group_size=32).arrays
        return {f"{stem}weight_packed": arrays["data"], f"{stem}weight_scale": arrays["scale"].bfloat16()}
    if format == "gptq" and matrix:
        arrays = pack(values, "int4_zero", group_size=128).arrays
        words = pack_words(unpack_words(arrays["data"])).t().contiguous()
        order = (torch.arange(values.shape[1]) // 128).int()
        zeros = pack_words(arrays["zeros"].t().contiguous().clamp(min=1) - 1)
        scales = arrays["scale"].t().contiguous().half()
        return {f"{stem}qweight": words, f"{stem}qzeros": zeros, f"{stem}scales": scales, f"{stem}g_idx": order}
    return {name: values.bfloat16()}


def memory(process: int) -> tuple[int, int, int]:
    """(anonymous, of files, most together since the system was last told to forget), resident bytes of a process."""
    lines = (line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines())
    found = {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("RssAnon:", "RssFile:", "VmHWM:")}
    return found["RssAnon:"], found["RssFile:"], found["VmHWM:"]


def load(path: str, stack_name: str) -> None:
    """Loads the model when told to by a line, says how many bytes it keeps, and waits to be read."""
    from parity.core.heap import give_back
    from parity.engine.load import load_model
    from parity.hub import open_checkpoint
    from parity.stacks.registry import open_stack

    stack, dtype = open_stack(stack_name)
    checkpoint = open_checkpoint(path)
    print("ready", flush=True)
    sys.stdin.readline()
    model = load_model(checkpoint, stack, dtype or stack.dtypes[0])
    give_back()
    print(in_place(), flush=True)
    sys.stdin.readline()
    del model


def in_place() -> int:
    """Bytes of tensors that lie in mapped files of weights."""
    import torch

    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split("-", 1) for line in lines if line.endswith((".safetensors", ".gguf"))]
    maps = [(int(first, 16), int(rest.split(" ", 1)[0], 16)) for first, rest in ranges]
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    found = {one.data_ptr(): one.nbytes for one in tensors if any(first <= one.data_ptr() < last for first, last in maps)}
    return sum(found.values())


def measure(path: Path, stack: str) -> tuple[int, int, int]:
    """(bytes that the model keeps, most resident while loading, most anonymous), beyond what was there before."""
    command = [sys.executable, __file__, "--load", str(path), "--stack", stack]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        Path(f"/proc/{child.pid}/clear_refs").write_text("5")
        before, of_files, _ = memory(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        most_anonymous = 0
        while not select.select([child.stdout], [], [], 0.001)[0]:
            most_anonymous = max(most_anonymous, memory(child.pid)[0] - before)
        placed = int(child.stdout.readline())
        anonymous, _, most = memory(child.pid)
        child.stdin.write("\n")
    return placed + anonymous - before, most - before - of_files, most_anonymous


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--formats", default="bf16,fp8,int4,gptq,gguf")
    parser.add_argument("--stack", default="cpu")
    parser.add_argument("--folder", type=Path, help="where checkpoints are kept")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load, arguments.stack)
        return
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{'MiB':<8}{'files':>8}{'largest':>9}{'model':>8}{'most':>8}{'anonymous':>11}  above the aim")
        for format in arguments.formats.split(","):
            folder = (arguments.folder or Path(temporary)) / format
            if not folder.exists():
                folder.mkdir(parents=True)
                write(format, folder)
            sizes = [file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf")]
            model, most, anonymous = measure(folder, arguments.stack)
            row = zip((sum(sizes), max(sizes), model, most, anonymous), (8, 9, 8, 8, 11), strict=True)
            above = max(most - model - max(sizes), 0)
            print(f"{format:<8}" + "".join(f"{value / 2**20:>{width}.0f}" for value, width in row) + f"{above / 2**20:>15.0f}")


if __name__ == "__main__":
    main()
