"""Files that are there whole or not at all, and failures of the system that say of which file they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears under its name once it is whole, in place of one that was there.

    Raises:
        OSError: it cannot be written; it names the file, and nothing of it is left.
    """
    part = path.with_name(path.name + ".part")
    with naming(path):
        try:
            part.write_bytes(data)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts a path into the error of a disk that is full or broken: a write knows its file by number alone."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            error.filename = str(path)
        raise
