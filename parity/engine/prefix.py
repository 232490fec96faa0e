"""State that is kept after its request: full pages, found again by the tokens that led to them, and snapshots of slots.

A cached page is a node of a tree: its key is its parent's number and its own tokens, compared in full, so that equal
hashes cannot mix requests. Whoever holds a page holds its parents too. Pages that only the cache holds are idle, in the
order in which they became so; a request lets go of its last page first, hence a child is always evicted before its parent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from .pages import PagePool


@dataclass(slots=True, eq=False)
class Entry:
    """A full page in the cache; `snapshot` is the per-request state after its last token, if saved."""

    number: int
    key: tuple[int | str | None, tuple[int, ...]]
    parent: Entry | None
    page: int
    snapshot: int | None = None


class Snapshots:
    """A pool of places for copies of per-request state; the least recently used is given up first.

    An id is free, reserved (between `reserve` and `keep` or `drop`) or kept by the entry it belongs to.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self._free = list(range(num - 1, -1, -1))
        self._kept: OrderedDict[int, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def reserve(self) -> int | None:
        """An id to save to, taken from the least recently used entry if need be; None if all are reserved."""
        if not self._free and self._kept:
            self.drop(next(iter(self._kept)))
        return self._free.pop() if self._free else None

    def keep(self, snapshot: int, entry: Entry) -> None:
        """Gives a reserved id, now written, to an entry. An entry that has one already keeps its own."""
        if entry.snapshot is not None:
            self.drop(snapshot)
            return
        entry.snapshot = snapshot
        self._kept[snapshot] = entry

    def touch(self, snapshot: int) -> None:
        """Marks a kept id as just used."""
        self._kept.move_to_end(snapshot)

    def drop(self, snapshot: int) -> None:
        """Frees an id, kept or reserved."""
        entry = self._kept.pop(snapshot, None)
        if entry is not None:
            entry.snapshot = None
        self._free.append(snapshot)

    def check(self, num_reserved: int = 0) -> None:
        """Asserts that no id is lost or owned twice."""
        assert not set(self._free) & set(self._kept), "a snapshot is both free and kept"
        assert len(set(self._free)) == len(self._free), "a snapshot is free twice"
        assert len(self._free) + len(self._kept) + num_reserved == self.num, "a snapshot is lost"
        assert all(entry.snapshot == snapshot for snapshot, entry in self._kept.items()), "a snapshot's owner disowns it"


class PrefixCache:
    """Hands out pages, those with known content among them. All pages of requests come from and go back to here."""

    def __init__(self, pool: PagePool, snapshots: Snapshots) -> None:
        self.pool = pool
        self.snapshots = snapshots
        self._entries: dict[tuple[int | str | None, tuple[int, ...]], Entry] = {}
        self._by_page: dict[int, Entry] = {}
        self._idle: OrderedDict[int, Entry] = OrderedDict()
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_available(self) -> int:
        """Pages that can be allocated now: free ones and idle ones."""
        return self.pool.num_free + len(self._idle)

    def match(self, tokens: Sequence[int], limit: int, salt: str | None = None, *, snapshot: bool = False) -> list[Entry]:
        """The cached pages that begin `tokens`, in order, each now held once more by the caller.

        Args:
            tokens: what is to be computed.
            limit: most tokens that the pages may cover.
            salt: keeps requests apart whose state differs for equal tokens, such as those of another adapter.
            snapshot: end at a page that has one.
        """
        found: list[Entry] = []
        size = self.pool.page_size
        for start in range(0, limit - size + 1, size):
            entry = self._entries.get(_key(found[-1] if found else None, tokens[start : start + size], salt))
            if entry is None:
                break
            found.append(entry)
        while snapshot and found and found[-1].snapshot is None:
            found.pop()
        for entry in found:
            self._hold(entry)
        if snapshot and found and found[-1].snapshot is not None:
            self.snapshots.touch(found[-1].snapshot)
        return found

    def insert(self, parent: Entry | None, tokens: Sequence[int], page: int, salt: str | None = None) -> Entry:
        """Keeps a full page whose state is computed, and which the caller holds.

        If the cache already has that content in another page, the caller's hold moves to the page of the entry returned.
        """
        key = _key(parent, tokens, salt)
        entry = self._entries.get(key)
        if entry is None:
            entry = Entry(next(self._numbers), key, parent, page)
            self._entries[key] = self._by_page[page] = entry
            self.pool.share(page)
        elif entry.page != page:
            self._hold(entry)
            self.release([page])
        return entry

    def allocate(self, num_pages: int) -> list[int]:
        """Pages with no content, held by the caller; idle ones are evicted, the longest idle first.

        Raises:
            CapacityError: fewer than that are available.
        """
        pages: list[int] = []
        for _ in range(num_pages):
            if not self.pool.num_free and self._idle:
                self._evict(next(iter(self._idle.values())))
            pages.append(self.pool.allocate())
        return pages

    def release(self, pages: Iterable[int]) -> None:
        """Lets go of pages, given from a sequence's first to its last."""
        for page in reversed(list(pages)):
            if self.pool.release(page) == 1 and page in self._by_page:
                self._idle[page] = self._by_page[page]

    def holds(self, page: int) -> bool:
        """Whether the page's content is cached."""
        return page in self._by_page

    def _hold(self, entry: Entry) -> None:
        self.pool.share(entry.page)
        self._idle.pop(entry.page, None)

    def _evict(self, entry: Entry) -> None:
        if entry.snapshot is not None:
            self.snapshots.drop(entry.snapshot)
        del self._entries[entry.key], self._by_page[entry.page], self._idle[entry.page]
        self.pool.release(entry.page)

    def check(self) -> None:
        """Asserts that the cache and the pool agree and that no child can outlive its parent."""
        self.pool.check()
        assert {id(entry) for entry in self._entries.values()} == {id(entry) for entry in self._by_page.values()}
        order = {page: index for index, page in enumerate(self._idle)}
        for key, entry in self._entries.items():
            assert key == entry.key
            assert self._by_page[entry.page] is entry, "two entries share a page"
            assert (self.pool.references(entry.page) == 1) == (entry.page in order), "idle pages are those only the cache holds"
            if entry.parent is not None:
                assert self._entries.get(entry.parent.key) is entry.parent, "a cached page has lost its parent"
                if entry.parent.page in order:
                    assert order[entry.page] < order[entry.parent.page], "a parent would be evicted before its child"
        for entry in self.snapshots._kept.values():
            assert self._entries.get(entry.key) is entry, "a snapshot belongs to an evicted page"


def _key(parent: Entry | None, tokens: Sequence[int], salt: str | None) -> tuple[int | str | None, tuple[int, ...]]:
    return (salt if parent is None else parent.number, tuple(tokens))
