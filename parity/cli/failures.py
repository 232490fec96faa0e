"""What the system refused, in words that say what to do."""

from __future__ import annotations

import errno

_REMEDIES = {
    errno.EACCES: "mend its permissions, or run as a user who may",
    errno.EPERM: "mend its permissions, or run as a user who may",
    errno.ENOSPC: "make room on the disk, or name a place on another one",
    errno.EDQUOT: "make room in your quota, or name a place on another disk",
    errno.EROFS: "name a place that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file in it",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENOMEM: "close other programs, or take a smaller model or --max-model-len",
    errno.EIO: "check the disk",
}


_OWN_WORDS = "threads of the cpu stack"  # of native code, which knows none of our errors
_NO_HOME = "Could not determine home directory"
_NO_MEMORY = ("can't allocate memory", "out of memory", "failed to map segment")


def explain(error: Exception) -> str | None:
    """One sentence and a remedy; None for an error that only a programmer can read."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return f"memory ran out; {_REMEDIES[errno.ENOMEM]}"
    if isinstance(error, RuntimeError) and _OWN_WORDS in str(error):
        return str(error)
    if _NO_HOME in str(error):
        return "a path begins with ~, and there is no such home directory; write the path out"
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; {_REMEDIES[error.errno]}"
