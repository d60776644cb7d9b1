"""Rate limits, as those who meet them see them: what answers say, whom a limit is for, and on whose side it is."""

from __future__ import annotations

from typing import Any

import pytest

from agent.frames import PolicyFrame
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import AGENT, GET, OK, SERVICE, STRANGER

DELIVER = GET[:-2] + b"x-shoal-endpoint: pets.production/one\r\n%b\r\n"
LIMITED = b"HTTP/1.1 429 Too Many Requests\r\n...\r\nx-shoal-policy: ratelimit\r\n..."


def limit(name: str = "all", rate: Any = "1/h", burst: int = 2, **more: Any) -> dict[str, Any]:
    return {"limits": [{"name": name, "rate": rate, "burst": burst, **more}]}


def beside(play: Playbook, **more: Any) -> None:
    """Of the service's side, of an instance on this host."""
    play.put(play.instance("one", agent="here"), ratelimit=limit(side="service", **more))


def served(play: Playbook, client: Wire, request: bytes = GET, says: bytes = OK) -> bytes:
    """The answer to a request that an instance gets."""
    assert client >> request
    if not play.idle:
        up = play.upstream()
        up.heard = b""
        assert up >> says
        up.breaks()
    heard, client.heard = client.heard, b""
    return heard


# What answers say.


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"500 Internal Server Error"])
def test_every_answer_of_an_instance_says_what_is_left(status: bytes) -> None:
    """As `draft-ietf-httpapi-ratelimit-headers` has it: what remains, and when it will be whole again."""
    with Playbook() as play:
        play.put("one", ratelimit=limit(rate="60/m", burst=3))
        for left, until in ((2, 1), (1, 2), (0, 3)):
            heard = served(play, play.client(), says=b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
            assert heard.startswith(b"HTTP/1.1 " + status)
            assert b'\r\nratelimit-policy: "all";q=60;w=60\r\nratelimit: "all";r=%d;t=%d\r\n' % (left, until) in heard
        assert served(play, play.client()).count(b"ratelimit: ") == 1


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"route": {"rules": [{"respond": {"status": 204}}]}}, b"204"),
        ({"route": {"rules": [{"redirect": {"location": "https://example.com/"}}]}}, b"302"),
        ({"fault": {"expires": "2999-01-01T00:00:00Z", "rules": [{"abort": {"status": 418}}]}}, b"418"),
    ],
)
def test_answers_of_the_mesh_itself_say_it_too(more: dict[str, Any], status: bytes) -> None:
    """Whoever gives them."""
    with Playbook() as play:
        play.put("one", ratelimit=limit(), **more)
        heard = served(play, play.client())
        assert heard.startswith(b"HTTP/1.1 " + status) and b'\r\nratelimit: "all";r=1;' in heard


def test_of_several_limits_the_one_that_leaves_least_is_told() -> None:
    """And only those that the request takes from."""
    with Playbook() as play:
        search = {"name": "search", "rate": "1/h", "burst": 3, "match": {"path": {"prefix": "/search"}}}
        play.put("one", ratelimit={"limits": [*limit(burst=9)["limits"], search]})
        assert b'\r\nratelimit: "all";r=8;' in served(play, play.client())
        heard = served(play, play.client(), GET.replace(b"GET /", b"GET /search"))
        assert b'\r\nratelimit: "search";r=2;' in heard and heard.count(b"ratelimit: ") == 1


def test_what_the_service_says_of_its_own_limits_stays() -> None:
    """The field is a list of policies."""
    with Playbook() as play:
        play.put("one", ratelimit=limit())
        own = b'HTTP/1.1 200 OK\r\nRateLimit: "own";r=7;t=1\r\nContent-Length: 0\r\n\r\n'
        heard = served(play, play.client(), says=own)
        assert b'\r\nRateLimit: "own";r=7;t=1\r\n' in heard and b'\r\nratelimit: "all";r=1;' in heard


