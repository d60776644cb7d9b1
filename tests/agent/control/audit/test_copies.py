"""Copies of other hosts' logs, as the settings bound them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from agent.audit.questions import Piece
from agent.control.audit.audit import Audit
from agent.settings.file import parse


def audit(folder: Path, settings: str) -> Audit:
    async def nobody(host: str, path: str, body: bytes, within_s: float) -> Any:
        raise AssertionError(host)

    text = f'host = "db-1"\nstate_dir = "{folder}"\n[audit]\n{settings}'
    return Audit(parse(text, "agent.toml"), {}, lambda: pytest.fail("nobody shows anything"), nobody)


async def keep(of: Audit, host: str, number: int, size: int) -> None:
    name, data = f"{number:012}.jsonl", gzip.compress(os.urandom(size))
    assert (await of.copies.keep(host, Piece(host, name, 0, data, True))).whole


async def test_what_is_held_of_others_is_bounded_by_the_setting(tmp_path: Path) -> None:
    """Of whom there is most, the oldest goes; what has just come stays, whatever its size."""
    of = audit(tmp_path, "copies_max_bytes = 10_000")
    for number in range(1, 6):
        await keep(of, "web-1", number, 3000)
        await keep(of, "web-2", number, 500)
    held = {host: [int(path.name[:12]) for path in of.copies.held(host)] for host in of.copies.hosts()}
    assert held == {"web-1": [4, 5], "web-2": [1, 2, 3, 4, 5]}
    await keep(of, "web-3", 1, 20_000)
    held = {host: [int(path.name[:12]) for path in of.copies.held(host)] for host in of.copies.hosts()}
    assert held["web-3"] == [1] and held["web-2"][-1:] != []


async def test_without_the_setting_there_is_room(tmp_path: Path) -> None:
    of = audit(tmp_path, "")
    for number in range(1, 6):
        await keep(of, "web-1", number, 3000)
    assert len(of.copies.held("web-1")) == 5
