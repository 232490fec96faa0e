"""The pool of pages that hold per-token state: counts who uses each page, and knows no token and no tensor."""

from __future__ import annotations

from ..core.errors import CapacityError


class PagePool:
    """Reference-counted pages. Every operation is O(1); sharing copies nothing.

    Args:
        num_pages: pages in the pool, numbered from 0.
        page_size: tokens in a page.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def references(self, page: int) -> int:
        """How many hold the page."""
        return self._references[page]

    def allocate(self) -> int:
        """A page that nobody held, now held once.

        Raises:
            CapacityError: all pages are held.
        """
        if not self._free:
            raise CapacityError(f"all {self.num_pages} pages are in use; lower the load or give the engine more memory")
        page = self._free.pop()
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """Holds once more a page that somebody holds."""
        assert self._references[page] > 0, f"page {page} is free and cannot be shared"
        self._references[page] += 1

    def release(self, page: int) -> int:
        """Lets go of a page once; returns how many still hold it. With 0 it is free."""
        assert self._references[page] > 0, f"page {page} is released more often than held"
        self._references[page] -= 1
        if self._references[page] == 0:
            self._free.append(page)
        return self._references[page]

    def check(self) -> None:
        """Asserts that each page is either free, once, or held."""
        assert len(set(self._free)) == len(self._free), "a page is free twice"
        free = {page for page, count in enumerate(self._references) if count == 0}
        assert free == set(self._free), "a page is neither free nor held"
