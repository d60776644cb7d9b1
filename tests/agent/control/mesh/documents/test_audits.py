"""What is only watched is chosen for itself, and never decides what is in force."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.mesh.documents.in_force import NOT_FOR_WORKERS
from agent.frames import Change, Gone, PolicyFrame, Stage
from agent.portions import said_once
from policies.catalogue import BY_NAME
from policies.language.names import candidates
from tests.support.tables import KEYS, Etcd, instance
from tests.support.tokens import provider

PETS = "pets.production"
PATTERNS = ("*", "*.production", PETS)


def made(**documents: Any) -> Etcd:
    etcd = Etcd()
    etcd.put({f"instances/{PETS}/1": instance()})
    return etcd


def frame(etcd: Etcd) -> Stage:
    found = etcd.table.frame(PETS)
    assert isinstance(found, Stage)
    return found


def keys(frames: dict[str, PolicyFrame]) -> dict[str, str]:
    return {kind: policy.key for kind, policy in frames.items()}


ONLY_FOR_ONE = ("import", *NOT_FOR_WORKERS)


@pytest.mark.parametrize("kind", [kind for kind in BY_NAME if kind not in ONLY_FOR_ONE])
def test_a_services_audit_leaves_the_meshs_document_in_force(kind: str) -> None:
    """Each kind that is for more than one service, and both ways to say it."""
    needed: dict[str, Any] = {
        "fault": {"expires": "2999-01-01T00:00:00Z", "rules": [{"delay": "1ms"}]},
        "egress": {"allow": ["*"]},
        "isolation": {"allow": ["*"]},
        "export": {"to": ["us.shoal"]},
        "tls": {"mtls": "strict"},
        "authn": {"providers": [provider()]},
        "authz": {"rules": [{"deny": "anonymous"}]},
        "breaker": {"trip": {"consecutive": 5}},
        "shadow": {"copies": [{"to": "cats.production"}]},
    }
    document = needed.get(kind, {})
    for key, text in ((f"policies/{kind}/{PETS}", {**document, "mode": "audit"}), (f"audits/{kind}/{PETS}", document)):
        etcd = made()
        etcd.put({f"policies/{kind}/*": document})
        assert etcd.put({key: text}) == {PETS} and etcd.table.refused == {} and etcd.table.audits.refused == {}
        assert (keys(frame(etcd).policies), keys(frame(etcd).audits)) == ({kind: "*"}, {kind: PETS})
        assert etcd.delete(key) == {PETS} and frame(etcd).audits == {}


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from(["enforce", "audit"])),
    st.sets(st.sampled_from(PATTERNS)),
)
def test_two_choices_of_the_most_specific(policies: dict[str, str], room: set[str]) -> None:
    """One among what is enforced, one among what is watched; of one name the room goes before the field."""
    etcd = made()
    for pattern, mode in policies.items():
        etcd.put({f"policies/retry/{pattern}": {"mode": mode, "attempts": 2}})
    for pattern in room:
        etcd.put({f"audits/retry/{pattern}": {"attempts": 3}})
    enforced = next((p for p in candidates(PETS) if policies.get(p) == "enforce"), None)
    watched = next((p for p in candidates(PETS) if p in room or policies.get(p) == "audit"), None)
    sent = frame(etcd)
    assert keys(sent.policies) == ({"retry": enforced} if enforced else {})
    assert keys(sent.audits) == ({"retry": watched} if watched else {})
    assert not watched or (b"3" in sent.audits["retry"].text) == (watched in room)
    again = Etcd()
    again.table.apply([c._replace(key=c.key) for c in changes(etcd)], etcd.revision)
    assert frame(again) == sent, "from the disk"


def changes(etcd: Etcd) -> list[Any]:
    from registry.store import Change as Told

    return [Told(key, value, revision) for key, value, revision in etcd.table.saved()]


def test_a_refused_one_replaces_nothing_and_refuses_nobody() -> None:
    """Not even of a kind that guards: what is not known is not watched."""
    etcd = made()
    etcd.put({f"audits/ratelimit/{PETS}": {"limits": []}})
    good = frame(etcd).audits
    etcd.put({f"audits/ratelimit/{PETS}": {"limitz": 1}, "audits/egress/*": b"?"})
    assert frame(etcd).audits == good and frame(etcd).policies == {}
    refused = etcd.table.audits.refused
    assert set(refused) == {("ratelimit", PETS), ("egress", "*")}
    assert refused["ratelimit", PETS].last_good == good["ratelimit"].revision and refused["egress", "*"].last_good == 0
    assert etcd.table.refused == {} and etcd.table.in_force.unknown() == {} and etcd.table.in_force.unsettled() == {}
    etcd.delete(f"audits/ratelimit/{PETS}", "audits/egress/*")
    assert refused == {} and frame(etcd).audits == {}


def test_what_is_watched_makes_no_name_known() -> None:
    """A slip in its key does not turn a 404 into a 503; and another spelling is in force only by itself."""
    etcd = Etcd()
    assert etcd.put({"audits/route/tosy": {}}) == set() and etcd.table.frame("tosy") == Gone("tosy")
    etcd.put({"instances/tosy/1": instance()})
    assert isinstance(sent := etcd.table.frame("tosy"), Stage) and keys(sent.audits) == {"route": "tosy"}
    etcd.put({"audits/route/cats.production": {}, "audits/route/cats/production": {"active": "v2"}})
    said = "another spelling of this key is in force"
    assert etcd.table.shadowed() == [(f"{KEYS.prefix}audits/route/cats/production", said)]


def test_a_text_is_said_once_for_each_room() -> None:
    """Put in one transaction, two documents have one revision, and are two."""
    one, other = PolicyFrame("*", 5, b"one"), PolicyFrame("*", 5, b"other")
    told = said_once([Stage(name, 5, [], {"retry": one}, {"retry": other}) for name in "ab"])
    told += said_once([Change("c", 6, audits={"retry": other})])
    texts = [
        (list((f.policies or {}).values()), list(f.audits.values())) for f in told if isinstance(f, Stage | Change)
    ]
    assert [[p.text for p in ps + au] for ps, au in texts] == [[b"one", b"other"], [b"", b""], [b"other"]]
