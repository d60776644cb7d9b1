"""`authz` documents whose Rego stands in documents of its own: put together, whole or as before, everywhere."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest

from agent.control.mesh.documents.reading import read_ahead
from agent.control.mesh.table import Table
from policies.kinds.rego.document import MAX_SOURCE
from registry.keys import Keys
from registry.records import encode
from registry.store import Change

pytest.importorskip("regopy")
KEYS = Keys()
A = KEYS.policy("authz", "lamps")
GROUPS = KEYS.policy("rego", "groups")
LISTS = KEYS.policy("rego", "lists")
MAIN = "package shoal\ndefault allow := false\nallow if data.groups.staff\n"
STAFF = "package groups\nstaff if input.claims.sub in data.names\n"
BROKEN = "package groups\nstaff if nobody.knows(this)\n"


def authz(*bundles: str, **more: Any) -> dict[str, Any]:
    return {"rego": {"bundles": bundles or ("groups", "lists"), "modules": {"lamps.rego": MAIN}}, **more}


def bundle(text: str, **data: Any) -> dict[str, Any]:
    return {"modules": {"groups.rego": text}, "data": data}


def comments(size: int) -> str:
    return ("#" * 79 + "\n") * (size // 80)


NAMES = {"data": {"names": ["ann"]}}


class Etcd:
    """What stands, and agents that watch it."""

    def __init__(self) -> None:
        self.revision = 10
        self.keys: dict[str, tuple[bytes, int, int]] = {}
        self.watching: list[Table] = []

    def agent(self, saved: list[tuple[str, bytes, int]] | None = None) -> Table:
        """One that starts now."""
        table = Table(KEYS, "here")
        if saved:
            table.apply([Change(*item) for item in saved], 1)
        table.apply([Change(key, *stands) for key, stands in self.keys.items()], self.revision, whole=True)
        self.watching.append(table)
        return table

    def transact(self, changes: dict[str, Any]) -> None:
        """In one revision; None deletes."""
        self.revision += 1
        made = []
        for key, value in changes.items():
            if value is None:
                self.keys.pop(key, None)
                made.append(Change(key, None, self.revision))
                continue
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            created = self.keys[key][2] if key in self.keys else self.revision
            self.keys[key] = text, self.revision, created
            made.append(Change(key, text, self.revision, created))
        for table in self.watching:
            table.apply(made, self.revision)

    def written_by(self, table: Table) -> None:
        """What an agent has to say of last good states is written down."""
        for place, record in table.in_force.unsettled().items():
            self.transact({KEYS.last_good(*place): None if record is None else encode(record)})


def enforced(table: Table, service: str = "lamps") -> Any:
    """Modules and data in force; None: no document; a text: why nothing passes."""
    frame = table.in_force.of(service).get("authz")
    if frame is None:
        return None
    if frame.unknown:
        return frame.unknown
    rego = json.loads(frame.text)["rego"]
    assert "bundles" not in rego
    return rego["modules"], rego["data"]


GOOD = {"lamps.rego": MAIN, "groups/groups.rego": STAFF}, {"names": ["ann"]}


def test_what_is_put_together_is_one_document_as_young_as_its_youngest_part() -> None:
    """In whatever order the keys of a transaction come, and for one that comes later."""
    for order in permutations([(A, authz()), (GROUPS, bundle(STAFF)), (LISTS, NAMES)]):
        etcd = Etcd()
        old = etcd.agent()
        etcd.transact(dict(order))
        new = etcd.agent()
        assert enforced(old) == enforced(new) == GOOD
        etcd.transact({LISTS: {"data": {"names": ["bob"]}}})
        assert enforced(old) == enforced(new) == (GOOD[0], {"names": ["bob"]})
        assert old.in_force.of("lamps")["authz"].revision == etcd.revision
        assert not old.refused and "lamps" in old.services and "groups" not in old.services


def test_a_broken_module_replaces_none_that_is_good() -> None:
    """For who saw it, for who comes later by `last_good/`, and for who had it on disk; another document that names it
    is judged for itself."""
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({A: authz(), GROUPS: bundle(STAFF), LISTS: NAMES})
    etcd.transact({KEYS.policy("authz", "shop"): {"rego": {"bundles": ["groups"], "query": "data.groups.staff"}}})
    etcd.written_by(old)
    saved = list(old.saved())
    etcd.transact({GROUPS: bundle(BROKEN)})
    for table in (old, etcd.agent(), etcd.agent(saved)):
        assert enforced(table) == GOOD
        refused = table.refused["authz", "lamps"]
        assert refused.path.startswith('$.rego.modules["groups/groups.rego"]') and refused.last_good > 0
        assert ("authz", "shop") in table.refused and ("rego", "groups") not in table.refused
    etcd.transact({GROUPS: bundle(STAFF), LISTS: {"data": {"names": ["bob"]}}})
    assert enforced(old) == (GOOD[0], {"names": ["bob"]}) and not old.refused


def test_a_bundle_that_cannot_be_read_leaves_the_one_before() -> None:
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({A: authz(), GROUPS: bundle(STAFF), LISTS: NAMES})
    etcd.written_by(old)
    etcd.transact({LISTS: b"{"})
    for table in (old, etcd.agent()):
        assert enforced(table) == GOOD and list(table.refused) == [("rego", "lists")]


def test_what_is_missing_denies_where_nobody_knows_of_a_good_state() -> None:
    """A document before its bundles; then they come. Nothing is looked for in the history of its key."""
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({A: authz(), GROUPS: bundle(STAFF)})
    said = "policies/authz/lamps: $.rego.bundles[1]: policies/rego/lists is not there; put it first"
    for table in (old, etcd.agent(), etcd.agent(list(old.saved()))):
        assert enforced(table).startswith(said)
        assert table.in_force.unsettled() == {
            place: record for place, record in table.in_force.unsettled().items() if place == ("rego", "groups")
        }
    etcd.transact({LISTS: NAMES})
    assert enforced(old) == GOOD and not old.refused


def test_a_deleted_bundle_opens_nothing() -> None:
    """What was put together stays, on disk too; an agent that knows nothing of it lets nothing pass."""
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({A: authz(), GROUPS: bundle(STAFF), LISTS: NAMES})
    nobody_wrote = dict(etcd.keys)
    etcd.written_by(old)
    etcd.transact({GROUPS: None})
    for table in (old, etcd.agent(), etcd.agent(list(old.saved()))):
        assert enforced(table) == GOOD
        assert "policies/rego/groups is not there" in table.refused["authz", "lamps"].reason
        alone = Table(KEYS, "here")  # as after a restart without etcd
        alone.apply([Change(*item) for item in table.saved()], 1)
        assert enforced(alone) == GOOD
    fresh = Etcd()
    fresh.keys = {key: stands for key, stands in nobody_wrote.items() if key != GROUPS}
    assert "policies/rego/groups is not there" in enforced(fresh.agent())
    etcd.transact({A: None})
    assert enforced(old) is None and not old.refused


def test_a_document_that_stands_for_itself_stays_when_a_worse_one_names_what_is_not_there() -> None:
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({A: {"rules": [{"allow": ["shop"]}]}})
    etcd.written_by(old)
    etcd.transact({A: authz()})
    for table in (old, etcd.agent()):
        frame = table.in_force.of("lamps")["authz"]
        assert json.loads(frame.text) == {"rules": [{"allow": ["shop"]}]}
    etcd.transact({A: {"rules": [{"allow": ["web"]}]}})
    assert json.loads(old.in_force.of("lamps")["authz"].text) == {"rules": [{"allow": ["web"]}]} and not old.refused


@pytest.mark.parametrize(
    ("bundles", "said"),
    [
        ({GROUPS: bundle(STAFF, names=[]), LISTS: NAMES}, "data 'names' of lists is there already"),
        ({GROUPS: bundle(STAFF + comments(MAX_SOURCE - 100)), LISTS: bundle("package a\n" + comments(MAX_SOURCE - 100)),
          KEYS.policy("rego", "c"): bundle("package a\n" + comments(MAX_SOURCE - 100)),
          KEYS.policy("rego", "d"): bundle("package a\n" + comments(MAX_SOURCE - 100))}, " bytes"),
        ({GROUPS: bundle(STAFF + comments(MAX_SOURCE - 100)), LISTS: bundle("package a\n" + comments(MAX_SOURCE - 100)),
          KEYS.policy("rego", "c"): bundle("package a\n" + comments(MAX_SOURCE - 1000))}, None),
    ],
)  # fmt: skip
def test_what_is_put_together_is_bounded(bundles: dict[str, Any], said: str | None) -> None:
    """And a name of data stands once."""
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({**bundles, A: authz(*(key.rsplit("/", 1)[1] for key in bundles))})
    if said is None:
        assert len(enforced(old)[0]) == 4, enforced(old)
    else:
        assert ("authz", "lamps") in old.refused and isinstance(enforced(old), str)


def test_what_is_only_watched_is_put_together_beside() -> None:
    """Under `audits/`, with what is in force; and it displaces nothing."""
    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({GROUPS: bundle(STAFF), LISTS: NAMES, KEYS.audit("authz", "lamps"): authz()})
    etcd.transact({A: {"rules": [{"allow": ["shop"]}]}})
    found = json.loads(old.audits.of("lamps")["authz"].text)["rego"]
    assert (found["modules"], found["data"]) == GOOD
    etcd.transact({GROUPS: bundle(BROKEN)})
    assert json.loads(old.audits.of("lamps")["authz"].text)["rego"]["modules"] == GOOD[0]
    assert ("authz", "lamps") in old.audits.refused and not old.refused
    etcd.transact({GROUPS: None, A: None})
    assert "is not there" in old.audits.refused["authz", "lamps"].reason


async def test_what_will_be_put_together_is_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the loop: whoever applies the changes reads nothing himself."""
    from agent.control.mesh import table as module

    def never(kind: str, pattern: str, value: bytes) -> Any:
        raise AssertionError((kind, pattern, value))

    monkeypatch.setattr(module, "read", never)
    table, keys = Table(KEYS, "here"), {A: authz(), GROUPS: bundle(STAFF), LISTS: NAMES}
    changes = [Change(key, json.dumps(value).encode(), 11, 11) for key, value in keys.items()]
    table.apply(changes, 11, documents=await read_ahead(KEYS, changes, table.audits.stands))
    assert enforced(table) == GOOD
    changes = [Change(LISTS, b'{"data": {"names": ["bob"]}}', 12, 11)]
    table.apply(changes, 12, documents=await read_ahead(KEYS, changes, table.audits.stands))
    assert enforced(table) == (GOOD[0], {"names": ["bob"]})
    changes = [Change(KEYS.audit("authz", "lamps"), json.dumps(authz()).encode(), 13, 13)]
    table.apply(changes, 13, documents=await read_ahead(KEYS, changes, table.audits.stands))
    assert json.loads(table.audits.of("lamps")["authz"].text)["rego"]["data"] == {"names": ["bob"]}


def test_another_etcd_that_is_the_same_changes_nothing() -> None:
    """What stands there is compared with what stood, and not with what was put together."""
    from agent.control.mesh.distrust.source import Source

    etcd = Etcd()
    old = etcd.agent()
    etcd.transact({A: authz()})
    etcd.transact({GROUPS: bundle(STAFF)})
    etcd.transact({LISTS: NAMES})
    changes = [Change(key, *stands) for key, stands in etcd.keys.items()]
    old.apply(changes, etcd.revision, whole=True, source=Source("restored", True, "2026-01-01T00:00:00Z"))
    assert enforced(old) == GOOD and not old.distrusted.holding.holds
