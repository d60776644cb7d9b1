"""Documents of trust: bundles, grants, revocations. And when certificates are renewed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.bundles import Bundle, bundle_document, parse_bundle, succeeds
from agent.identity.grants import Grant, Grants, parse_grant
from agent.identity.renewal import alarm_at_s, renew_at_s, wait_s
from agent.identity.revocations import Revocations, Revoked, parse_revocations
from policies.language.names import matches
from tests.support.identity import NOW_S, TRUST_DOMAIN, Authority

OURS = Authority()


# Bundles.


@given(st.integers(0, 1 << 53), st.integers(0, 1 << 31))
def test_a_bundle_comes_back(sequence: int, refresh_s: int) -> None:
    """As it was."""
    bundle = Bundle(TRUST_DOMAIN, OURS.bundle.roots + Authority().bundle.roots, sequence, refresh_s)
    assert parse_bundle(TRUST_DOMAIN, bundle_document(bundle)) == bundle


def test_a_bundle_is_what_the_standard_says() -> None:
    """X509-SVID section 6.1: use, no kid, one certificate; the key beside it is the certificate's."""
    document = json.loads(bundle_document(OURS.bundle))
    (entry,) = document["keys"]
    assert document["spiffe_sequence"] == 1
    assert entry["use"] == "x509-svid" and "kid" not in entry and len(entry["x5c"]) == 1
    assert (entry["kty"], entry["crv"], len(entry["x"]), len(entry["y"])) == ("EC", "P-256", 43, 43)


def test_a_bundle_names_its_trust_domain() -> None:
    """So whoever reads ours need not be told; another's may be told apart by nothing but where it stands."""
    text = bundle_document(OURS.bundle)
    assert parse_bundle("", text) == OURS.bundle
    with pytest.raises(ValueError, match=r"\$\.trust_domain: 'default\.shoal', where .*partner\.example is expected"):
        parse_bundle("partner.example", text)
    foreign = json.loads(text)
    del foreign["trust_domain"]
    assert parse_bundle("partner.example", json.dumps(foreign).encode()).trust_domain == "partner.example"
    with pytest.raises(ValueError, match=r"\$\.trust_domain: missing"):
        parse_bundle("", json.dumps(foreign).encode())
    with pytest.raises(ValueError, match="no trust domain"):
        parse_bundle("", json.dumps({**foreign, "trust_domain": "Default.Shoal/x"}).encode())


def test_other_entries_are_passed_over() -> None:
    """Section 6.2: keys for JWTs, entries without a certificate, and fields that we do not know."""
    document = json.loads(bundle_document(OURS.bundle))
    document["keys"] += [{"use": "jwt-svid", "kty": "RSA", "kid": "x", "n": "AQAB", "e": "AQAB"}, {"use": "x509-svid"}]
    document["keys"].append(document["keys"][0])
    document["more"] = 1
    assert parse_bundle(TRUST_DOMAIN, json.dumps(document).encode()) == OURS.bundle