def test_a_limit_that_is_only_watched_is_not_told() -> None:
    """Nor is one that nothing matches."""
    nowhere = limit(match={"path": {"exact": "/nowhere"}})
    for document in ({**limit(), "mode": "audit"}, nowhere, {"limits": []}):
        with Playbook() as play:
            play.put("one", ratelimit=document)
            assert b"ratelimit" not in served(play, play.client())


# Whom it is for.


def by_address(**more: Any) -> dict[str, Any]:
    return limit(burst=1, key={"address": True, **more})


def test_each_client_address_has_a_bucket() -> None:
    """Whatever it says of itself; of IPv6 each network of one client's."""
    with Playbook() as play:
        play.put("one", ratelimit=by_address())
        forged = GET[:-2] + b"X-Forwarded-For: 192.0.2.9\r\n\r\n"
        for n, address in enumerate(("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1")):
            assert served(play, play.client(peer=address)).startswith(b"HTTP/1.1 200"), n
            assert served(play, play.client(peer=address), forged).startswith(b"HTTP/1.1 429")
        assert served(play, play.client(peer="2001:db8::ffff:2")).startswith(b"HTTP/1.1 429")


def test_behind_proxies_it_is_what_they_say() -> None:
    """So many as are trusted, and none before them."""
    with Playbook() as play:
        play.put("one", ratelimit=by_address(trusted_hops=1))
        for forged in (b"", b"198.51.100.%d, "):
            for n, status in ((1, b"200"), (2, b"200")):
                way = (forged % n if forged else b"") + b"192.0.2.%d" % n
                heard = served(play, play.client(), GET[:-2] + b"X-Forwarded-For: %b\r\n\r\n" % way)
                assert heard.startswith(b"HTTP/1.1 " + (b"429" if forged else status))


def test_an_agent_says_whose_request_it_is() -> None:
    """Beside the service, of a request that another agent brings: its client's address, and not the agent's own."""
    with Playbook(host="here") as play:
        beside(play, burst=1, key={"address": True})
        for who, status in ((b"10.0.0.1", b"200"), (b"10.0.0.2", b"200"), (b"10.0.0.1", b"429")):
            request = DELIVER % (b"Via: 1.1 shoal\r\nX-Forwarded-For: 198.51.100.7, %b\r\n" % who)
            assert served(play, play.client(inbound=True, peer=AGENT), request).startswith(b"HTTP/1.1 " + status)
        for forged, status in ((b"", b"200"), (b"X-Forwarded-For: 10.0.0.9\r\n", b"429")):
            stranger = play.client(inbound=True, peer=STRANGER)
            assert served(play, stranger, GET[:-2] + forged + b"\r\n").startswith(b"HTTP/1.1 " + status)


def test_an_explanation_is_of_a_client_too() -> None:
    """Where it is said whose the request would be."""
    with Playbook() as play:
        play.put("one", ratelimit=by_address())
        served(play, play.client(peer="192.0.2.1"))
        for address, status in (("192.0.2.1", 429), ("192.0.2.2", None)):
            assert explain(play.worker, Explain(f"{SERVICE}/", address=address))["status"] == status


# On whose side.


@pytest.mark.parametrize("peer", [AGENT, STRANGER])
def test_a_limit_of_the_service_is_enforced_beside_it(peer: str) -> None:
    """Whoever comes, also past every agent."""
    with Playbook(host="here") as play:
        beside(play)
        for left in (1, 0):
            heard = served(play, play.client(inbound=True, peer=peer), DELIVER % b"")
            assert heard.startswith(b"HTTP/1.1 200") and b'\r\nratelimit: "all";r=%d;' % left in heard
        client = play.client(inbound=True, peer=peer)
        assert client >> DELIVER % b"" and client << LIMITED and play.idle


def test_of_a_caller_on_the_same_host_it_is_counted_once() -> None:
    """There is no further hop, and no further token."""
    with Playbook(host="here") as play:
        beside(play)
        found = [served(play, play.client())[9:12] for _ in range(4)]
        assert found == [b"200", b"200", b"429", b"429"]
        assert play.worker.table.services[SERVICE].stats.limited == {"all": 2}


