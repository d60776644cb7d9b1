from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.control import accesslog
from agent.control.accesslog import AccessLog
from agent.frames import RECORD_FIELDS


def row(status: int) -> list[Any]:
    fields: dict[str, Any] = dict.fromkeys(RECORD_FIELDS, "")
    return list({**fields, "time": 1.5, "method": b"GET", "target": b"/caf\xe9?\n", "status": status}.values())


async def written(log: AccessLog, *batches: list[list[Any]]) -> None:
    """Have batches written, and the log ended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for batch in batches:
            log.write(batch)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_line_is_one_json_object(tmp_path: Path) -> None:
    """Every field by its name; bytes as text, and no line break in a line; appended to what is there."""
    path = tmp_path / "access.log"
    await written(AccessLog(str(path)), [row(200), row(404)], [row(503)])
    await written(AccessLog(str(path)), [row(201)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200, 404, 503, 201]
    assert list(lines[0]) == list(RECORD_FIELDS)
    assert lines[0]["target"] == "/caf\xe9?\n"


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    """Rows that came just before the end are in the file."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await trio.testing.wait_all_tasks_blocked()
        log.write([row(200)])
        nursery.cancel_scope.cancel()
    assert len(path.read_text().splitlines()) == 1
    assert log.lost == 0


@pytest.mark.parametrize("path", ["/dev/full", "/no/such/directory/access.log"])
async def test_a_disk_that_takes_nothing_costs_lines(path: str) -> None:
    """They are counted, and nothing else happens."""
    log = AccessLog(path)
    await written(log, [row(200), row(200)], [row(200)])
    assert log.lost == 3


async def test_a_log_that_does_not_keep_up_costs_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What waits is bounded; writing never blocks."""
    monkeypatch.setattr(accesslog, "WAITING", 2)
    log = AccessLog(str(tmp_path / "access.log"))
    for _ in range(5):
        log.write([row(200)])
    assert log.lost == 3
    await written(log)
    assert len((tmp_path / "access.log").read_text().splitlines()) == 2
