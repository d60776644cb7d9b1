"""Documents are read beside control's loop: however many there are, none of it is the loop's CPU."""

from __future__ import annotations

import json
import time

import trio

from agent.control.mesh.documents.reading import read_ahead
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.store import Change

KEYS = Keys("default")
BODY = '{{ title | tojson }} is {{ data.reason | default("x") | tojson }}\n'


def webhook(hooks: int, lines: int) -> bytes:
    hook = {
        "format": "template",
        "target": {"url": "https://example.com/"},
        "template": {"body": BODY * lines, "content_type": "text/plain"},
    }
    return json.dumps({"hooks": {f"h{n}": hook for n in range(hooks)}}).encode()


async def test_reading_costs_the_loop_next_to_nothing() -> None:
    """A mesh's worth of documents with all the templates that they may have, as at a start; applied as one revision."""
    changes = [Change(KEYS.policy("webhook", f"s{n}"), webhook(4, 30), 5 + n) for n in range(8)]
    rules = [{"match": {"path": {"regex": f"/{n}/[a-z]+"}}} for n in range(900)]
    changes += [
        Change(KEYS.policy("route", f"s{n}"), json.dumps({"rules": rules, "description": str(n)}).encode(), 20 + n)
        for n in range(8)
    ]
    began = time.thread_time()
    documents = await read_ahead(KEYS, changes)
    read_s, began = time.thread_time() - began, time.thread_time()
    table = Table(KEYS, "host-1")
    table.apply(changes, 99, documents=documents)
    applied_s = time.thread_time() - began
    assert table.refused == {}
    assert len(table.policies["webhook"]) == len(table.policies["route"]) == 8
    assert read_s < 0.1 and applied_s < 0.1


async def test_other_tasks_run_meanwhile() -> None:
    """While one document is read, the loop comes round."""
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await read_ahead(KEYS, [Change(KEYS.policy("webhook", "*"), webhook(4, 30), 5)])
        nursery.cancel_scope.cancel()
    assert rounds > 3


async def test_what_was_not_read_ahead_is_read_when_it_is_applied() -> None:
    """Also YAML, and what is refused."""
    changes = [
        Change(KEYS.policy("timeout", "a"), b"request: 3s\n", 5),
        Change(KEYS.policy("timeout", "b"), b"reqest: 3s\n", 6),
    ]
    one, other = Table(KEYS, "host-1"), Table(KEYS, "host-1")
    one.apply(changes, 7)
    other.apply(changes, 7, documents=await read_ahead(KEYS, changes))
    assert one.policies == other.policies and one.refused == other.refused
    assert one.policies["timeout"]["a"].text == b'{"request":"3s"}'
