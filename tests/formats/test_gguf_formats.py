"""GGUF's types against the `gguf` package, bit for bit in float32."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from parity.core.weights import Packed
from parity.formats import FORMATS, expand, pack, rows, stack

TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


def random_blocks(name: str, height: int, width: int, *leading: int) -> Packed:
    """Random bytes: every code, sign and scale bit pattern, with the float16 scales kept finite."""
    kind = gguf.GGMLQuantizationType[name.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(len(name) + height)
    data = generator.integers(0, 256, (*leading, height, width // block, block_bytes), dtype=np.uint8)
    halves = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}
    for at in halves.get(name, (0, 2) if name.endswith("_1") else (0,)):
        data[..., at + 1] &= 0xBF  # clears the exponent's top bit: never infinite or NaN
    data = data.reshape(*leading, height, -1)
    return Packed(name, (*leading, height, width), {"data": torch.from_numpy(data)})


def reference(packed: Packed) -> torch.Tensor:
    kind = gguf.GGMLQuantizationType[packed.format.upper()]
    return torch.from_numpy(gguf.dequantize(packed.arrays["data"].numpy(), kind)).reshape(packed.shape)


@pytest.mark.parametrize("name", TYPES)
def test_expand_equals_gguf(name: str) -> None:
    packed = random_blocks(name, 37, 512)
    assert torch.equal(expand(packed), reference(packed))
    assert torch.equal(expand(packed, torch.bfloat16), reference(packed).bfloat16())


@pytest.mark.parametrize("name", TYPES)
def test_experts_and_chunks(name: str) -> None:
    packed = random_blocks(name, 700, 1024, 3)  # more than one chunk a matrix
    assert torch.equal(expand(packed), reference(packed))


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 300.0])
def test_pack_of_q8_0_equals_gguf(scale: float) -> None:
    tensor = torch.randn(19, 256, generator=torch.Generator().manual_seed(1)) * scale + 0.0  # no negative zeros
    tensor[3, :32] = 0
    theirs = gguf.quantize(tensor.numpy(), gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(pack(tensor, "q8_0").arrays["data"].numpy(), theirs)


@pytest.mark.parametrize("name", TYPES)
def test_rows_and_stack(name: str) -> None:
    packed = random_blocks(name, 12, 256)
    index = torch.tensor([11, 0, 5, 5])
    chosen = rows(packed, index)
    assert isinstance(chosen, Packed)
    assert chosen.shape == (4, 256)
    assert torch.equal(expand(chosen), expand(packed)[index])
    both = stack([packed, random_blocks(name, 12, 256)])
    assert both.shape == (2, 12, 256)
    assert torch.equal(expand(both)[0], expand(packed))
    assert torch.equal(expand(rows(both, index))[1], expand(packed)[index])


def test_bits_are_the_files() -> None:
    for name in TYPES:
        packed = random_blocks(name, 4, 512)
        assert packed.nbytes * 8 == FORMATS[name].bits * 4 * 512
