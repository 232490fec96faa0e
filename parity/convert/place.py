"""Where a converted model goes: never over anything without leave, and never half there under its own name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import CapacityError, UsageError

_SPARE = 64 << 20  # bytes for headers, tokenizer and the file system's own


def check_place(target: Path, source: Path, num_bytes: int, *, folder: bool, force: bool) -> None:
    """Refuses before any work is done.

    Args:
        folder: a folder is written, else a file.

    Raises:
        UsageError: something is there and `force` is not given, or it cannot be replaced or is no model.
        CapacityError: the disk has no room.
    """
    if target.exists() and target.resolve() in (source.resolve(), *source.resolve().parents):
        raise UsageError(f"{target} is, or holds, the model that is read; write somewhere else")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; choose another name, or replace it with --force")
    if target.exists() and target.is_dir() != folder:
        is_there, written = ("a file", "a folder") if folder else ("a folder", "a file")
        raise UsageError(f"{target} is {is_there} and {written} is written: it is not replaced; choose another name")
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise UsageError(f"{target} is a folder without config.json, no model: it is not replaced; choose another name")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is no folder; make it first")
    free = shutil.disk_usage(target.parent).free
    if num_bytes + _SPARE > free:
        raise CapacityError(
            f"the model takes {num_bytes / 2**20:.1f} MiB, and {_SPARE / 2**20:.0f} MiB must stay free for headers and the "
            f"tokenizer; {target.parent} has {free / 2**20:.1f} MiB left; make room, or write to another disk"
        )


@contextmanager
def folder_when_whole(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends well; when it does not, it is gone and all is as before."""
    partial, before = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.before")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if target.is_dir():
            shutil.rmtree(before, ignore_errors=True)
            os.replace(target, before)
        os.replace(partial, target)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        if before.is_dir() and not target.exists():  # stopped between the two
            os.replace(before, target)
        shutil.rmtree(partial, ignore_errors=True)
