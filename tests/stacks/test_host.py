"""Plain memory as a device: how much of it there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.stacks.host import HostDevice, group_limits


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


def member(folder: Path, *lines: str) -> Path:
    path = folder / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_group_of_version_2_and_those_around_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    group(root / "a", max=1000, current=700, stat="anon 90\nfile 600\nactive_file 200\ninactive_file 400")
    group(root / "a" / "b", max="max", current=600)
    group(root / "a" / "b" / "c", max=500, current=100)
    assert list(group_limits(member(tmp_path, "0::/a/b/c"), root)) == [(500, 100), (1000, 100)]
    group(root, max=300, current=20)  # a container sees its own group as the root
    assert list(group_limits(member(tmp_path, "0::/"), root)) == [(300, 20)]


def test_a_group_of_version_1(tmp_path: Path) -> None:
    root = tmp_path / "root"
    stat = "active_file 1\ntotal_active_file 30\ntotal_inactive_file 40"
    group(root / "memory", limit_in_bytes=2**63 - 4096, usage_in_bytes=90)
    group(root / "memory" / "docker", limit_in_bytes=400, usage_in_bytes=170, stat=stat)
    lines = ("9:name=systemd:/", "4:cpu,memory:/docker", "3:cpu:/docker", "0::/")
    assert list(group_limits(member(tmp_path, *lines), root)) == [(400, 100), (2**63 - 4096, 90)]
    assert list(group_limits(member(tmp_path, "4:memory:/elsewhere/x"), root)) == [(2**63 - 4096, 90)]


def test_no_groups(tmp_path: Path) -> None:
    assert list(group_limits(tmp_path / "none", tmp_path)) == []
    assert list(group_limits(member(tmp_path, "0::/a"), tmp_path / "none")) == []


def test_the_least_bounds_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    before = HostDevice().memory()
    assert before.total >= before.free > 0
    monkeypatch.setattr("parity.stacks.host.group_limits", lambda *_: [(5000, 1000), (4500, 4000), (2**63, 0)])
    memory = HostDevice().memory()
    assert (memory.total, memory.free) == (4500, 500)
    monkeypatch.setattr("parity.stacks.host.group_limits", lambda *_: [(5000, 6000)])
    assert HostDevice().memory().free == 0
