"""Compiles kernels at shapes of released models for a GPU that need not be here, and reads what came out.

python compile_kernels.py sm_90|sm_80|...|gfx942|... all|hot|norm,rotary,...

Every kernel has to fit the shared memory. On sm_90 it also has to keep its numbers in registers, and a hot kernel, one that
a step spends its time in, to use the matrix unit and to read what is large in wide pieces, without a load of a byte or two a
thread except for scales; elsewhere what is kept in memory is printed. All that is wrong is said at the end. Needs no GPU:
Triton brings ptxas and cuobjdump.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import traceback
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from parity.core.batch import Batch
from parity.core.weights import Packed, Weight
from parity.stacks.check.case import Make
from parity.stacks.cuda.kernels import (
    attend,
    conv,
    delta,
    experts,
    gpu,
    latent,
    linear,
    norm,
    pointwise,
    pooled,
    rotary,
    route,
    sample,
    select,
    selected,
    streams,
)
from parity.stacks.cuda.kernels.packed import prepare
from parity.stacks.ops import Activation, Routing

SHARED_KIB = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64, "gfx1100": 64}
"""What a program may share on each target."""
HALF, FULL = torch.bfloat16, torch.float32
HOT = {"_linear", "_grouped", "_attend", "_attend_latent", "_attend_selected", "_attend_pooled", "_scores"}
"""Kernels that a step spends its time in. Their products in float32 are for comparisons, and no matrix unit has them."""
FORMATS = ("fp8_block", "mxfp4", "int4_group", "int8_group", "int4_zero")


class Driver:
    """Says that a GPU of the target is here."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def spilled(kernel: Any) -> int:
    """Bytes of a thread's stack, or registers kept in memory: what did not fit the registers."""
    if "amdgcn" in kernel.asm:
        return sum(map(int, re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", kernel.asm["amdgcn"])))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", usage)
    assert found is not None, usage
    return int(found[1])


def loop(kernel: Any) -> int:
    """Instructions of the longest loop for NVIDIA: of one turn of a product's."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    labels, number, longest = dict[str, int](), 0, 0
    for line in text.splitlines():
        if label := re.match(r"\s*\.(L_x_\d+):", line):
            labels[label[1]] = number
        elif re.search(r"/\*[0-9a-f]{4,}\*/ .*;", line):
            number += 1
            back = re.search(r"BRA.*`\(\.(L_x_\d+)\)", line)
            longest = max(longest, number - labels.get(back[1], number) if back else 0)
    return longest


def slow_paths(kernel: Any, tiles: int) -> list[str]:
    """What a hot kernel for NVIDIA that multiplies so many tiles at once should not do, read from its PTX."""
    ptx, wrong = kernel.asm["ptx"], []
    if not re.search(r"wgmma\.mma_async|mma\.sync", ptx):
        wrong.append("no matrix unit")
    pieces = [int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*?, 0x([0-9a-f]+)", ptx)]
    if max(pieces, default=0) < 8:
        wrong.append(f"pages or weights are read in pieces of {sorted(set(pieces))} bytes")
    narrow = len(re.findall(r"ld\.global[\w.:]*\.[bus](?:8|16) ", ptx))
    if narrow > 20 * tiles:  # scales, and a bias
        wrong.append(f"{narrow} loads of a byte or two")
    return wrong


def hurries(kernel: Any) -> bool:
    """Whether it touches memory before it waits for the launches before it, but for asking for weights."""
    touched = re.search(r"\b(ld|st|atom|red)\.(\w+\.)*global|\bcp\.async\.c", kernel.asm["ptx"])
    waits = kernel.asm["ptx"].find("griddepcontrol.wait")
    return waits < 0 or (touched is not None and touched.start() < waits)


def target_of(name: str) -> GPUTarget:
    """What Triton calls a name of `SHARED_KIB`."""
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)


def wrong(kernel: Any, target: str, tiles: int) -> list[str]:
    """What a compiled kernel should not do; it is hot where it multiplies tiles."""
    found, shared = [], SHARED_KIB[target] << 10
    if kernel.metadata.shared > shared:
        found.append(f"shares {kernel.metadata.shared} bytes of {shared}")
    if target in ("sm_90", "sm_100", "sm_120") and hurries(kernel):
        found.append("does not wait for the launches before it")
    if target == "sm_90":
        if spilled(kernel):
            found.append(f"keeps {spilled(kernel)} bytes of registers in memory")
        found += slow_paths(kernel, tiles) if tiles else []
    return found


def install(target: str) -> list[str]:
    """Makes every launch a compilation, each printed once; what is wrong goes to the list that it gives."""
    driver.set_active(Driver(target_of(target)))
    gpu.of = lambda device: gpu.Gpu(132, SHARED_KIB[target] << 10)
    compile_or_launch, seen, problems = JITFunction.run, set(), list[str]()

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        name = self.fn.__name__
        try:
            kernel = compile_or_launch(self, *args, grid=grid, warmup=True, **options)
        except Exception as error:  # of the compiler, of any kind
            problems.append(f"{name}, {caller()}: {type(error).__name__}: {str(error)[:400]}")
            return None
        if kernel.hash not in seen:
            seen.add(kernel.hash)
            turn = f", {loop(kernel)} instructions a turn" if name in HOT and "cubin" in kernel.asm else ""
            print(f"{name}: {kernel.metadata.shared} bytes shared, {spilled(kernel)} of registers in memory{turn}", flush=True)
            gated = "GATED" in self.arg_names and args[self.arg_names.index("GATED")] >= 0
            found = wrong(kernel, target, 1 + gated if name in HOT and args[0].dtype == HALF else 0)
            problems.extend(f"{name} of {args[0].dtype}, {caller()}: {what}" for what in found)
        return kernel

    JITFunction.run = run
    return problems


def caller() -> str:
    """The line of this file whose launch it is."""
    line = next(frame for frame in traceback.extract_stack() if frame.filename == __file__ and frame.name in LAUNCHES)
    return f"line {line.lineno}"


def x(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


def packed(name: str, *shape: int, group: int = 32) -> Weight:
    """A weight whose numbers do not matter."""
    *lead, rows, columns = shape
    by_group = x(*lead, rows, columns // group)
    arrays, meta = {
        "fp8_block": (
            {"data": x(*shape, dtype=torch.float8_e4m3fn), "scale": x(*lead, -(-rows // 128), -(-columns // 128), dtype=FULL)},
            {"block_rows": 128, "block_columns": 128},
        ),
        "mxfp4": ({"data": x(*lead, rows, columns // 2).to(torch.uint8), "scale": by_group.to(torch.uint8)}, {}),
        "int4_group": ({"data": x(*lead, rows, columns // 8).int(), "scale": by_group}, {"group_size": group}),
        "int4_zero": (
            {"data": x(*lead, rows, columns // 8).int(), "scale": by_group.half(), "zeros": by_group.to(torch.uint8)},
            {"group_size": group},
        ),
        "int8_group": ({"data": x(*shape).to(torch.int8), "scale": by_group}, {"group_size": group}),
    }[name]
    return prepare(Packed(name, shape, arrays, meta))


def products() -> None:
    linear.linear(x(1, 2048), packed("int4_group", 1024, 2048, group=128))
    for rows in (1, 24, 100):
        for name in FORMATS:
            linear.linear(x(rows, 2048), packed(name, 1024, 2048), x(1024))
            for height in (128, 2048):  # its sum in parts, and whole
                linear.gated_linear(x(rows, 2048), packed(name, height, 2048), x(height), Activation())
    linear.linear(x(1, 2048), x(1024, 2048), x(1024))
    linear.gated_linear(x(8, 4096), x(24576, 4096), None, Activation())
    for dtype in (HALF, FULL):
        linear.linear_fixed(x(3, 2048, dtype=dtype), x(1024, 2048, dtype=dtype))
    linear.head_linear_fixed(x(3, 4, 128), x(4, 512, 128))


def grouped() -> None:
    for rows in (2, 200):
        chosen = torch.zeros(rows, 8, dtype=torch.int32)
        experts.experts(x(rows, 1024), x(16, 512, 1024), x(16, 1024, 256), x(rows, 8, dtype=FULL), chosen, Activation())
        for name in FORMATS:
            up, down = packed(name, 16, 512, 1024), packed(name, 16, 1024, 256)
            experts.experts(x(rows, 1024), up, down, x(rows, 8, dtype=FULL), chosen, Activation())


def norms() -> None:
    heads, weight = x(7, 3, 128), x(128, dtype=FULL)
    norm.rms_norm(heads, weight, 1e-6)
    norm.add_rms_norm(x(5, 4096), x(5, 4096), x(4096, dtype=FULL), 1e-6)
    norm.gated_rms_norm(heads, heads, weight, 1e-6, "silu")
    norm.layer_norm(heads, weight, weight, 1e-6)


def elements() -> None:
    for activation in (Activation(), Activation(limit=7.0), Activation("situ", beta=4.0, linear=25.0)):
        pointwise.gated_activation(x(7, 3, 128), activation)
    pointwise.sigmoid_gate(x(7, 3, 128), x(7, 3, 128))
    pointwise.delta_gates(x(5, 4), x(5, 4), x(4, dtype=FULL), x(4, dtype=FULL))


def routers() -> None:
    route.route(x(3, 128), Routing(8))
    grouped = Routing(8, "sigmoid", scale=2.5, num_groups=8, top_groups=4)
    route.route(x(3, 256, dtype=FULL), grouped, x(256, dtype=FULL))
    route.route(x(3, 384, dtype=FULL), Routing(8, "sqrtsoftplus"), x(384, dtype=FULL))


def rotations(batch: Batch) -> None:
    rows = batch.num_tokens
    q, k, v = x(rows, 48, 128).split([32, 8, 8], 1)
    pages, angles = x(60, 64, 8, 128), x(rows, 2, 64, dtype=FULL)
    rotary.rope_write(q, k, v, angles, pages, pages, batch)
    rotary.norm_rope_write(q, k, v, x(128), x(128), 1e-6, False, angles, pages, pages, batch)
    rotary.write(pages, k, batch)
    rotary.rope(q, angles, interleaved=True)


def attention(batch: Batch) -> None:
    for dtype in (HALF, FULL):
        q, pages = x(batch.num_tokens, 32, 128, dtype=dtype), x(60, 64, 8, 128, dtype=dtype)
        attend.attend(q, pages, pages, batch, 0.1)
        attend.attend(q, pages, pages, batch, 0.1, window=128, sinks=x(32, dtype=FULL))
    attend.attend(x(batch.num_tokens, 16, 256), x(60, 64, 2, 256), x(60, 64, 2, 256), batch, 0.1)


def latents(batch: Batch) -> None:
    rows = batch.num_tokens
    for heads, dtype in ((16, HALF), (128, HALF), (16, FULL)):
        q = (x(rows, heads, 512, dtype=dtype), x(rows, heads, 64, dtype=dtype))
        args = (*q, x(60, 64, 512, dtype=dtype), x(60, 64, 64, dtype=dtype), batch, 0.1)
        latent.attend_latent(*args)
        latent.attend_latent(*args, selected=torch.zeros(rows, 2048, dtype=torch.int32))


def deltas(batch: Batch) -> None:
    rows = batch.num_tokens
    for shape in ((rows, 32), (rows, 32, 128)):
        for dtype in (HALF, FULL):
            q, v = x(rows, 16, 128, dtype=dtype), x(rows, 32, 128, dtype=dtype)
            state = x(9, 32, 128, 128, dtype=FULL)
            delta.gated_delta(q, q, v, x(*shape, dtype=FULL), x(rows, 32, dtype=FULL), state, batch, 0.1)


def pooled_entries(batch: Batch) -> None:
    rows, chosen = batch.num_tokens, torch.zeros(batch.num_tokens, 1024, dtype=torch.int32)
    for every, overlap in ((4, True), (128, False)):
        wide = 1024 if overlap else 512
        tail = x(9, 2 * every if overlap else every, 2 * wide)
        pooled.pool(x(rows, wide), x(rows, wide), x(every, wide, dtype=FULL), tail, batch, every, overlap)
    rotary.write_pooled(x(60, 16, 512), x(rows, 512), batch, 4)
    args = (x(rows, 64, 512), x(60, 64, 512))
    pooled.attend_pooled(*args, x(60, 16, 512), batch, 0.1, 128, 4, chosen, x(64, dtype=FULL))
    pooled.attend_pooled(*args, x(60, 16, 512), batch, 0.1, 128, 4, None, x(64, dtype=FULL))
    pooled.attend_pooled(*args, None, batch, 0.1, 128, 4)


def selections(batch: Batch) -> None:
    rows, chosen = batch.num_tokens, torch.zeros(batch.num_tokens, 64, dtype=torch.int32)
    pages = x(60, 64, 2, 256)
    selected.attend_selected(x(rows, 16, 256), pages, pages, batch, 0.1, chosen, 16)
    keys, weights = x(60, 64, 128), x(rows, 64, dtype=FULL)
    select.select(x(rows, 64, 128), weights, keys, batch, 2048)
    select.select_blocks(x(rows, 8, 128), None, x(60, 4, 128), batch, 16, 16, 4)


def several_streams(batch: Batch) -> None:
    lanes, gates = x(batch.num_tokens, 4, 7168), x(batch.num_tokens, 4, dtype=FULL)
    streams.hyper_weights(lanes, x(24, 4 * 7168, dtype=FULL), x(24, dtype=FULL), x(3, dtype=FULL), 1e-6, 1e-6, 20)
    streams.hyper_read(lanes, gates)
    streams.hyper_write(lanes, x(batch.num_tokens, 7168), gates, x(batch.num_tokens, 4, 4, dtype=FULL))
    streams.stream_norm(lanes, x(4, 7168), 1e-6)
    streams.gated_mean(lanes, lanes)
    streams.stream_gate(lanes, lanes)
    streams.mix(tuple(x(batch.num_tokens, 7168) for _ in range(7)), x(7168, dtype=FULL), x(1, 7168, dtype=FULL), 1e-6)
    streams.token_windows(batch.tokens, torch.zeros(9, 2, dtype=torch.int32), batch)


def hottest(batch: Batch) -> None:
    """One of each kind, for a test that takes seconds."""
    linear.linear(x(1, 2048), packed("int4_group", 1024, 2048))
    pages = x(60, 64, 8, 128)
    attend.attend(x(batch.num_tokens, 32, 128), pages, pages, batch, 0.1)


WITHOUT_BATCH = {
    "norm": norms,
    "pointwise": elements,
    "route": routers,
    "linear": products,
    "experts": grouped,
    "sample": lambda: sample.sample(x(4, 151936, dtype=FULL), *[x(4, dtype=t) for t in (FULL, torch.int32, FULL, FULL, FULL)]),
}
WITH_BATCH = {
    "rotary": rotations,
    "attend": attention,
    "latent": latents,
    "delta": deltas,
    "conv": lambda batch: conv.causal_conv(x(batch.num_tokens, 8192), x(8192, 4, dtype=FULL), x(9, 8192, 3), batch),
    "selected": selections,
    "pooled": pooled_entries,
    "streams": several_streams,
}


LAUNCHES = {*(launch.__name__ for launch in (*WITHOUT_BATCH.values(), *WITH_BATCH.values())), "hottest"}


def main(target: str, chosen: str) -> int:
    problems = install(target)
    names = [*WITHOUT_BATCH, *WITH_BATCH] if chosen == "all" else chosen.split(",")
    make = Make(HALF)
    batches = [make.batch(chunks, 64) for chunks in (((5, 1), (70, 1), (900, 1)), ((0, 40), (5, 1)))]
    for name in names:
        if name in WITHOUT_BATCH:
            WITHOUT_BATCH[name]()
        else:
            for batch in batches:
                {**WITH_BATCH, "hot": hottest}[name](batch)
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
