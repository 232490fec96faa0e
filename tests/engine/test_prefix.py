"""The prefix cache and its snapshots."""

from __future__ import annotations

import pytest

from parity.core.errors import CapacityError
from parity.engine.pages import PagePool
from parity.engine.prefix import Entry, PrefixCache, Snapshots


def new_cache(num_pages: int = 8, num_snapshots: int = 0) -> PrefixCache:
    return PrefixCache(PagePool(num_pages, 2), Snapshots(num_snapshots))


def fill(cache: PrefixCache, tokens: list[int], salt: str | None = None) -> list[Entry]:
    """Caches the full pages of `tokens`, which the caller then holds."""
    chain: list[Entry] = []
    for start in range(0, len(tokens) - 1, 2):
        page = cache.allocate(1)[0]
        chain.append(cache.insert(chain[-1] if chain else None, tokens[start : start + 2], page, salt))
    return chain


def pages(chain: list[Entry]) -> list[int]:
    return [entry.page for entry in chain]


def test_the_longest_cached_beginning_is_found_and_held() -> None:
    cache = new_cache()
    chain = fill(cache, [1, 2, 3, 4, 5, 6])
    found = cache.match([1, 2, 3, 4, 9, 9], 5)
    assert pages(found) == pages(chain[:2])
    assert cache.pool.references(chain[0].page) == 3
    cache.release(pages(found))
    cache.release(pages(chain))
    cache.check()
    assert cache.num_available == 8


def test_a_hit_covers_at_most_the_limit() -> None:
    cache = new_cache()
    fill(cache, [1, 2, 3, 4])
    assert len(cache.match([1, 2, 3, 4], 3)) == 1
    assert len(cache.match([1, 2, 3, 4], 4)) == 2
    assert cache.match([1, 2, 3, 4], 0) == []


def test_equal_pages_under_other_parents_or_salts_are_kept_apart() -> None:
    cache = new_cache()
    first = fill(cache, [1, 2, 7, 8])
    second = fill(cache, [3, 4, 7, 8])
    salted = fill(cache, [1, 2, 7, 8], "adapter")
    assert len({*pages(first), *pages(second), *pages(salted)}) == 6
    assert pages(cache.match([3, 4, 7, 8], 4)) == pages(second)
    assert pages(cache.match([1, 2, 7, 8], 4, "adapter")) == pages(salted)
    assert cache.match([1, 2], 2, "other") == []


def test_colliding_hashes_do_not_mix() -> None:
    assert hash(-1) == hash(-2)
    assert hash((None, (-1, 5))) == hash((None, (-2, 5)))
    cache = new_cache()
    fill(cache, [-1, 5])
    assert cache.match([-2, 5], 2) == []


def test_content_computed_twice_is_kept_once() -> None:
    cache = new_cache()
    first = fill(cache, [1, 2, 3, 4])
    second = fill(cache, [1, 2, 3, 4])
    assert second == first
    assert cache.pool.num_free == 6
    assert cache.pool.references(first[0].page) == 3
    cache.check()


def test_idle_pages_are_evicted_oldest_first_and_children_before_parents() -> None:
    cache = new_cache(4)
    old, new = fill(cache, [1, 2, 3, 4]), fill(cache, [5, 6, 7, 8])
    cache.release(pages(old))
    cache.release(pages(new))
    for expected in (old[1], old[0], new[1], new[0]):
        assert cache.allocate(1) == [expected.page]
        cache.check()
    with pytest.raises(CapacityError):
        cache.allocate(1)


def test_a_hit_saves_from_eviction() -> None:
    cache = new_cache(4)
    old, new = fill(cache, [1, 2, 3, 4]), fill(cache, [5, 6, 7, 8])
    cache.release(pages(old))
    cache.release(pages(new))
    cache.release(pages(cache.match([1, 2], 2)))
    assert cache.allocate(3) == [old[1].page, new[1].page, new[0].page]
    held = cache.match([1, 2, 3, 4], 4)
    assert pages(held) == pages(old[:1])
    with pytest.raises(CapacityError):
        cache.allocate(1)


def test_a_hit_ends_at_a_snapshot_where_one_is_needed() -> None:
    cache = new_cache(8, 2)
    chain = fill(cache, [1, 2, 3, 4, 5, 6])
    assert cache.match([1, 2, 3, 4], 4, snapshot=True) == []
    snapshot = cache.snapshots.reserve()
    assert snapshot is not None
    cache.snapshots.keep(snapshot, chain[1])
    assert cache.match([1, 2, 3, 4, 5, 6], 6, snapshot=True) == chain[:2]
    assert cache.match([1, 2, 3, 4, 5, 6], 3, snapshot=True) == []
    assert len(cache.match([1, 2, 3, 4, 5, 6], 6)) == 3


def test_the_least_recently_used_snapshot_is_given_up() -> None:
    cache = new_cache(8, 2)
    chain = fill(cache, [1, 2, 3, 4, 5, 6])
    for entry in chain[:2]:
        cache.snapshots.keep(_reserve(cache), entry)
    cache.match([1, 2], 2, snapshot=True)
    cache.snapshots.keep(_reserve(cache), chain[2])
    assert [entry.snapshot is not None for entry in chain] == [True, False, True]
    cache.snapshots.check()


def test_an_evicted_page_gives_its_snapshot_back() -> None:
    cache = new_cache(1, 1)
    chain = fill(cache, [1, 2])
    cache.snapshots.keep(_reserve(cache), chain[0])
    cache.release(pages(chain))
    cache.allocate(1)
    cache.check()
    assert len(cache.snapshots) == 0
    assert cache.snapshots.reserve() == 0


def test_a_second_snapshot_of_a_page_is_dropped() -> None:
    cache = new_cache(8, 2)
    chain = fill(cache, [1, 2])
    first, second = _reserve(cache), _reserve(cache)
    assert cache.snapshots.reserve() is None
    cache.snapshots.keep(first, chain[0])
    cache.snapshots.keep(second, chain[0])
    assert chain[0].snapshot == first
    assert cache.snapshots.reserve() == second
    cache.snapshots.check(num_reserved=1)


def _reserve(cache: PrefixCache) -> int:
    snapshot = cache.snapshots.reserve()
    assert snapshot is not None
    return snapshot
