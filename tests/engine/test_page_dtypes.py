"""`kv_cache_dtype`: what pages are kept in, on the reference and on the cpu's own kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from parity.core.errors import UsageError
from parity.core.state import PerRequest, PerToken
from parity.engine.load import EngineConfig, load_model, make_engine
from parity.engine.memory import StateMemory, page_bytes
from parity.hub import open_checkpoint
from parity.stacks.cpu.native import missing
from parity.stacks.registry import open_stack

from ..models import tiny
from ..models.test_formats import LATENT, SIZES

STACKS = [tiny.REFERENCE, *([] if missing() else ["cpu"])]
# A byte of a row of 24 or more normal numbers is off by half a 127th of its largest, a half-precision number by far less.
NEAR = {"float32": 1e-5, "bfloat16": 0.02, "float16": 0.002, "int8": 0.05}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    tiny.save(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SIZES), root / "heads")
    tiny.save(transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(**LATENT), root / "latents")
    return {"heads": root / "heads", "latents": root / "latents"}


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", ["heads", "latents"])
@pytest.mark.parametrize("stack", STACKS)
def test_logits_are_near_those_of_float32_pages(stack: str, kind: str, dtype: str, folders: dict[str, Path]) -> None:
    tokens = tiny.prompt(37, 160)
    exact = tiny.logits(tiny.open_engine(folders[kind]), tokens)
    engine = tiny.open_engine(folders[kind], stack=stack, kv_cache_dtype=dtype, max_num_batched_tokens=8)
    error = tiny.relative_error(tiny.logits(engine, tokens), exact)
    assert error < NEAR[dtype]
    assert dtype == "float32" or error > 1e-5, "the pages are not of that type"


@pytest.mark.skipif(missing() is not None, reason=f"the cpu stack's kernels: {missing()}")
def test_steps_over_pages_of_bytes_are_recorded(folders: dict[str, Path]) -> None:
    prompts = [tiny.prompt(length, 160, seed) for seed, length in ((1, 9), (2, 20))]
    texts = []
    for eager in (False, True):
        engine = tiny.open_engine(folders["heads"], stack="cpu", kv_cache_dtype="int8", enforce_eager=eager)
        outputs = tiny.finish(engine, [tiny.greedy(str(i), prompt, 12) for i, prompt in enumerate(prompts)])
        assert bool(engine.runner.recorded) is not eager
        texts.append([tiny.generated(outputs[str(i)]) for i in range(2)])
    assert texts[0] == texts[1]


def test_bytes_take_two_more_for_a_row_and_only_in_pages() -> None:
    specs = [(PerToken("k", (2, 24)), PerToken("fixed", (4,), torch.float32), PerRequest("tail", (3, 5)))]
    assert page_bytes(specs, 8, torch.int8) == 8 * (2 * 26 + 4 * 4)
    memory = StateMemory(
        specs, num_pages=3, page_size=8, num_slots=2, num_snapshots=0, dtype=torch.float32, page_dtype=torch.int8,
        device=open_stack("cpu")[0].device,
    )  # fmt: skip
    layer = memory.state[0]
    assert (tuple(layer["k"].shape), layer["k"].dtype) == ((3 + 1, 8, 2, 26), torch.int8)  # and the spare one
    assert (layer["fixed"].dtype, layer["tail"].dtype) == (torch.float32, torch.float32)


def test_what_pages_cannot_be_is_refused_by_name(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"'fp8' is not kept in pages: there are auto, float32, float16, bfloat16, int8"):
        tiny.open_engine(folders["heads"], kv_cache_dtype="fp8")
    stack = replace(open_stack("cpu:reference")[0], name="elsewhere", int8_pages=False)
    checkpoint = open_checkpoint(folders["heads"])
    model = load_model(checkpoint, stack, torch.float32)
    with pytest.raises(UsageError, match="the kernels of elsewhere do not read pages of int8"):
        make_engine(model, checkpoint, stack, torch.float32, "tiny", EngineConfig(kv_cache_dtype="int8"))
