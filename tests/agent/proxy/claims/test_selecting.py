"""Claims at the caller's: what may ask for them there, and whose they are."""

from __future__ import annotations

from typing import Any

import pytest

from agent.frames import PolicyFrame
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.claims import AUTHN, BACKUP, CANARY, LAMPS, asks, bearer, heard, lines, put, status
from tests.support.playbook import Playbook
from tests.support.tokens import provider


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (bearer(tier="free", sub="ann"), "v2"),
        (bearer(tier="paid", sub="ann"), "v1"),
        (bearer(sub="ann"), "v1"),
        ("x-tier: free", "v1"),
    ],
)
def test_a_canary_for_the_free_tier(play: Playbook, line: str, version: str) -> None:
    """By a claim of a token that was verified; over two hops as on one host."""
    put(play, "there", authn=AUTHN, route=CANARY)
    asks(play, line)
    name, text = heard(play)
    assert (name == version and b"authorization" in text.lower()) or "x-tier" in line


@pytest.mark.parametrize("agent", ["here", "there"])
def test_a_token_that_does_not_count_makes_no_trip(play: Playbook, agent: str) -> None:
    """Nor does it choose anything, nor take from a limit."""
    put(play, agent, authn=AUTHN, route=CANARY, ratelimit={"limits": [{"name": "all", "rate": "1/h"}]})
    client = asks(play, bearer(other=True, tier="free"))
    assert status(client) == 401 and play.idle and b"policies/" not in client.heard
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authenticated == {f"{LAMPS}\tsignature": 1} and stats.limited == {}
    asks(play, bearer(tier="free"))
    assert heard(play)[0] == "v2"


def test_no_document_no_claim(play: Playbook) -> None:
    """And with one that only watches, none either; nothing unverified selects."""
    for documents in ({}, {"authn": {**AUTHN, "mode": "audit"}}):
        put(play, "there", route=CANARY, **documents)
        asks(play, bearer(tier="free"))
        assert heard(play)[0] == "v1"
        told = explain(play.worker, Explain(f"http://{LAMPS}/", claims={"tier": "free"}))
        reasons = [each["reason"] for each in told["decisions"] if each["decision"] == "no claim holds"]
        assert reasons[0] == f"it names a claim, but no authn document covers {LAMPS}" and len(reasons) == 2


def test_a_document_that_nobody_knows_shuts_the_door_at_the_caller_s(play: Playbook) -> None:
    """Also where the route leads to a service that has none."""
    play.put("spare", service=BACKUP)
    put(
        play,
        "there",
        authn=PolicyFrame(LAMPS, 7, b"", "nobody knows"),
        route={"rules": [{"split": [{"service": BACKUP}]}]},
    )
    assert status(asks(play, bearer(sub="ann"))) == 503 and play.idle


def test_each_user_has_a_limit_of_his_own(play: Playbook) -> None:
    """By claim; who has no token shares one bucket with all others of these."""
    put(play, "there", authn=AUTHN, ratelimit={"limits": [{"name": "user", "rate": "1/h", "key": {"claim": "sub"}}]})
    for line, passes in [("ann", True), ("bob", True), ("ann", False), ("", True), ("", False), ("bob", False)]:
        client = asks(play, *([bearer(sub=line)] if line else []))
        if passes:
            heard(play)
        assert status(client) == (200 if passes else 429)


@pytest.mark.parametrize(
    "documents",
    [
        {"route": {"rules": [{"split": [{"version": "v1"}, {"version": "v2"}], "sticky": {"claim": "sub"}}]}},
        {"balance": {"sticky": {"claim": "sub"}}},
        {"balance": {"algorithm": "ring-hash", "hash": [{"claim": "sub"}]}},
        {"balance": {"algorithm": "maglev", "hash": [{"claim": "sub"}]}},
    ],
)
def test_a_user_stays_where_he_was(play: Playbook, documents: dict[str, Any]) -> None:
    """By claim, whatever else his tokens say."""
    put(play, "there", authn=AUTHN, **documents)
    seen = {}
    for user in range(12):
        names = set()
        for n in range(3):
            asks(play, bearer(sub=f"user-{user}", jti=str(n)))
            names.add(heard(play)[0])
        assert len(names) == 1
        seen[user] = names.pop()
    assert set(seen.values()) == {"v1", "v2"}


def test_guinea_pigs_by_claim(play: Playbook) -> None:
    route = {
        "groups": {"pigs": {"claim": "sub", "where": {"in": ["ann"]}}},
        "rules": [{"match": {"groups": ["pigs"]}, "split": [{"version": "v2"}]}, {"split": [{"version": "v1"}]}],
    }
    put(play, "there", authn=AUTHN, route=route)
    for user, version in (("ann", "v2"), ("bob", "v1")):
        asks(play, bearer(sub=user))
        assert heard(play)[0] == version


