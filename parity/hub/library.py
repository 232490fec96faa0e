"""Models by name: found on this machine, or pulled from the first source that has them."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.core.errors import CapacityError, DownloadError, HashMismatch, ModelNotFound, Offline, UsageError

from .catalogue import File, Wanted, catalogue, resolve
from .settings import HubSettings
from .sources import Source, SourceFailed, make_source
from .sources.base import choose
from .store import Progress, Store, finish, part_of

log = logging.getLogger("parity")

__all__ = ["ModelRow", "find", "list_models", "pull", "remove", "show"]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A line of the list of models: `path` is None for one that is not on this machine, `size` None where not known."""

    name: str
    summary: str
    licence: str
    size: int | None
    path: Path | None
    pinned: bool


def find(name: str, *, revision: str | None = None, settings: HubSettings | None = None) -> Path | None:
    """A model that is on this machine: a path as it is, else a complete one in the store or in PARITY_MODELS.

    Raises:
        ModelNotFound: the name cannot be a model's.
    """
    settings = settings or HubSettings.from_environment()
    path = _as_path(name)
    if path is not None:
        return path
    wanted = resolve(name, revision, settings.catalogue)
    stored = Store(settings.home).find(wanted)
    if stored or wanted.pinned or wanted.pick or wanted.revision != "main":
        return stored
    folders = (folder / place for folder in settings.folders for place in (wanted.repo, wanted.repo.rpartition("/")[2]))
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def pull(
    name: str,
    *,
    revision: str | None = None,
    sources: Sequence[str] | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
    settings: HubSettings | None = None,
) -> Path:
    """A model's folder or `.gguf` file, downloaded if it is not on this machine.

    Args:
        name: a path, a short name of the catalogue, or `organisation/repository[@revision][:Q4_K_M]`.
        revision: a commit, tag or branch.
        sources: where to look, in order, instead of the configured order.
        offline: whether the network is forbidden; None asks the environment.
        progress: told about the bytes that arrive.

    Raises:
        ModelNotFound: there is no such model.
        Offline: it is not here and the network is forbidden.
        DownloadError: every source failed; the text names each and why.
        HashMismatch: a source gave something else than what is pinned, and no other gave it.
        CapacityError: the disk is too full.
    """
    settings = settings or HubSettings.from_environment()
    found = find(name, revision=revision, settings=settings)
    if found is not None:
        return found
    wanted = resolve(name, revision, settings.catalogue)
    order = tuple(sources or settings.sources or wanted.sources)
    places = [(source, make_source(source, settings)) for source in order]
    if settings.offline if offline is None else offline:
        places = [(source, place) for source, place in places if not place.network]
    store = Store(settings.home)
    with _disk_errors(settings.home):
        store.folder(wanted).mkdir(parents=True, exist_ok=True)
        with store.lock(wanted):
            complete = store.find(wanted)
            if complete is not None:
                return complete
            reasons = _Attempts(wanted, store, progress or (lambda name, done, total: None)).run(places)
    complete = store.find(wanted)
    if complete is not None:
        return complete
    with suppress(OSError):
        store.folder(wanted).rmdir()  # only if nothing came
    if len(places) < len(order):
        raise Offline(f"{wanted.name} is not on this machine and offline mode forbids the network; pull it while online")
    listed = "".join(f"\n  {source}: {reason}" for source, reason in reasons)
    kind = HashMismatch if reasons and all("is not the pinned file" in reason for _, reason in reasons) else DownloadError
    raise kind(f"{wanted.name} could not be fetched:{listed}")


@contextmanager
def _disk_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(f"{home}: the disk is full; remove a model or set PARITY_HOME to another disk") from None
        raise UsageError(
            f"{error.filename or home}: {error.strerror}; set PARITY_HOME to a folder that can be written"
        ) from None


def list_models(*, settings: HubSettings | None = None) -> list[ModelRow]:
    """The catalogue's models, then the others that are on this machine."""
    settings = settings or HubSettings.from_environment()
    store = Store(settings.home)
    listed = catalogue(settings.catalogue)
    rows = [_row(wanted, store) for wanted in listed.values()]
    known = {wanted.folder for wanted in listed.values()}
    for manifest in store.manifests():
        with suppress(KeyError, ModelNotFound):
            wanted = resolve(manifest["name"], manifest["revision"], settings.catalogue)
            if wanted.folder not in known:
                rows.append(_row(wanted, store))
    return rows


