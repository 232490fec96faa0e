"""What the environment says about models: where they are kept, where they come from, whether the network may be used.

PARITY_HOME      where pulled models are kept (default ~/.cache/parity)
PARITY_SOURCES   order of sources, such as `index,huggingface`
PARITY_MODELS    folders with models, separated as in PATH
PARITY_MIRROR    base URL of a plain HTTP mirror
PARITY_CATALOGUE a file like hub/catalogue.toml whose models are added to it
PARITY_OFFLINE   1: no network; HF_HUB_OFFLINE means the same
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The settings as values; `sources` None leaves the order to the catalogue."""

    home: Path
    sources: tuple[str, ...] | None = None
    folders: tuple[Path, ...] = ()
    mirror: str | None = None
    offline: bool = False
    catalogue: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read from `environment`, the process's own if None."""
        env = os.environ if environment is None else environment
        names = tuple(name.strip() for name in env.get("PARITY_SOURCES", "").split(",") if name.strip())
        folders = tuple(Path(text).expanduser() for text in env.get("PARITY_MODELS", "").split(os.pathsep) if text)
        return cls(
            home=Path(env.get("PARITY_HOME") or Path.home() / ".cache" / "parity").expanduser(),
            sources=names or None,
            folders=folders,
            mirror=env.get("PARITY_MIRROR") or None,
            catalogue=Path(env["PARITY_CATALOGUE"]).expanduser() if env.get("PARITY_CATALOGUE") else None,
            offline=any(env.get(key, "").upper() in ("1", "TRUE", "YES", "ON") for key in ("PARITY_OFFLINE", "HF_HUB_OFFLINE")),
        )
