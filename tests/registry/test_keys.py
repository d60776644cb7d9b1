"""Keys: what is built is parsed back, whatever stands in etcd is parsed or refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.keys import Key, Keys, Room, Unknown, owner_of

KEYS = Keys("default")
_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
SERVICE = st.lists(_LABEL, min_size=1, max_size=5).map(".".join)
PATTERN = st.one_of(SERVICE, st.just("*"), st.lists(_LABEL, min_size=1, max_size=4).map(lambda x: "*." + ".".join(x)))
ID = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True)
HOST = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
KIND = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)


@given(SERVICE, ID, PATTERN, HOST, KIND)
def test_what_is_built_is_parsed_back(service: str, instance: str, pattern: str, host: str, kind: str) -> None:
    """Every kind of key."""
    for built, expected in (
        (KEYS.instance(service, instance), Key(Room.INSTANCES, service, instance)),
        (KEYS.health(service, instance), Key(Room.HEALTH, service, instance)),
        (KEYS.instance(service, f"{instance}@{host}"), Key(Room.INSTANCES, service, f"{instance}@{host}")),
        (KEYS.health(service, f"{instance}@{host}"), Key(Room.HEALTH, service, f"{instance}@{host}")),
        (KEYS.agent(host), Key(Room.AGENTS, host)),
        (KEYS.ack(host), Key(Room.ACKS, host)),
        (KEYS.seen(host), Key(Room.SEEN, host)),
        (KEYS.version(host), Key(Room.VERSIONS, host)),
        (KEYS.tally(service, host), Key(Room.TALLIES, service, host)),
        (KEYS.tally(service, host, own=True), Key(Room.REPORTS, service, host)),
        (KEYS.policy(kind, pattern), Key(Room.POLICIES, kind, pattern)),
        (KEYS.identity("grants", pattern), Key(Room.IDENTITY, "grants", pattern)),
        (KEYS.identity("hosts", host), Key(Room.IDENTITY, "hosts", host)),
        (KEYS.identity("people", host), Key(Room.IDENTITY, "people", host)),
        (KEYS.identity("bundle"), Key(Room.IDENTITY, "bundle")),
        (KEYS.request(host, "agent"), Key(Room.REQUESTS, host, "agent")),
        (KEYS.signing(host, f"svc/{service}"), Key(Room.SIGNING, host, f"svc/{service}")),
        (KEYS.signed(host, "issuer"), Key(Room.SIGNED, host, "issuer")),
        (KEYS.rejection(kind, pattern), Key(Room.REJECTED, kind, pattern)),
    ):
        assert KEYS.parse(built) == expected
        own = f"{KEYS.room(Room.HOSTS)}{host}/{expected.room.value}/"
        assert built.startswith(own if owner_of(expected.second) else KEYS.room(expected.room))
        assert KEYS.canonical(expected) == built
        assert isinstance(Keys("another").parse(built), Unknown)


@given(st.sampled_from(["web-1", "a.b"]))
def test_what_a_host_can_prove_stands_under_it(host: str) -> None:
    """In the one range that agents watch, and under no room of its own."""
    start, end = KEYS.watched
    assert start <= KEYS.trust(host) < end
    assert KEYS.parse(KEYS.trust(host)) == Key(Room.TRUST, host)
    assert KEYS.canonical(Key(Room.TRUST, host)) == KEYS.trust(host)
    assert isinstance(KEYS.parse(KEYS.room(Room.TRUST) + host), Unknown)


@given(
    st.one_of(st.text(), st.builds("/shoal/default/{}/{}".format, st.sampled_from([r.value for r in Room]), st.text()))
)
def test_anything_is_parsed_or_refused(text: str) -> None:
    """Nobody can put a key that ends an agent; and what is parsed means one thing only."""
    found = KEYS.parse(text)
    if isinstance(found, Unknown):
        assert found.reason
    elif found.room is not Room.EVENTS:
        assert KEYS.parse(KEYS.canonical(found)) == found


@given(st.text(max_size=60))
def test_what_stands_among_the_policies_and_names_nothing_is_refused_where_it_stands(rest: str) -> None:
    """Its refusal is found under the same spelling, and no two of them are one."""
    found = KEYS.parse(KEYS.room(Room.POLICIES) + rest)
    if isinstance(found, Unknown):
        assert found.policy is not None
        assert KEYS.spelled(*found.policy) == KEYS.room(Room.POLICIES) + rest
        assert KEYS.rejection(*found.policy) == KEYS.room(Room.REJECTED) + rest
        assert KEYS.parse(KEYS.rejection(*found.policy)) == Key(Room.REJECTED, *found.policy)


@given(st.sampled_from(["web-1", "a.b"]), st.text(min_size=1, max_size=40))
def test_an_event_stands_under_the_host_that_tells(host: str, id: str) -> None:
    """In the one range that agents watch, and in that host's own."""
    key = KEYS.own_event(host, id)
    assert KEYS.parse(key) == Key(Room.EVENTS, id, host)
    assert KEYS.canonical(Key(Room.EVENTS, id, host)) == key
    assert key.startswith(KEYS.under(Room.HOSTS, host))


