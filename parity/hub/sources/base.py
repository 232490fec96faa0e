"""What a source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from ..catalogue import File, Wanted
from ..file_names import INDEX, PICKLES
from ..settings import HubSettings

Count = Callable[[int], None]
"""Called with the bytes of a file that are there so far."""

_SUFFIXES = (".json", ".safetensors", ".jinja")
_NAMES = ("merges.txt", "vocab.txt", "tiktoken.model", "tokenizer.model")


class SourceFailed(Exception):
    """A source could not give what was asked; its text says why and the next source is tried."""


class Source(ABC):
    """One place that carries models.

    Attributes:
        network: whether it leaves the machine.
        copies: how often the bytes are on the disk while they are fetched.
    """

    network = True
    copies = 1

    def __init__(self, settings: HubSettings) -> None:
        self.settings = settings

    @abstractmethod
    def files(self, wanted: Wanted) -> Sequence[File]:
        """Every file of a model's repository, needed or not.

        Raises:
            SourceFailed: the place is not reachable, not configured, or has no such model.
        """

    @abstractmethod
    def fetch(self, wanted: Wanted, file: File, part: Path, count: Count) -> None:
        """Brings one file to `part`, going on from what is there already.

        Raises:
            SourceFailed: it could not; what came so far stays for the next attempt.
        """


def choose(files: Sequence[File], wanted: Wanted) -> list[File]:
    """The files of a repository that a model needs: config, tensors, tokenizer, template; or one GGUF file with its parts.

    Never pickles, never code, nothing in subfolders.

    Raises:
        SourceFailed: nothing suits, or several GGUF files do.
    """
    plain = [file for file in files if PurePosixPath(file.name).name == file.name and file.name not in ("", ".", "..")]
    ggufs = [file for file in plain if file.name.endswith(".gguf")]
    if wanted.pick or (ggufs and not any(file.name.endswith(".safetensors") for file in plain)):
        return _pick(ggufs, wanted)
    needed = [file for file in plain if file.name.endswith(_SUFFIXES) or file.name in _NAMES]
    if any(file.name == INDEX for file in needed):
        needed = [file for file in needed if not file.name.startswith("consolidated")]
    if not any(file.name.endswith(".safetensors") for file in needed):
        pickles = [file.name for file in plain if file.name.endswith(PICKLES)]
        what = f"its weights are pickles ({pickles[0]}), which can run code" if pickles else "it has no safetensors files"
        raise SourceFailed(f"{wanted.repo}: {what}")
    return needed


def _pick(ggufs: Sequence[File], wanted: Wanted) -> list[File]:
    wish = (wanted.pick or "Q4_K_M").lower()
    names = {file.name: file.name.lower().removesuffix(".gguf") for file in ggufs}
    found = [file for file in ggufs if _stem(names[file.name]).endswith((f"-{wish}", f".{wish}", f"_{wish}"))]
    if not found and wanted.pick is None and len({_stem(name) for name in names.values()}) == 1:
        found = list(ggufs)
    stems = {_stem(names[file.name]) for file in found}
    if len(stems) != 1:
        listed = ", ".join(sorted({_stem(name) for name in names.values()})[:12])
        raise SourceFailed(f"{wanted.repo} has {len(stems)} GGUF files for {wish!r}; say which: {wanted.repo}:… of {listed}")
    return found


def _stem(name: str) -> str:
    """A GGUF file's name without the numbers of its parts."""
    head, separator, tail = name.rpartition("-of-")
    return head[:-6] if separator and tail.isdigit() and head[-5:].isdigit() else name
