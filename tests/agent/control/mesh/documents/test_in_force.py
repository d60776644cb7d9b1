"""A refused document changes nothing, for whoever saw what was good and for whoever came later; of every kind."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.mesh.documents.in_force import NOT_FOR_WORKERS, NOT_KNOWN, State, state_before
from agent.control.mesh.table import Table
from policies.catalogue import BY_NAME, KINDS
from registry.keys import Keys
from registry.records import LastGood, decode, encode
from registry.store import Change
from tests.support.tokens import provider

KEYS = Keys()
GOOD: dict[str, dict[str, Any]] = {
    "isolation": {"allow": ["*"]},
    "export": {"to": ["us.shoal"], "gateways": ["here"]},
    "tls": {"mtls": "permissive"},
    "egress": {"allow": ["api.example.com"]},
    "path": {"action": "refuse"},
    "authn": {"providers": [provider()]},
    "authz": {"rules": [{"allow": ["shop.production"]}]},
    "ratelimit": {"limits": [{"name": "all", "rate": "5/s"}]},
    "fault": {
        "expires": "2099-01-01T00:00:00Z",
        "rules": [{"name": "slow", "percent": 1, "delay": {"least": "1s", "most": "1s"}}],
    },
    "route": {"rules": [{"split": [{"version": "v1", "weight": 100}]}]},
    "import": {"trust_domain": "eu.shoal", "remote_service": "pets", "gateways": ["192.0.2.7:15006"]},
    "timeout": {"request": "5s"},
    "breaker": {"limits": {"requests": 5}},
    "outlier": {"consecutive_5xx": 5},
    "shed": {"concurrency": 100},
    "balance": {"algorithm": "round-robin"},
    "retry": {"attempts": 3},
    "shadow": {"copies": [{"version": "v2", "percent": 1}]},
    "trace": {"share": 0.1},
    "health": {"http": {"path": "/"}},
    "audit": {"requests": "all"},
    "rego": {"data": {"readers": ["shop.production"]}},
    "webhook": {"hooks": {"x": {"events": ["instance.gone"], "target": {"url": "https://example.com/"}}}},
}
BAD = b'{"mode": "enforced"}'


class Stands(NamedTuple):
    value: bytes
    revision: int
    created: int


class Etcd:
    """What stands, and what agents that watch it know."""

    def __init__(self, kind: str, pattern: str = "pets") -> None:
        self.kind, self.pattern = kind, pattern
        self.revision = 10
        self.keys: dict[str, Stands] = {}
        self.watching: list[Table] = []

    def agent(self, saved: list[tuple[str, bytes, int]] | None = None) -> Table:
        """One that starts now; with the table that it had on disk, if it had one."""
        table = Table(KEYS, "here")
        if saved:
            table.apply([Change(*item) for item in saved], 1)
        changes = [Change(key, *stands) for key, stands in self.keys.items()]
        table.apply(changes, self.revision, whole=True)
        self.watching.append(table)
        return table

    def put(self, value: Any, key: str = "") -> None:
        key = key or KEYS.policy(self.kind, self.pattern)
        self.revision += 1
        if value is None:
            self.keys.pop(key, None)
            change = Change(key, None, self.revision)
        else:
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            created = self.keys[key].created if key in self.keys else self.revision
            self.keys[key] = Stands(text, self.revision, created)
            change = Change(key, text, self.revision, created)
        for table in self.watching:
            table.apply([change], self.revision)

    def written_by(self, table: Table) -> None:
        """What an agent has to say of last good states is written down."""
        for place, record in table.in_force.unsettled().items():
            self.put(None if record is None else encode(record), KEYS.last_good(*place))

    def enforced(self, table: Table) -> Any:
        """The document in force; None for none, and "shut" where nobody knows."""
        frame = table.in_force.of(self.pattern, all_kinds=True).get(self.kind)
        if frame is None:
            return None
        return "shut" if frame.unknown else json.loads(frame.text)


def closed(kind: str) -> str | None:
    """What is enforced where nobody knows."""
    return "shut" if BY_NAME[kind].fails_closed else None


def test_every_kind_is_tried() -> None:
    """And by a document that is good."""
    assert GOOD.keys() == {kind.name for kind in KINDS}
    assert any(kind.fails_closed for kind in KINDS)


@pytest.mark.parametrize("kind", GOOD)
class TestOfEachKind:
    def test_what_was_good_stays_for_old_and_new(self, kind: str) -> None:
        """Known from watching; and from `last_good/` for one that starts after the typo."""
        etcd = Etcd(kind)
        old = etcd.agent()
        etcd.put(GOOD[kind])
        etcd.written_by(old)
        etcd.put(BAD)
        new = etcd.agent()
        assert etcd.enforced(old) == etcd.enforced(new) == GOOD[kind]
        for table in (old, new):
            assert table.refused[kind, "pets"].last_good == 11

    def test_a_first_typo_changes_nothing(self, kind: str) -> None:
        """No document is a state like any other, and the key itself proves it."""
        etcd = Etcd(kind)
        old = etcd.agent()
        etcd.put(BAD)
        new = etcd.agent()
        assert etcd.enforced(old) is etcd.enforced(new) is None
        for table in (old, new):
            assert table.refused[kind, "pets"].last_good == 0

    def test_a_second_typo_changes_nothing_either(self, kind: str) -> None:
        """The key does not prove it any more, but it was written down."""
        etcd = Etcd(kind)
        old = etcd.agent()
        etcd.put(BAD)
        etcd.written_by(old)
        etcd.put(BAD + b" ")
        assert etcd.enforced(old) is etcd.enforced(etcd.agent()) is None

    def test_a_typo_after_a_deletion_brings_nothing_back(self, kind: str) -> None:
        """Deleting is a good state too."""
        etcd = Etcd(kind)
        old = etcd.agent()
        etcd.put(GOOD[kind])
        etcd.written_by(old)
        saved = list(old.saved())
        etcd.put(None)
        etcd.put(BAD)
        assert etcd.enforced(old) is etcd.enforced(etcd.agent()) is etcd.enforced(etcd.agent(saved)) is None

    def test_nobody_knows(self, kind: str) -> None:
        """Good and bad while no agent lived: kinds that guard refuse, the others count as absent; on disk too."""
        etcd = Etcd(kind)
        etcd.put(GOOD[kind])
        etcd.put(BAD)
        table = etcd.agent()
        assert etcd.enforced(table) == closed(kind)
        assert table.refused[kind, "pets"].last_good == NOT_KNOWN
        alone = Table(KEYS, "here")  # etcd is away
        alone.apply([Change(*item) for item in table.saved()], table.revision)
        assert etcd.enforced(alone) == closed(kind)
        etcd.put(GOOD[kind])
        assert etcd.enforced(table) == GOOD[kind]
        assert not table.in_force.unknown()

    def test_who_does_not_know_is_told(self, kind: str) -> None:
        """By another agent, or by etcd's history."""
        etcd = Etcd(kind)
        etcd.put(GOOD[kind])
        etcd.put(BAD)
        told, found = etcd.agent(), etcd.agent()
        etcd.put(encode(LastGood(revision=11, document=json.dumps(GOOD[kind]))), KEYS.last_good(kind, "pets"))
        assert etcd.enforced(told) == GOOD[kind]
        found = Etcd(kind)
        found.keys, found.revision = {k: v for k, v in etcd.keys.items() if "/policies/" in k}, etcd.revision
        table = found.agent()
        table.learn({(kind, "pets"): LastGood(revision=11, document=json.dumps(GOOD[kind]))})
        assert found.enforced(table) == GOOD[kind]
        assert table.in_force.unsettled() == {(kind, "pets"): LastGood(revision=11, document=json.dumps(GOOD[kind]))}

    def test_a_disk_knows(self, kind: str) -> None:
        """Bad while no agent lived, and nothing written down: an agent that had it on disk knows what was good."""
        etcd = Etcd(kind)
        etcd.put(GOOD[kind])
        saved = list(etcd.agent().saved())
        etcd.put(BAD)
        assert etcd.enforced(etcd.agent(saved)) == GOOD[kind]

    def test_the_document_is_deleted(self, kind: str) -> None:
        """Then nothing is in force, nothing refused, and nothing is to be remembered."""
        etcd = Etcd(kind)
        table = etcd.agent()
        etcd.put(GOOD[kind])
        etcd.written_by(table)
        etcd.put(BAD)
        etcd.put(None)
        assert etcd.enforced(table) is None
        assert not table.refused
        etcd.written_by(table)
        assert not etcd.keys
        assert table.in_force.unsettled() == {}