def test_slashes_in_a_service_mean_dots() -> None:
    """As people type them; capitals too."""
    prefix = "/shoal/default/"
    assert KEYS.parse(prefix + "instances/pets/production/web-1") == Key(Room.INSTANCES, "pets.production", "web-1")
    assert KEYS.parse(prefix + "policies/route/Pets/Production") == Key(Room.POLICIES, "route", "pets.production")
    assert KEYS.parse(prefix + "policies/route/*/production") == Key(Room.POLICIES, "route", "*.production")
    assert KEYS.instance("pets/production", "1") == prefix + "instances/pets.production/1"
    own = KEYS.parse(prefix + "hosts/web-1/instances/pets/production/1")
    assert own == Key(Room.INSTANCES, "pets.production", "1@web-1")
    assert KEYS.instance("pets/production", "1@web-1") == prefix + "hosts/web-1/instances/pets.production/1"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("/shoal/default", "not under /shoal/default/"),
        ("/shoal/default2/agents/a", "not under /shoal/default/"),
        (
            "/shoal/default/instance/pets/1",
            "'instance' is none of: acks, agents, audits, audits_rejected, claims, conditions, confirmed, events",
        ),
        ("/shoal/default/", "'' is none of: acks"),
        ("/shoal/default/instances/pets", "no instance id behind the service"),
        ("/shoal/default/instances/pets/", "'' is no instance id"),
        ("/shoal/default/instances//1", "not a DNS label"),
        ("/shoal/default/instances/pets/-1", "the first a letter or digit"),
        ("/shoal/default/health/a.b.c.d.e.f/1", "has 6 labels"),
        ("/shoal/default/policies/Route/pets", "'Route' is no policy kind"),
        ("/shoal/default/policies/route", "no service behind the kind"),
        ("/shoal/default/policies/route/pets.*", "not a DNS label"),
        ("/shoal/default/agents/web 1", "is no host name"),
        ("/shoal/default/agents/", "'' is no host name"),
        ("/shoal/default/hosts/web-1", "'' is none of: events, health, instances"),
        ("/shoal/default/hosts/web-1/policies/route/pets", "'policies' is none of: events, health, instances"),
        ("/shoal/default/hosts/web-1/instances/pets", "no instance id behind the service"),
        ("/shoal/default/hosts/web-1/instances/pets/a@web-2", "is no instance id"),
        ("/shoal/default/hosts/web-1/events/", "ends with a slash"),
        ("/shoal/default/hosts//events/a", "'' is no host name"),
        ("/shoal/default/reports/web-1/seen/pets", "'seen' is not: tallies"),
        ("/shoal/default/reports/web-1", "'' is not: tallies"),
        ("/shoal/default/hosts//instances/pets/a", "'' is no host name"),
        ("/shoal/default/instances/pets/a@web-1", "is no instance id"),
        ("/shoal/default/events/", "ends with a slash"),
        ("/shoal/default/events/" + "x" * 1100, "longer than 1024 bytes"),
        ("/shoal/default/events/" + "é" * 600, "longer than 1024 bytes"),
    ],
)
def test_what_is_said_of_a_key_that_is_none(key: str, reason: str) -> None:
    """What is wrong with it, in a line."""
    found = KEYS.parse(key)
    assert isinstance(found, Unknown)
    assert reason in found.reason
    assert len(found.reason) < 300


@pytest.mark.parametrize("mesh", ["", "a/b", "A", "-a", "a.b", "x" * 64, "a\n"])
def test_a_mesh_is_a_dns_label(mesh: str) -> None:
    """Else its prefix could be part of another one."""
    with pytest.raises(ValueError, match="no mesh name"):
        Keys(mesh)


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "a b", "a\n", "é", "x" * 300, "a@", "@a", "a@b@c"])
def test_nothing_is_built_of_bad_names(bad: str) -> None:
    """Whoever asks for such a key is told."""
    for build in (KEYS.agent, KEYS.ack, KEYS.seen, KEYS.version, lambda bad: KEYS.instance("pets", bad)):
        with pytest.raises(ValueError):
            build(bad)
    with pytest.raises(ValueError):
        KEYS.policy(bad, "*")


OF_FEW = {Room.REQUESTS, Room.SIGNED, Room.SIGNING}
"""Who is concerned watches them by himself."""
UNWATCHED = {
    Room.ACKS,
    Room.REPORTS,
    Room.SCALE,
    Room.SCALING,
    Room.SEEN,
    Room.TALLIES,
    Room.TOLD,
    Room.UNDELIVERED,
    Room.VERSIONS,
} | OF_FEW


def test_agents_watch_one_range_without_the_noise() -> None:
    """Everything but what is written often or kept for people, and nothing of another mesh."""
    start, end = KEYS.watched
    inside = {room for room in Room if start <= KEYS.room(room) + "a" < end and start <= KEYS.room(room) + "z" < end}
    assert inside == set(Room) - UNWATCHED - {Room.TRUST}
    for room in UNWATCHED:
        assert not start <= KEYS.room(room) < end
        assert not start <= KEYS.room(room) + "\U0010ffff" < end
    assert not start <= Keys("default-2").agent("a") < end
