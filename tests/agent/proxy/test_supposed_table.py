"""A table as it would be with other documents: what is in force stays what it is, down to what was compiled of it."""

from __future__ import annotations

from agent.frames import PolicyFrame
from agent.proxy.table.supposing import SupposedTable
from agent.proxy.table.table import Table
from agent.questions import Supposed


def wide(revision: int, text: str) -> dict[str, PolicyFrame]:
    return {"authz": PolicyFrame("*", revision, text.encode())}


def test_what_is_compiled_of_supposed_documents_is_kept_nowhere() -> None:
    """What is in force for a pattern is compiled once for all services, before a supposition and after it."""
    table = Table()
    for name in ("pets", "films"):
        assert table.stage(name, 1, [], wide(1, '{"rules": []}'), 0.0) == []
    table.commit(1)
    kept = dict(table._compiled._made)
    assert kept
    supposed = SupposedTable(table, [Supposed("pets", wide(2, '{"rules": [{"allow": "anybody"}]}'))])
    assert supposed.services["pets"] is not table.services["pets"]
    assert supposed.services["films"] is table.services["films"]
    assert table._compiled._made == kept
