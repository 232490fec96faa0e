"""A file mapped into memory: tensors are views of it, read from disk when touched and never copied whole."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import torch

from parity.core.errors import FormatError, ModelNotFound

# Not in the mmap module before Python 3.12. Without it Linux refuses private maps larger than its memory.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class MappedFile:
    """Bytes of a file as tensors. The map is private: a tensor written to does not change the file.

    The map lives as long as any tensor taken from it.

    Raises:
        ModelNotFound: there is no such file, or it may not be read.
        FormatError: it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise FormatError(f"{path} is empty; fetch it again")
                flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
                self.buffer = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except FileNotFoundError:
            raise ModelNotFound(f"{path} does not exist") from None
        except PermissionError:
            raise ModelNotFound(f"{path} may not be read; check its permissions") from None
        except IsADirectoryError:
            raise FormatError(f"{path} is a folder, not a file") from None

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Gives back the memory of a range, as far as whole pages lie in it; touching it again reads the file."""
        stop = self.size if stop is None else stop
        first, last = start + -start % mmap.PAGESIZE, stop - stop % mmap.PAGESIZE
        if first < last and hasattr(self.buffer, "madvise"):
            self.buffer.madvise(mmap.MADV_DONTNEED, first, last - first)

    def tensor(self, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> torch.Tensor:
        """A view of the bytes from `offset`; copied only where the offset does not suit the dtype's alignment."""
        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        raw = torch.frombuffer(self.buffer, dtype=torch.uint8, count=count * dtype.itemsize, offset=offset)
        if offset % dtype.itemsize:
            raw = raw.clone()
        return raw.view(dtype).reshape(shape)
