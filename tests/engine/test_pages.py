"""The page pool."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.errors import CapacityError
from parity.engine.pages import PagePool


def test_pages_are_handed_out_once_and_come_back() -> None:
    pool = PagePool(3, 4)
    pages = [pool.allocate() for _ in range(3)]
    assert sorted(pages) == [0, 1, 2]
    with pytest.raises(CapacityError, match="all 3 pages"):
        pool.allocate()
    assert pool.release(pages[1]) == 0
    assert pool.allocate() == pages[1]
    pool.check()


def test_a_shared_page_is_free_when_the_last_holder_lets_go() -> None:
    pool = PagePool(1, 4)
    page = pool.allocate()
    pool.share(page)
    assert pool.references(page) == 2
    assert pool.release(page) == 1
    assert pool.num_free == 0
    assert pool.release(page) == 0
    assert pool.num_free == 1


def test_misuse_is_caught() -> None:
    pool = PagePool(2, 4)
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share(0)
    with pytest.raises(AssertionError, match="more often"):
        pool.release(0)
    pool._free.pop()
    with pytest.raises(AssertionError, match="neither free nor held"):
        pool.check()


@pytest.mark.parametrize(("num_tokens", "num_pages"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_pages_for(num_tokens: int, num_pages: int) -> None:
    assert PagePool(8, 4).pages_for(num_tokens) == num_pages


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from(["allocate", "share", "release"]), st.integers(0, 99)), max_size=60))
def test_counts_equal_a_plain_model(actions: list[tuple[str, int]]) -> None:
    pool, held = PagePool(5, 1), dict[int, int]()
    for action, pick in actions:
        page = sorted(held)[pick % len(held)] if held else None
        if action == "allocate" and len(held) < 5:
            new = pool.allocate()
            assert new not in held
            held[new] = 1
        elif action == "share" and page is not None:
            pool.share(page)
            held[page] += 1
        elif action == "release" and page is not None:
            held[page] -= 1
            assert pool.release(page) == held[page]
            if not held[page]:
                del held[page]
        pool.check()
        assert pool.num_free == 5 - len(held)
        assert all(pool.references(page) == count for page, count in held.items())