def show(name: str, *, settings: HubSettings | None = None) -> dict[str, Any]:
    """What is known of a model, without touching the network: where it comes from, its files, and where it is."""
    settings = settings or HubSettings.from_environment()
    path = find(name, settings=settings)
    if _as_path(name) is not None:
        return {"name": name, "path": path}
    wanted = resolve(name, more=settings.catalogue)
    manifest = Store(settings.home).manifest(wanted)
    listed = manifest["files"] if manifest else [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in wanted.files]
    return {
        "name": wanted.name,
        "summary": wanted.summary,
        "licence": wanted.licence,
        "repo": wanted.repo,
        "revision": wanted.revision,
        "pinned": wanted.pinned,
        "sources": list(settings.sources or wanted.sources),
        "files": listed,
        "path": path,
    }


def remove(name: str, *, settings: HubSettings | None = None) -> int:
    """Deletes a pulled model; returns the bytes freed.

    Raises:
        ModelNotFound: it is not in the store.
    """
    settings = settings or HubSettings.from_environment()
    return Store(settings.home).remove(check_pulled(name, settings=settings))


def check_pulled(name: str, *, settings: HubSettings | None = None) -> Wanted:
    """What a name means, if it is in the store.

    Raises:
        ModelNotFound: it is not.
    """
    settings = settings or HubSettings.from_environment()
    wanted = resolve(name, more=settings.catalogue)
    if not Store(settings.home).folder(wanted).is_dir():
        raise ModelNotFound(f"{name} is not in {settings.home}; `parity models` lists what is")
    return wanted


class _Attempts:
    """One pull: every file from the first source that gives it."""

    def __init__(self, wanted: Wanted, store: Store, progress: Progress) -> None:
        self.wanted, self.store, self.progress = wanted, store, progress
        self.reasons: list[tuple[str, str]] = []
        self.origin: dict[str, str] = {}
        self.done: dict[str, File] = {}

    def run(self, places: Sequence[tuple[str, Source]]) -> list[tuple[str, str]]:
        """Tries the sources in order; returns why each that failed did."""
        for name, source in places:
            try:
                files = self.wanted.files or choose(source.files(self.wanted), self.wanted)
                self.store.check_space(self.wanted, files, source.copies)
                for file in files:
                    self._bring(name, source, file)
            except (SourceFailed, HashMismatch) as error:
                self.reasons.append((name, str(error)))
                log.info("%s: %s could not give it: %s", self.wanted.name, name, error)
                continue
            self.store.record(self.wanted, [self.done[file.name] for file in files], self.origin)
            self.store.clean(self.wanted)
            break
        return self.reasons

    def _bring(self, name: str, source: Source, file: File) -> None:
        path = self.store.folder(self.wanted) / file.name
        part = part_of(path)
        known = self.done.get(file.name)
        if known is not None and file.sha256 in (None, known.sha256):
            return
        if path.is_file():  # complete from an earlier, interrupted pull: checked again, for its source is not known
            path.replace(part)
        resumed = part.is_file()
        try:
            self._fetch(source, file, part)
            self.done[file.name] = finish(part, path, file)
        except HashMismatch:
            if not resumed:
                raise
            self._fetch(source, file, part)  # what was there before was not of this file
            self.done[file.name] = finish(part, path, file)
        self.origin[file.name] = name

    def _fetch(self, source: Source, file: File, part: Path) -> None:
        if part.is_file() and file.sha256 is None:
            part.unlink()  # nothing says that the old bytes are of the same file
        if part.is_file() and file.size == part.stat().st_size:
            return
        source.fetch(self.wanted, file, part, lambda done: self.progress(file.name, done, file.size))


def _as_path(name: str) -> Path | None:
    path = Path(name).expanduser()
    if name and path.exists():  # an empty name is no folder, though its path is the present one
        return path
    if name.startswith(("/", "./", "../", "~")) or name.endswith((".gguf", ".safetensors")):
        raise ModelNotFound(f"{name} does not exist")
    return None


def _row(wanted: Wanted, store: Store) -> ModelRow:
    manifest = store.manifest(wanted)
    sizes: list[Any] = [file["size"] for file in manifest["files"]] if manifest else [file.size for file in wanted.files]
    size = sum(sizes) if sizes and None not in sizes else None
    return ModelRow(wanted.name, wanted.summary, wanted.licence, size, store.find(wanted), wanted.pinned)
