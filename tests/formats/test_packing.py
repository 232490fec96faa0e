"""Packing into few bits: the layout by the `gguf` package's reading of it, the loss by its own quantiser's."""

from __future__ import annotations

import gguf
import pytest
import torch

from parity.core.errors import Unsupported
from parity.formats import expand, pack
from parity.formats.search import affine_scale, symmetric_scale

SEARCHED = ("q4_0", "q4_1", "q5_0", "q5_1")
SUPER = ("q4_k", "q5_k", "q6_k")
# Root mean square error over the standard deviation, for normal numbers: of the best uniform quantiser with so many levels
# that is told scale (and offset) of each run, a little more for what the scales' own rounding costs.
MOST_LOSS = {"q4_k": 0.075, "q5_k": 0.0375, "q6_k": 0.0185}


def read_by_gguf(data: torch.Tensor, name: str) -> torch.Tensor:
    kind = gguf.GGMLQuantizationType[name.upper()]
    return torch.from_numpy(gguf.dequantize(data.numpy(), kind))


def loss(tensor: torch.Tensor, other: torch.Tensor) -> float:
    return ((tensor - other).square().mean().sqrt() / tensor.std()).item()


@pytest.fixture(scope="module")
def normal() -> torch.Tensor:
    return torch.randn(70, 1024, generator=torch.Generator().manual_seed(1)) / 40


@pytest.mark.parametrize("name", [*SEARCHED, *SUPER])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_the_layout_is_ggufs(name: str, scale: float) -> None:
    tensor = torch.randn(3, 7, 512, generator=torch.Generator().manual_seed(2)) * scale
    tensor[0, 3, :32] = 0
    tensor[1, 2] = 0
    tensor[2, 1, 32:64] = scale  # equal numbers
    packed = pack(tensor, name)
    assert torch.equal(expand(packed).view(21, 512), read_by_gguf(packed.arrays["data"].view(21, -1), name))
    assert not expand(packed)[1, 2].any()
    assert expand(packed)[2, 1, 32:64] == pytest.approx(tensor[2, 1, 32:64], rel=0.07)


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_in_threads_are_the_whole(normal: torch.Tensor, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = expand(pack(normal.repeat(16, 1), "q4_0"))  # enough for several parts of either
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expand(pack(normal, "q4_0")).repeat(16, 1))


@pytest.mark.parametrize("name", SEARCHED)
def test_the_search_loses_less_than_the_reference_quantiser(normal: torch.Tensor, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name.upper()]
    theirs = torch.from_numpy(gguf.dequantize(gguf.quantize(normal.numpy(), kind), kind))
    ours = expand(pack(normal, name))
    assert loss(normal, ours) < 0.96 * loss(normal, theirs)


@pytest.mark.parametrize("name", SUPER)
def test_loss_of_super_blocks(normal: torch.Tensor, name: str) -> None:
    assert loss(normal, expand(pack(normal, name))) < MOST_LOSS[name]
    one_sided = normal.abs() + 0.01  # minima of `_k` blocks cannot be above zero
    assert loss(one_sided, expand(pack(one_sided, name))) < 2 * MOST_LOSS[name]


@pytest.mark.parametrize("name", [*SEARCHED, *SUPER])
def test_what_is_on_the_grid_stays(name: str) -> None:
    """Packing what a format holds brings it back, up to its scales' own float16."""
    once = expand(pack(torch.randn(16, 512, generator=torch.Generator().manual_seed(4)), name))
    assert loss(once, expand(pack(once, name))) < 0.03


@pytest.mark.parametrize("name", ["q4_k", "q5_0"])
def test_rows_are_packed_alone(name: str) -> None:
    """More rows than are packed at a time, one with outliers: every row has the bits that it has alone."""
    tensor = torch.randn(300, 512, generator=torch.Generator().manual_seed(3))
    tensor[150] *= 100
    whole = pack(tensor.bfloat16(), name).arrays["data"]
    for row in (0, 150, 299):
        assert torch.equal(whole[row : row + 1], pack(tensor[row : row + 1].bfloat16(), name).arrays["data"])


def test_the_scales_are_the_best() -> None:
    """Against trying ten thousand scales for each run."""
    x = torch.randn(32, 20, generator=torch.Generator().manual_seed(5))
    scales = torch.linspace(0.05, 0.3, 10_000).view(-1, 1, 1)
    tried = ((x / scales).round().clamp(-8, 7) * scales - x).square().sum(1)
    flipped = ((x / -scales).round().clamp(-8, 7) * -scales - x).square().sum(1)
    best = torch.minimum(tried.amin(0), flipped.amin(0))
    scale = symmetric_scale(x, -8, 7)
    found = ((x / scale).round().clamp(-8, 7) * scale - x).square().sum(0)
    assert (found.sum() / best.sum()).item() < 1.05


def test_an_affine_run_is_found_exactly() -> None:
    codes = torch.arange(32).float().remainder(16).view(32, 1)
    for offset in (-3.0, -0.5, 0.0):
        scale, found = affine_scale(codes * 0.25 + offset, 15, below=True)
        assert scale.item() == pytest.approx(0.25, rel=1e-5)
        assert found.item() == pytest.approx(offset, abs=1e-5)
    _, found = affine_scale(codes + 5.0, 15, below=True)
    assert found.item() <= 0
    _, found = affine_scale(codes + 5.0, 15, below=False)
    assert found.item() == pytest.approx(5.0, rel=1e-5)


def test_refusals() -> None:
    with pytest.raises(Unsupported, match="multiple of 256"):
        pack(torch.zeros(4, 128), "q4_k")
    with pytest.raises(Unsupported, match="cannot be made in q2_k"):
        pack(torch.zeros(4, 256), "q2_k")
    with pytest.raises(Unsupported, match="not finite"):
        pack(torch.full((4, 256), torch.inf), "q4_k")