def test_bundles_that_are_none() -> None:
    """Say what is wrong, and where."""
    leaf = json.loads(bundle_document(Bundle(TRUST_DOMAIN, (OURS.svid()[0],))))
    for text, said in (
        (b"", "no SPIFFE bundle"),
        (b"{}", "keys"),
        (b'{"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}', "$.keys[0].x5c[0]"),
        (b'{"keys": [{"use": "x509-svid", "x5c": ["?"]}]}', "$.keys[0].x5c[0]"),
        (b'{"keys": [], "spiffe_sequence": -1}', "$.spiffe_sequence"),
        (json.dumps(leaf).encode(), "may not sign others"),
        (b" " * 300_000, "more than"),
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            parse_bundle(TRUST_DOMAIN, text)
        assert said in str(caught.value)


def test_no_bundle_goes_back() -> None:
    """Neither to a lower sequence, nor to another of the same, nor to another domain's."""
    newer = OURS.bundle._replace(sequence=2)
    assert succeeds(OURS.bundle, newer)
    assert not succeeds(newer, OURS.bundle)
    assert not succeeds(newer, newer._replace(roots=()))
    assert not succeeds(OURS.bundle, newer._replace(trust_domain="partner.example"))


# Grants.

PATTERNS = st.sampled_from(["*", "*.production", "*.staging", "pets.production", "pets.staging", "*.eu.staging"])
SERVICES = st.sampled_from(["pets.production", "pets.staging", "pets.eu.staging", "pets", "production"])
HOSTS = st.lists(st.sampled_from(["web-1", "web-2"]), max_size=2)


@given(st.dictionaries(PATTERNS, HOSTS), SERVICES, HOSTS, st.sampled_from(["web-1", "web-2"]))
def test_grants_add_up(documents: dict[str, list[str]], service: str, members: list[str], host: str) -> None:
    """A host of the mesh may hold what any pattern says; without one nothing; a stranger nothing either."""
    grants = Grants(members, {pattern: Grant(hosts) for pattern, hosts in documents.items()})
    given_by = [pattern for pattern, hosts in documents.items() if host in hosts and matches(pattern, service)]
    pattern = grants.pattern_for(host, service)
    assert bool(pattern) == (host in members and bool(given_by))
    assert not pattern or pattern in given_by


def test_grants_that_are_none() -> None:
    """Hosts are names: patterns of hosts, and what cannot stand in a certificate, are refused."""
    assert parse_grant(b'{"hosts": ["web-1", "web-2"], "description": "x"}').hosts == ["web-1", "web-2"]
    for text, said in (
        (b'{"hosts": ["*"]}', "$.hosts[0]"),
        (b'{"hosts": ["web-1", "web-*"]}', "$.hosts[1]"),
        (b'{"hosts": ["' + b"a" * 65 + b'"]}', "64"),
        (b'{"host": ["web-1"]}', "did you mean 'hosts'?"),
        (b"[]", "expected an object"),
        (b'{"hosts": "web-1"}', "$.hosts"),
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            parse_grant(text)
        assert said in str(caught.value)


# Revocations.


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(NOW_S + seconds, UTC)


MOMENTS = st.integers(-100, 100).map(moment)
ENTRIES = st.one_of(
    st.builds(Revoked, MOMENTS, serial=st.sampled_from(["1", "ab"]), reason=st.sampled_from(["", "lost"])),
    st.builds(Revoked, MOMENTS, key=st.sampled_from(["0" * 64, "f" * 64])),
    st.builds(Revoked, MOMENTS, host=st.sampled_from(["web-1", "web-2"]), before=MOMENTS, reason=st.just("stolen")),
    st.builds(Revoked, MOMENTS, service=st.sampled_from(["pets", "shop"]), before=MOMENTS),
    st.builds(
        Revoked,
        MOMENTS,
        person=st.just("ada"),
        before=MOMENTS,
        reason=st.sampled_from(["", "lost"]),
        by=st.sampled_from(["", "bob"]),
        at=MOMENTS,
    ),
)
MANY = st.lists(ENTRIES, max_size=8).map(Revocations)


@given(MANY, MANY, MANY)
def test_merging_is_a_union(one: Revocations, two: Revocations, three: Revocations) -> None:
    """In any order, and any number of times: agents that heard different things agree in the end."""
    early = NOW_S - 1000
    assert one.merged(two, early) == two.merged(one, early)
    assert one.merged(two, early).merged(three, early) == one.merged(two.merged(three, early), early)
    assert one.merged(one, early) == one
    assert len(one.merged(two, early)) >= max(len(one), len(two))


def test_what_is_told_of_an_entry_was_said_together() -> None:
    """The reason of one is not put into another's mouth; who revokes once more without a reason takes none away."""
    early = Revoked(moment(9), host="web-1", before=moment(1), reason="stolen", by="ada", at=moment(1))
    late = Revoked(moment(9), host="web-1", before=moment(2), by="bob", at=moment(2))
    (held,) = Revocations([late, early]).standing(NOW_S)
    assert (held.before, held.by, held.reason) == (moment(2), "ada", "stolen")
    assert str(held) == f"host web-1 is revoked since {moment(2).isoformat()[:19]}Z, by ada (stolen)"
    assert Revocations([early]).standing(NOW_S + 9) == []


@given(MANY, MANY, st.integers(-100, 100))
def test_it_only_grows_until_it_is_over(one: Revocations, two: Revocations, seconds: int) -> None:
    """What was heard once is not lost by hearing less, and goes when what it concerns has ended."""
    now_s = NOW_S + seconds
    assert one.merged(two, now_s).merged(Revocations(), now_s) == one.merged(two, now_s)
    assert len(one.merged(two, NOW_S + 101)) == 0


@given(MANY)
def test_revocations_come_back(revocations: Revocations) -> None:
    """From their document."""
    assert parse_revocations(revocations.document()) == revocations


def test_revocations_that_are_none() -> None:
    """Say what is wrong, and where."""
    at = '"until": "2026-03-01T12:00:00Z"'
    for entry, said in (
        (f"{{{at}}}", "exactly one"),
        (f'{{{at}, "serial": "1", "host": "web-1"}}', "exactly one"),
        (f'{{{at}, "serial": "0A"}}', "serial"),
        (f'{{{at}, "serial": "xyz"}}', "xyz"),
        (f'{{{at}, "key": "00"}}', "key"),
        (f'{{{at}, "host": "web-1"}}', "before"),
        (f'{{{at}, "service": "Pets", "before": "2026-03-01T12:00:00Z"}}', "spelled 'pets'"),
        ('{"serial": "1"}', "until"),
        ('{"serial": "1", "until": "2026-03-01T12:00:00"}', "timezone"),
        (f'{{{at}, "serial": "1", "hosts": 1}}', "hosts"),
    ):
        with pytest.raises(ValueError, match=r"\$\.revoked\[0\]") as caught:
            parse_revocations(f'{{"revoked": [{entry}]}}'.encode())
        assert said in str(caught.value)


# Renewal.


@given(st.floats(0, 1, exclude_max=True), st.floats(3600, 604800))
def test_renewal_is_at_half_of_a_life(chance: float, life_s: float) -> None:
    """Give or take a tenth of that, and always before the alarm."""
    at_s = renew_at_s(0.0, life_s, chance)
    assert 0.45 * life_s <= at_s <= 0.55 * life_s < alarm_at_s(0.0, life_s) < life_s


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_waiting_is_bounded(failures: int, chance: float) -> None:
    """Seconds at first, and never more than five minutes."""
    assert 2.5 <= wait_s(failures, chance) <= 300
    assert wait_s(1, chance) <= 5
