"""The other formats against the formulae of the libraries that write them, and making against reading."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.integrations import finegrained_fp8

from parity.core.errors import FormatError, Unsupported
from parity.core.weights import Packed, Rows
from parity.formats import expand, laid_by_rows, pack, rows, stack


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 300), (7, 129), (128, 1)])
@pytest.mark.parametrize(("block", "e8m0"), [(128, 0), (32, 1)])
def test_fp8_block(height: int, width: int, block: int, e8m0: int) -> None:
    tensor = random(2, height, width)
    packed = pack(tensor, "fp8_block", block_rows=block, block_columns=block, e8m0=e8m0)
    expected = torch.empty_like(tensor)
    scale = packed.arrays["scale"].float()
    for e in range(2):
        for i in range(height):  # one by one: w = fp8 * scale of its block
            for j in range(0, width, block):
                row = packed.arrays["data"][e, i, j : j + block].float()
                expected[e, i, j : j + block] = row * scale[e, i // block, j // block]
    assert torch.equal(expand(packed), expected)
    assert (expand(packed) - tensor).abs().max() < tensor.abs().max() / 16
    index = torch.tensor([height - 1, 0, height // 2])
    assert torch.equal(expand(rows(packed, index)), expected[:, index])


def test_fp8_scales_as_bytes_are_e8m0() -> None:
    packed = pack(random(64, 64), "fp8_block", block_rows=32, block_columns=32, e8m0=1)
    as_bytes = dict(packed.arrays) | {"scale": packed.arrays["scale"].view(torch.uint8)}
    assert torch.equal(expand(Packed("fp8_block", (64, 64), as_bytes, packed.meta)), expand(packed))


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float8_e8m0fnu])
def test_fp8_means_what_it_means_to_transformers(scale_dtype: torch.dtype) -> None:
    reference = finegrained_fp8.Fp8Dequantize(None)._dequantize_one
    e8m0 = scale_dtype in (torch.uint8, torch.float8_e8m0fnu)
    packed = pack(random(256, 384), "fp8_block", e8m0=int(e8m0))
    scale = packed.arrays["scale"].view(scale_dtype) if e8m0 else packed.arrays["scale"].to(scale_dtype)
    stored = Packed("fp8_block", packed.shape, dict(packed.arrays) | {"scale": scale}, packed.meta)
    assert torch.equal(expand(stored), reference(packed.arrays["data"], scale, torch.float32))


def test_mxfp4_means_what_it_means_to_transformers() -> None:
    reference = finegrained_fp8.Fp8Dequantize(None)._dequantize_one
    packed = pack(random(48, 96), "mxfp4")
    data, scale = packed.arrays["data"], packed.arrays["scale"]
    assert torch.equal(expand(packed), reference(data.view(torch.int8), scale, torch.float32))
    everything = torch.arange(256, dtype=torch.uint8).reshape(16, 16)  # every pair of codes
    exponents = torch.arange(1, 17, dtype=torch.uint8).reshape(16, 1) * 15
    stored = Packed("mxfp4", (16, 32), {"data": everything, "scale": exponents})
    assert torch.equal(expand(stored), reference(everything.view(torch.int8), exponents, torch.float32))


def test_mxfp4_definition() -> None:
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (5, 32), dtype=np.uint8)
    scale = generator.integers(100, 150, (5, 2), dtype=np.uint8)
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = np.empty((5, 64), np.float32)
    for i in range(5):
        for j in range(64):
            nibble = (data[i, j // 2] >> (4 * (j % 2))) & 15
            sign = -1.0 if nibble & 8 else 1.0
            expected[i, j] = sign * magnitudes[nibble & 7] * 2.0 ** (int(scale[i, j // 32]) - 127)
    arrays = {"data": torch.from_numpy(data), "scale": torch.from_numpy(scale)}
    packed = Packed("mxfp4", (5, 64), arrays)
    assert np.array_equal(expand(packed).numpy(), expected)
    again = pack(expand(packed), "mxfp4")
    assert torch.equal(expand(again), expand(packed))


def test_mxfp4_rounds_to_the_nearest_even() -> None:
    row = torch.zeros(1, 32)
    row[0, :9] = torch.tensor([4.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.2])
    assert expand(pack(row, "mxfp4"))[0, :9].tolist() == [4.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -0.0]


def test_int4_group_is_compressed_tensors_layout() -> None:
    packed = pack(random(6, 64), "int4_group", group_size=32)
    words = packed.arrays["data"].numpy().view(np.uint32)
    assert words.shape == (6, 8)
    scale = packed.arrays["scale"].float().numpy()
    expected = np.empty((6, 64), np.float32)
    for i in range(6):
        for j in range(64):
            code = int(words[i, j // 8] >> np.uint32(4 * (j % 8))) & 15
            expected[i, j] = (code - 8) * scale[i, j // 32]
    assert np.array_equal(expand(packed).numpy(), expected)
    in_bf16 = torch.from_numpy(expected).bfloat16()
    assert torch.equal(expand(packed, torch.bfloat16), in_bf16)


@pytest.mark.parametrize(("name", "error"), [("int4_group", 0.3), ("int8_group", 0.02), ("mxfp4", 1.0), ("q4_0", 0.3)])
def test_pack_is_near_and_idempotent(name: str, error: float) -> None:
    tensor = random(3, 8, 128)
    packed = pack(tensor, name)
    assert (expand(packed) - tensor).abs().max() < error
    if name != "q4_0":
        assert torch.equal(expand(pack(expand(packed), name)), expand(packed))


def test_awq() -> None:
    generator = np.random.default_rng(3)
    width, height, group = 64, 32, 32
    codes = generator.integers(0, 16, (width, height))
    zeros = generator.integers(0, 16, (width // group, height))
    scale = generator.random((width // group, height)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds this column

    def words(values: np.ndarray) -> torch.Tensor:
        out = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
        for nibble, column in enumerate(order):
            out |= values[:, column::8].astype(np.uint32) << np.uint32(4 * nibble)
        return torch.from_numpy(out.view(np.int32))

    arrays = {"data": words(codes), "zeros": words(zeros), "scale": torch.from_numpy(scale)}
    packed = Packed("awq", (height, width), arrays, {"group_size": group})
    expected = (codes - zeros.repeat(group, 0)) * scale.astype(np.float32).repeat(group, 0)
    assert np.array_equal(expand(packed).numpy(), expected.T.astype(np.float32))
    with pytest.raises(Unsupported, match="awq"):
        rows(packed, torch.tensor([0]))


@pytest.mark.parametrize("offset", [0, 1])
def test_gptq(offset: int) -> None:
    generator = np.random.default_rng(4)
    width, height, group = 64, 16, 32
    codes = generator.integers(0, 16, (width, height))
    zeros = generator.integers(0, 16, (width // group, height))
    scale = generator.random((width // group, height)).astype(np.float16)
    groups = generator.permutation(np.arange(width) // group).astype(np.int32)
    data = np.zeros((width // 8, height), np.uint32)
    packed_zeros = np.zeros((width // group, height // 8), np.uint32)
    for nibble in range(8):
        data |= codes[nibble::8].astype(np.uint32) << np.uint32(4 * nibble)
        packed_zeros |= zeros[:, nibble::8].astype(np.uint32) << np.uint32(4 * nibble)
    arrays = {
        "data": torch.from_numpy(data.view(np.int32)),
        "zeros": torch.from_numpy(packed_zeros.view(np.int32)),
        "scale": torch.from_numpy(scale),
        "groups": torch.from_numpy(groups),
    }
    packed = Packed("gptq", (height, width), arrays, {"group_size": group, "zero_offset": offset})
    expected = (codes - (zeros + offset)[groups]) * scale.astype(np.float32)[groups]
    assert np.array_equal(expand(packed).numpy(), expected.T.astype(np.float32))
    both = stack([packed, packed])
    assert torch.equal(expand(both)[1], expand(packed))
    by_rows = laid_by_rows(packed)
    assert by_rows is not None
    assert "order" in by_rows.arrays
    assert torch.equal(expand(by_rows), expand(packed))
    index = torch.tensor([15, 0, 7])
    assert torch.equal(expand(rows(by_rows, index)), expand(packed)[index])  # each with its inputs in their places
    for wrong in (2, -1):
        beyond = dict(arrays) | {"groups": torch.full((width,), wrong, dtype=torch.int32)}
        with pytest.raises(FormatError, match=f"g_idx names groups {wrong} to {wrong} where there are 2"):
            expand(Packed("gptq", packed.shape, beyond, packed.meta))


def test_rows_of_several() -> None:
    plain, packed = random(4, 64), pack(random(8, 64), "q8_0")
    joined = expand(Rows((plain, packed)))
    assert torch.equal(joined[:4], plain)
    assert torch.equal(joined[4:], expand(packed))


def test_refusals() -> None:
    for first, second in ((random(2, 64), pack(random(2, 64), "q8_0")), (random(2, 64), random(2, 64).half())):
        for weights in ([first, second], [second, first]):  # no expert is left out, and none changes its kind
            with pytest.raises(Unsupported, match="different kinds"):
                stack(weights)
    with pytest.raises(Unsupported, match="q8_0"):
        pack(random(2, 256), "q3_k")
    with pytest.raises(Unsupported, match="multiple of 32"):
        pack(random(2, 33), "q8_0")
    with pytest.raises(Unsupported, match="nonsense"):
        expand(Packed("nonsense", (1, 1), {"data": torch.zeros(1)}))
    with pytest.raises(Unsupported, match="different kinds"):
        stack([pack(random(2, 32), "q8_0"), pack(random(2, 32), "q4_0")])
