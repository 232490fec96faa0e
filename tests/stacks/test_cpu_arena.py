"""Places for the arrays of a step: taken again once nobody looks at them, and never before."""

from __future__ import annotations

import random
import threading

import pytest
import torch
from torch import Tensor

from parity.stacks.cpu.native import missing

if missing() is not None:
    pytest.skip(f"the cpu stack's kernels: {missing()}", allow_module_level=True)

from parity.stacks.cpu import arena
from parity.stacks.cpu.arena import Arena

DTYPES = (torch.float32, torch.int32, torch.int64, torch.bfloat16, torch.bool)


def filled(place: Arena, rng: random.Random, number: int) -> Tensor:
    """An array of some shape and dtype with a number in it."""
    shape = [rng.randrange(1, 40) for _ in range(rng.randrange(1, 4))]
    return place.empty(shape, rng.choice(DTYPES)).fill_(number)


def test_arrays_that_live_never_overlap_and_places_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_REGION_BYTES", 1 << 18)
    place, rng, live = Arena(), random.Random(0), list[tuple[int, Tensor]]()
    total = 0
    for number in range(2000):
        array = filled(place, rng, number % 100)
        total += array.nbytes
        assert array.data_ptr() % 64 == 0
        # A view keeps the place, too.
        live.append((number % 100, array if number % 2 else array[1:]))
        while len(live) > 12:
            live.pop(rng.randrange(len(live)))
        for value, array in live:
            assert torch.equal(array, torch.full_like(array, value))
    assert place.memory.num_bytes < total / 10


def test_the_first_place_that_is_free_is_taken() -> None:
    place = Arena()
    first, second, third = (place.empty((100,), torch.float32) for _ in range(3))
    addresses = [array.data_ptr() for array in (first, second, third)]
    assert addresses == sorted(addresses)
    del second
    assert place.empty((113,), torch.float32).data_ptr() > addresses[2]
    second = place.empty((10, 10), torch.float32)
    assert second.data_ptr() == addresses[1]
    assert place.memory.num_bytes == addresses[2] - addresses[0] + 448 + 4 * 113


def test_an_array_larger_than_a_region_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_REGION_BYTES", 1 << 10)
    place = Arena()
    large = place.empty((1 << 12,), torch.float32).fill_(1)
    small = place.empty((32,), torch.float32).fill_(2)
    assert large.eq(1).all()
    assert small.eq(2).all()
    assert len(place.memory.regions) == 2


def test_empty_arrays_have_no_place_of_anybody() -> None:
    place = Arena()
    nothing, some = place.empty((0, 7), torch.float32), place.empty((7,), torch.float32)
    assert nothing.shape == (0, 7)
    assert some.shape == (7,)


def test_threads_share_an_arena() -> None:
    place, wrong = Arena(), list[int]()

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(300):
            array = filled(place, rng, number)
            if not torch.equal(array, torch.full_like(array, number)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert place.keeps_only(torch.empty(0)), "an array is taken for alive"
