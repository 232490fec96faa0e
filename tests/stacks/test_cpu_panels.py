"""Memory for panels."""

import gc
import mmap
import sys
from pathlib import Path

import pytest

from parity.stacks.cpu import panels
from parity.stacks.cpu.panels import empty_panels

LARGE_PAGE = 2 << 20


def test_pieces_are_apart_and_aligned() -> None:
    pieces = [empty_panels(count, size) for count, size in [(1, 1), (3, 100), (2, 1 << 20), (1, 65), (4, 64), (1, 3)]]
    for number, piece in enumerate(pieces):
        assert piece.data_ptr() % 64 == 0
        piece.fill_(number)
    assert all(bool((piece == number).all()) for number, piece in enumerate(pieces))


def test_neighbours_share_a_region() -> None:
    first, second = empty_panels(1, 1 << 20), empty_panels(1, 1 << 20)
    assert second.data_ptr() - first.data_ptr() == 1 << 20


def test_the_latest_place_is_given_out_again_when_nobody_holds_it() -> None:
    kept, dropped = empty_panels(1, 100).fill_(1), empty_panels(1, 1 << 20)
    place = dropped.data_ptr()
    del dropped
    first, second = empty_panels(1, 1 << 19).fill_(2), empty_panels(1, 1 << 20).fill_(3)
    assert first.data_ptr() == place
    assert bool((first == 2).all())
    assert second.data_ptr() == place + (1 << 19)
    assert bool((kept == 1).all())


def test_what_is_too_large_has_a_region_of_its_own() -> None:
    large = empty_panels(1, 65 << 20)
    assert large.data_ptr() % LARGE_PAGE == 0 or not hasattr(mmap, "MADV_HUGEPAGE")
    large.fill_(1)
    after = empty_panels(1, 1 << 20).fill_(2)
    assert bool((large == 1).all())
    assert bool((after == 2).all())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_goes_with_its_last_piece() -> None:
    pieces = [empty_panels(1, 40 << 20).fill_(1) for _ in range(4)]
    before = _resident()
    last = pieces.pop()
    del pieces
    gc.collect()
    assert before - _resident() > 100 << 20
    assert bool((last == 1).all())


def test_a_system_without_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Small)
    monkeypatch.setattr(panels, "_regions", panels._Regions())
    assert bool((empty_panels(2, 100).fill_(7) == 7).all())
