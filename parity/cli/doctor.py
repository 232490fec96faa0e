"""`parity doctor`: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from .terminal import human_bytes, print_table

_NEEDED_DISK = 2 * 2**30
_NEEDED_MEMORY = 3 * 2**30
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` says what to do where `state` is not `ok`."""

    what: str
    state: Literal["ok", "note", "wrong"]
    found: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints what was found; 1 if something is wrong. Touches no network."""
    findings = list(examine())
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    return 1 if any(finding.state == "wrong" for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which one would mend them."""
    yield _python()
    yield from _packages()
    yield _compiler()
    yield from _stacks()
    yield _memory()
    yield from _models()


def _python() -> Finding:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding(
            "python", "note", found, "Parity is tested on 3.11 to 3.13; make a virtual environment with one of these"
        )
    return Finding("python", "ok", found)


def _packages() -> Iterator[Finding]:
    from .. import __version__

    present, absent = [f"parity {__version__}"], []
    for name in _needed_packages():
        try:
            present.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        yield Finding("packages", "wrong", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    yield Finding("packages", "ok", ", ".join(present))


def _needed_packages() -> list[str]:
    """What the installed package asks for, its extras left out; nothing is known of one that is not installed."""
    try:
        asked = metadata.requires("parity-llm") or []
    except metadata.PackageNotFoundError:  # the stacks, which are found by its entry points, say so
        asked = []
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in asked if "extra ==" not in line]


def _compiler() -> Finding:
    named = os.environ.get("CXX", "").split()
    if named and shutil.which(named[0]) is None:
        return Finding("compiler", "note", f"CXX names {named[0]}, which is not there", "unset CXX, or name yours in it")
    for name in (*named[:1], *_COMPILERS):
        if path := shutil.which(name):
            return Finding("compiler", "ok", path)
    fix = "needed to build Parity from source: install g++ or clang (Debian: apt install g++), or name yours in CXX"
    return Finding("compiler", "note", "no C++ compiler", fix)


def _stacks() -> Iterator[Finding]:
    from .stacks import survey

    found = [stack for stack in survey() if stack["name"] != "null"]
    for stack in found:
        what = f"stack {stack['name']}"
        if stack["works"]:
            own = sum(op["origin"] != "parity.stacks.reference" for op in stack["ops"].values())
            device = ", ".join(f"{name} {value}" for name, value in stack["device"].items())
            found_here = f"{device}; {own} of {len(stack['ops'])} ops are its own"
            reasons = {op["why"] for op in stack["ops"].values()}
            if own:
                yield Finding(what, "ok", found_here)
            else:
                yield Finding(what, "note", found_here, f"to make it fast: {'; '.join(sorted(reasons))}")
        else:
            yield Finding(what, "note", stack["why"], "nothing, unless this machine has such a device")
    if not any(stack["works"] for stack in found):
        yield Finding(
            "stacks", "wrong", "none works", "reinstall Parity, so that its entry points are registered: pip install ."
        )


def _memory() -> Finding:
    from ..stacks.host import HostDevice

    memory = HostDevice().memory()
    found = f"{human_bytes(memory.free)} free of {human_bytes(memory.total)}"
    if memory.free < _NEEDED_MEMORY:
        return Finding("memory", "note", found, f"the default model wants {human_bytes(_NEEDED_MEMORY)}; close other programs")
    return Finding("memory", "ok", found)


def _models() -> Iterator[Finding]:
    from ..hub import HubSettings, default_model, find

    settings = HubSettings.from_environment()
    there = next(parent for parent in (settings.home.absolute(), *settings.home.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    found = f"{settings.home}, {human_bytes(free)} free"
    if not os.access(there, os.W_OK):
        yield Finding("models", "wrong", f"{settings.home} cannot be written", "mend its permissions, or set PARITY_HOME")
    elif free < _NEEDED_DISK:
        yield Finding("models", "note", found, "make room, or set PARITY_HOME to a folder on a bigger disk")
    else:
        yield Finding("models", "ok", found)
    name = default_model()
    path = find(name)
    if path is None:
        yield Finding("model", "note", f"{name} is not here yet", f"parity pull {name}")
    else:
        yield Finding("model", "ok", f"{name}: {path}")
    if settings.offline:
        fix = "unset PARITY_OFFLINE and HF_HUB_OFFLINE to pull models"
        yield Finding("network", "note", "offline mode: nothing is downloaded", fix)


def _print(findings: list[Finding]) -> None:
    rows = [(one.state, one.what, f"{one.found} -> {one.fix}" if one.fix else one.found) for one in findings]
    print_table(("", "WHAT", "FOUND -> TO DO"), rows)