def test_the_special_one_refuses_though_the_general_one_is_known() -> None:
    """The most specific key wins whole, and nobody knows what it says."""
    etcd = Etcd("ratelimit")
    etcd.put(GOOD["ratelimit"], KEYS.policy("ratelimit", "*"))
    etcd.put(GOOD["ratelimit"])
    etcd.put(BAD)
    table = etcd.agent()
    assert etcd.enforced(table) == "shut"
    assert table.in_force.of("dogs")["ratelimit"].key == "*"
    assert "policies/ratelimit/pets" in table.in_force.of("pets")["ratelimit"].unknown


def test_a_newer_agents_word_is_not_written_over() -> None:
    """It understood a document that this one refuses; two that each wrote theirs would never end."""
    etcd = Etcd("retry")
    table = etcd.agent()
    etcd.put(GOOD["retry"])
    etcd.written_by(table)
    newer = {**GOOD["retry"], "of_the_next_version": 1}
    etcd.put(newer)
    etcd.put(encode(LastGood(revision=etcd.revision, document=json.dumps(newer))), KEYS.last_good("retry", "pets"))
    assert etcd.enforced(table) == GOOD["retry"]
    assert table.in_force.unsettled() == {}


def test_the_newer_agent_says_more() -> None:
    """What an older one took for no document, it understands."""
    etcd = Etcd("retry")
    table = etcd.agent()
    etcd.put(GOOD["retry"])
    etcd.put(encode(LastGood(revision=etcd.revision)), KEYS.last_good("retry", "pets"))
    assert [record.document for record in table.in_force.unsettled().values() if record] == [json.dumps(GOOD["retry"])]


