"""Whose an address and port is: one service's. A registration that outlived its program would else lead requests of one
service to another's program, which answers them, healthy.

Laws
- Who comes later has the say about what stays for ever or has not been renewed for a while: the other is taken out.
- He is refused, by name, where the other is renewed, was declared in agent.toml or put by hand, or is another user's.
- What stands already is not judged again: two that are renewed do not take each other's place by turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.control.host.own_ports import plain
from agent.control.instances.registration import Identity, Local, Taken, owner_of
from agent.control.instances.renewals import Renewals
from agent.control.mesh.table import Table


class Places:
    """What stands where."""

    def __init__(self, local: Mapping[Identity, Local], renewals: Renewals, table: Table) -> None:
        self._local = local
        self._renewals = renewals
        self._table = table

    def yields(self, identity: Identity, wanted: Local, *, operates: bool) -> list[Identity]:
        """Instances of other services that have to go for one. Raises Taken where one of them may not."""
        before = self._local.get(identity)
        if before is not None and _place(before) == _place(wanted):
            return []
        there = list(self._there(identity[0], wanted))
        for other in there:
            if why := self._may_stay(other, wanted, operates):
                where = f"{wanted.record.address}:{wanted.record.port}"
                raise Taken("$.port", f"{where} is {'/'.join(other)}'s, {why}")
        self._refuse_where_by_hand(identity[0], wanted)
        return there

    def _there(self, service: str, wanted: Local) -> Iterator[Identity]:
        for identity, local in self._local.items():
            if identity[0] != service and _place(local) == _place(wanted):
                yield identity

    def _may_stay(self, identity: Identity, wanted: Local, operates: bool) -> str:
        """Why another is not taken out; empty: it is."""
        standing = self._local[identity]
        if standing.source != "admin":
            return "which agent.toml declares" if wanted.source == "admin" or standing.source == wanted.source else ""
        if wanted.source == "admin" and wanted.uid != standing.uid and not operates:
            return f"which belongs to {owner_of(standing)}"
        left_s = self._renewals.left_s(identity)
        if left_s is not None and not self._renewals.is_overdue(identity):
            return f"which was renewed a moment ago; it ends in {left_s:.0f} s unless it is renewed again"
        return ""

    def _refuse_where_by_hand(self, service: str, wanted: Local) -> None:
        """What other agents registered is not looked at: 127.0.0.1 or 172.17.0.2 is another place on their hosts."""
        for name, known in self._table.services.items():
            for id, record in known.instances.items() if name != service else ():
                if not record.agent and (plain(record.address), record.port) == _place(wanted):
                    where = f"{record.address}:{record.port}"
                    by = f"which was put by hand: delete instances/{name}/{id} first"
                    raise Taken("$.port", f"{where} is {name}/{id}'s, {by}")


def _place(local: Local) -> tuple[str, int]:
    return plain(local.record.address), local.record.port