def test_callers_agents_ask_rules_with_claims(play: Playbook) -> None:
    """Where `outbound` says so: 403 without the trip."""
    rules = [{"name": "no", "deny": "anybody", "match": {"claims": {"sub": "haxor69"}}}, {"allow": "anybody"}]
    put(play, "there", authn=AUTHN, authz={"rules": rules, "outbound": True})
    assert status(asks(play, bearer(sub="haxor69"))) == 403 and play.idle
    asks(play, bearer(sub="ann"))
    heard(play)


def copies(play: Playbook, backup: dict[str, Any], **lamps: Any) -> dict[str, bytes]:
    """What the request's instance and the copy's hear."""
    play.put(play.instance("spare", agent="here"), service=BACKUP, **backup)
    shadow = {"copies": [{"to": BACKUP, "match": {"claims": {"tier": "free"}}, "percent": 100}]}
    play.put(play.instance("v1", agent="here"), service=LAMPS, authn={**AUTHN, **lamps}, shadow=shadow)
    asks(play, bearer(tier="free", sub="ann"), "x-user: root")
    found = dict([heard(play, "v1")])
    play.passes(0.05)
    if not play.idle:
        found |= dict([heard(play)])
    return found


def test_copies_by_claim(play: Playbook) -> None:
    """Of the free tier; to a service that verifies nobody, with the token or without, as the first one says."""
    found = copies(play, {})
    assert b"authorization" in found["spare"].lower()
    asks(play, bearer(tier="paid"))
    heard(play, "v1")
    play.passes(0.05)
    assert play.idle


def test_a_copy_has_no_token_that_is_not_for_instances(play: Playbook) -> None:
    found = copies(play, {}, forward=False, headers={"x-user": "sub"})
    assert b"x-user: ann" in lines(found["v1"])
    for text in found.values():
        assert b"authorization" not in text.lower() and b"root" not in text
    assert b"x-user" not in found["spare"].lower(), "what its documents have not verified is not told"


def test_a_copy_is_introduced_by_the_documents_of_its_service(play: Playbook) -> None:
    found = copies(play, {"authn": {**AUTHN, "forward": False, "headers": {"x-who": "sub"}}})
    assert b"x-who: ann" in lines(found["spare"]) and b"authorization" not in found["spare"].lower()
    assert b"authorization" in found["v1"].lower() and b"x-who" not in found["v1"].lower()


def test_a_copy_whose_service_does_not_know_the_issuer_is_not_made(play: Playbook) -> None:
    theirs = {"providers": [{**provider(), "issuer": "https://other"}]}
    assert set(copies(play, {"authn": theirs})) == {"v1"}


# Whose they are.


def test_a_claim_does_not_go_over_to_where_a_route_leads(play: Playbook) -> None:
    """Its balance asks for those that its own documents have verified: none; so users are not kept together."""
    places = [play.instance(name, agent="there", via=True) for name in ("s1", "s2", "s3", "s4")]
    split = {"rules": [{"match": {"claims": {"tier": "free"}}, "split": [{"service": BACKUP}]}]}
    sticky = {"algorithm": "round-robin", "sticky": {"claim": "sub"}}
    for documents, most in (({}, 4), ({"authn": AUTHN}, 1)):
        play.put(*places, service=BACKUP, balance=sticky, **documents)
        put(play, "there", authn=AUTHN, route=split)
        names = set()
        for _ in range(8):
            asks(play, bearer(tier="free", sub="ann"))
            names.add(heard(play)[0])
        assert len(names) == most


def test_where_it_leads_the_token_is_judged_before_the_trip(play: Playbook) -> None:
    """By that one's documents, and refused for both."""
    theirs = {"providers": [{**provider(), "audiences": ["backup"]}]}
    play.put(play.instance("spare", agent="there", via=True), service=BACKUP, authn=theirs)
    put(play, "there", authn=AUTHN, route={"rules": [{"split": [{"service": BACKUP}]}]})
    assert status(asks(play, bearer(sub="ann"))) == 401 and play.idle
    asks(play, bearer(sub="ann", aud=["lamps", "backup"]))
    heard(play, "spare")


def test_shadows_ask_for_claims_of_the_service_that_was_called(play: Playbook) -> None:
    """Though the request goes to another, which has verified others."""
    play.put(play.instance("spare", agent="there", via=True), service=BACKUP)
    play.put("dog", service="dogs.production")
    shadow = {"copies": [{"to": "dogs.production", "match": {"claims": {"tier": "free"}}, "percent": 100}]}
    put(play, "there", authn=AUTHN, shadow=shadow, route={"rules": [{"split": [{"service": BACKUP}]}]})
    asks(play, bearer(tier="free"))
    heard(play, "spare")
    play.passes(0.05)
    assert heard(play)[0] == "dog"