def test_the_cost_is_that_of_the_change() -> None:
    """What has been written down is not looked at again for every instance that flaps."""
    etcd = Etcd("retry")
    table = etcd.agent()
    etcd.put(GOOD["retry"])
    etcd.written_by(table)
    assert table.in_force.unsettled() == {}
    assert not table.in_force._moved


REVISIONS = st.one_of(st.none(), st.integers(1, 9))


@given(created=st.integers(0, 9), held=REVISIONS, recorded=REVISIONS, was_absent=st.booleans(), empty=st.booleans())
def test_what_is_older_than_the_key_counts_no_more(
    created: int, held: int | None, recorded: int | None, was_absent: bool, empty: bool
) -> None:
    """And of the rest the youngest does; never what is younger than the refused document itself."""
    record = None if recorded is None else LastGood(revision=recorded, document="" if empty else "{}")
    refused = Change("k", BAD, 9, created)
    state = state_before(refused, held=held, was_absent=was_absent, recorded=record)
    if created == 9:
        assert state is State.ABSENT
    elif state is State.HELD:
        assert held is not None and held >= created and not (recorded is not None and recorded > held)
    elif state is State.RECORDED:
        assert recorded is not None and recorded >= created and (held is None or held < max(created, recorded))
    elif state is State.UNKNOWN:
        assert not was_absent


def test_the_record_is_read_back() -> None:
    """Larger than other records may be: a document of 256 KiB is in it."""
    record = LastGood(revision=7, document='{"description": "%s"}' % ("\\" * 250_000))
    assert decode(LastGood, encode(record)) == record


def test_kinds_of_control_are_no_ones_frames() -> None:
    """What control enforces by itself closes nothing."""
    assert not any(BY_NAME[kind].fails_closed for kind in NOT_FOR_WORKERS)


def test_what_instances_speak_is_known_of_every_level() -> None:
    """For checks: a document that is only watched says nothing, nor does one that is refused."""
    table = Table(KEYS, "web-1")

    def put(pattern: str, document: object, revision: int) -> str:
        key = KEYS.policy("tls", pattern)
        table.apply([Change(key, json.dumps(document).encode(), revision)], revision)
        origin = table.in_force.origin("pets.production")
        return origin.name or origin.speaks if origin is not None else ""

    secured = {"speaks": "tls", "name": "db.internal"}
    assert put("*", {"mtls": "off", "origin": secured, "mode": "audit"}, 1) == ""
    assert put("*", {"mtls": "off", "origin": secured}, 2) == "db.internal"
    assert put("pets.production", {"mtls": "strict", "origin": {"speaks": "plain"}}, 3) == "db.internal"
    assert (
        put("pets.production", {"mtls": "strict", "origin": {**secured, "name": "pets.internal"}}, 4) == "pets.internal"
    )
    assert put("pets.production", {"mtls": "strict", "origin": {"speaks": "tls"}}, 5) == "pets.internal"