def test_the_callers_agent_does_not_count_it() -> None:
    """It passes on what it is told, and tries nobody else for it."""
    with Playbook(host="elsewhere") as play:
        far = [play.instance(name, agent="here", via=True) for name in ("one", "two")]
        play.put(*far, ratelimit=limit(burst=1, side="service"), retry={"attempts": 3})
        for _ in range(3):
            assert served(play, play.client()).startswith(b"HTTP/1.1 200")
        told = b'HTTP/1.1 429 X\r\nx-shoal-unsent: 1\r\nratelimit: "all";r=0;t=9\r\nContent-Length: 0\r\n\r\n'
        heard = served(play, play.client(), says=told)
        assert heard.startswith(b"HTTP/1.1 429") and b'ratelimit: "all";r=0;t=9\r\n' in heard and play.idle
        stats = play.worker.table.services[SERVICE].stats
        assert (stats.limited, stats.failures) == ({}, {})


def test_each_side_has_its_own() -> None:
    """A document may have both, and what is told is what leaves less."""
    with Playbook(host="here") as play:
        both = [*limit("mine", burst=9)["limits"], *limit("yours", burst=3, side="service")["limits"]]
        play.put(play.instance("one", agent="here"), ratelimit={"limits": both})
        assert b'\r\nratelimit: "yours";r=2;' in served(play, play.client())
        heard = served(play, play.client(inbound=True), DELIVER % b"")
        assert b'\r\nratelimit: "yours";r=1;' in heard
        assert b'\r\nratelimit: "yours";r=0;' in served(play, play.client())
        heard = served(play, play.client())
        assert heard.startswith(b"HTTP/1.1 429") and heard.count(b"ratelimit: ") == 1
        buckets = play.worker.table.services[SERVICE].buckets
        assert buckets is not None and buckets.demand("mine") == 3 and buckets.demand("yours") == 4


def test_what_an_explanation_says_of_it() -> None:
    """On the side where it is; and nothing is taken."""
    with Playbook(host="here") as play:
        beside(play)
        for _ in range(3):
            for instance in (None, f"{SERVICE}/one"):
                found = explain(play.worker, Explain(f"{SERVICE}/", inbound=instance))
                assert [each["decision"] for each in found["decisions"] if each["phase"] == "admit"] == ["goes on"]
        for _ in range(2):
            served(play, play.client())
        assert explain(play.worker, Explain(f"{SERVICE}/", inbound=f"{SERVICE}/one"))["status"] == 429
        assert explain(play.worker, Explain(f"{SERVICE}/"))["status"] == 429


def test_in_audit_it_is_counted_and_refuses_nobody() -> None:
    """As on the caller's side."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), ratelimit={**limit(side="service"), "mode": "audit"})
        for _ in range(5):
            assert served(play, play.client(inbound=True), DELIVER % b"").startswith(b"HTTP/1.1 200")
        stats = play.worker.table.services[SERVICE].stats
        assert stats.limited == {} and stats.audit == {
            f"ratelimit\t{SERVICE}\tpassed\tpassed": 2,
            f"ratelimit\t{SERVICE}\tpassed\trefused by all": 3,
        }


def test_a_document_that_nobody_knows_lets_nobody_in() -> None:
    """It may have been the service's own: neither out to it, nor in."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), ratelimit=PolicyFrame(SERVICE, 3, b"", "nobody knows"))
        for client, request in ((play.client(), GET), (play.client(inbound=True), DELIVER % b"")):
            heard = served(play, client, request)
            assert heard.startswith(b"HTTP/1.1 503") and b"x-shoal-policy: ratelimit" in heard


def test_a_limit_that_changes_sides_keeps_what_was_counted() -> None:
    """As any edit does."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), ratelimit=limit())
        assert served(play, play.client()).startswith(b"HTTP/1.1 200")
        beside(play)
        assert b'\r\nratelimit: "all";r=0;' in served(play, play.client(inbound=True), DELIVER % b"")
        assert served(play, play.client(inbound=True), DELIVER % b"").startswith(b"HTTP/1.1 429")
