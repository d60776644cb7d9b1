"""Requests to hosts outside the mesh: who gets out, where to, and what is said there."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator

import pytest

from agent.frames import PolicyFrame
from agent.proxy.request.explain import explain
from agent.proxy.resolver import MOST_WAITING, Resolver
from agent.proxy.table.foreign import FRESH_S, MOST_ADDRESSES, MOST_HOSTS, RESOLVE_S
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import watched

CREDENTIALS = base64.b64encode(b"web.production:token")
HEAD = (
    b"%b HTTP/1.1\r\nHost: h.example.com\r\n"
    b"Proxy-Authorization: Basic " + CREDENTIALS + b"\r\nx-shoal-priority: high\r\n%b\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OUT = b"GET http://h.example.com/x?y"


def request(line: bytes = OUT, *more: bytes) -> bytes:
    return HEAD % (line, b"".join(each + b"\r\n" for each in more))


class Names:
    """Somebody's DNS, which answers when the test wants it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.answers: dict[str, list[str]] = {"h.example.com": ["192.0.2.1"]}
        self.silent = False
        self._waiting: list[tuple[Callable[[list[str], str], None], str]] = []

    def resolve(self, name: str, port: int, done: Callable[[list[str], str], None]) -> None:
        self.asked.append((name, port))
        self._waiting.append((done, name))
        if not self.silent:
            self.answer()

    def answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done, name in waiting:
            done(self.answers.get(name, []), "no such name")


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def play(names: Names) -> Iterator[Playbook]:
    with Playbook() as made:
        made.worker.foreign.resolve = names.resolve
        made.worker.callers.configure({hashlib.sha256(b"token").hexdigest(): "web.production"})
        made.put("one")
        made.put("two", service="web.production")
        yield made


def refused(client: Wire, status: int, policy: str = "egress") -> bytes:
    heard = client.heard
    client.heard = b""
    assert heard.startswith(b"HTTP/1.1 %d " % status), heard
    assert b"x-shoal-policy: %b\r\n" % policy.encode() in heard
    return heard


def test_what_is_no_service_passes(play: Playbook) -> None:
    """As it was said, without a word of the mesh; the answer comes back, and the connection is used again."""
    client = play.client()
    client >> request()
    up = play.upstream()
    assert up << (b"GET /x?y HTTP/1.1\r\nhost: h.example.com\r\nvia: 1.1 shoal\r\n\r\n")
    up >> OK
    assert client << b"HTTP/1.1 200 OK\r\n...ok"
    client >> request(b"POST http://h.example.com/", b"content-length: 2") + b"hi"
    assert up << b"POST / HTTP/1.1\r\nhost: h.example.com\r\ncontent-length: 2\r\nvia: 1.1 shoal\r\n\r\nhi"


def test_a_service_is_the_meshs_whatever_dns_says(play: Playbook, names: Names) -> None:
    """Nobody is asked."""
    names.answers["pets.production"] = ["192.0.2.1"]
    client = play.client()
    client >> request(b"GET http://pets.production/")
    assert play.upstream("one") << b"GET / HTTP/1.1\r\n...x-shoal-caller: web.production\r\n..."
    assert not names.asked


@pytest.mark.parametrize("form", ["no credentials", "origin form", "inbound"])
def test_who_does_not_get_out(play: Playbook, names: Names, form: str) -> None:
    """Whoever is no service of this host, does not mean a proxy, or comes from another host: 404 as ever."""
    said = {
        "no credentials": b"GET http://h.example.com/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "origin form": request(b"GET /"),
        "inbound": request(),
    }[form]
    client = play.client(inbound=form == "inbound")
    client >> said
    assert b"no service 'h.example.com' in this mesh" in refused(client, 404, "service")
    assert play.idle and not names.asked


def test_a_name_without_an_address(play: Playbook) -> None:
    """Says that it is neither in the mesh nor outside."""
    client = play.client()
    client >> request(b"GET http://tosy.production/")
    assert b"no service 'tosy.production' in this mesh, and outside" in refused(client, 404)


def test_a_document_allows_and_refuses(play: Playbook, names: Names) -> None:
    """Of the caller, counted as its; the refused name is not even looked up. In audit mode it passes."""
    play.put("two", service="web.production", egress={"allow": ["*.example.com"]})
    client = play.client()
    client >> request(b"GET http://evil.example.net/")
    assert b"evil.example.net:80 is outside the mesh, and not in $.allow" in refused(client, 403)
    assert not names.asked
    assert play.worker.refused == {"egress": 1}
    client >> request()
    assert play.upstream() << b"GET /x?y HTTP/1.1\r\n..."
    play.put("two", service="web.production", egress={"allow": [], "mode": "audit"})
    play.client() >> request()
    assert play.upstream() << b"GET /x?y HTTP/1.1\r\n..."
    assert watched(play.worker, "web.production") == {"egress": 1}


def test_a_document_is_the_callers_alone(play: Playbook) -> None:
    """Requests to a service meet no egress of its own."""
    play.put("one", egress={"allow": []})
    client = play.client()
    client >> request(b"GET http://pets.production/")
    assert play.upstream("one") << b"GET / HTTP/1.1\r\n..."


def test_what_nobody_knows_lets_nothing_out(play: Playbook, names: Names) -> None:
    """It guards; calls inside the mesh go on."""
    play.put("two", service="web.production", egress=PolicyFrame("web.production", 7, b"", "nobody knows"))
    client = play.client()
    client >> request()
    refused(client, 503)
    assert not names.asked
    client >> request(b"GET http://pets.production/")
    assert play.upstream("one") << b"GET / HTTP/1.1\r\n..."


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]:8080", "[::ffff:169.254.0.1]", "100.100.100.200"])
@pytest.mark.parametrize("allow", [None, ["*"]])
def test_metadata_is_refused(play: Playbook, names: Names, host: str, allow: list[str] | None) -> None:
    """Without a document, and by one that allows everything."""
    if allow is not None:
        play.put("two", service="web.production", egress={"allow": allow})
    client = play.client()
    client >> request(b"GET http://%b/latest/meta-data" % host.encode())
    refused(client, 403)
    assert not names.asked


@pytest.mark.parametrize("allow", [None, ["*"], ["*.example.com"], ["h.example.com", "169.254.169.254"]])
def test_no_name_leads_to_metadata(play: Playbook, names: Names, allow: list[str] | None) -> None:
    """Not even one that is allowed, nor beside an address that is harmless, nor as a number."""
    if allow is not None:
        play.put("two", service="web.production", egress={"allow": allow})
    names.answers["h.example.com"] = ["192.0.2.1", "169.254.169.254"]
    client = play.client()
    client >> request()
    assert b"h.example.com:80 leads to a link-local or metadata address" in refused(client, 403)
    if allow in (None, ["*"]):
        names.answers["2852039166"] = ["169.254.169.254"]
        client >> request(b"GET http://2852039166/")
        refused(client, 403)
    assert play.idle


def test_metadata_that_is_written_out_is_reached(play: Playbook, names: Names) -> None:
    """By a service that needs it."""
    play.put("two", service="web.production", egress={"allow": ["169.254.169.254:80"]})
    names.answers["169.254.169.254"] = ["169.254.169.254"]
    play.client() >> request(b"GET http://169.254.169.254/latest")
    assert play.upstream() << b"GET /latest HTTP/1.1\r\n..."


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1"])
def test_an_agent_is_not_its_own_destination(play: Playbook, names: Names, address: str) -> None:
    """By whatever name, at whatever address of this host; another port of it is somebody else's."""
    play.worker.foreign.own_ports = {15001, 15006}
    names.answers["h.example.com"] = [address]
    client = play.client()
    client >> request(b"GET http://h.example.com:15001/")
    assert b"h.example.com:15001 is this agent itself" in refused(client, 508)
    assert play.idle
    client >> request(b"GET http://h.example.com:15002/")
    assert play.upstream() << b"GET / HTTP/1.1\r\n..."


def test_a_silent_resolver_holds_nobody_for_long(play: Playbook, names: Names) -> None:
    """504 in time; what comes late is of use to the next one alone."""
    names.silent = True
    client = play.client()
    client >> request()
    play.passes(RESOLVE_S - 0.1)
    assert client.heard == b""
    play.passes(0.2)
    refused(client, 504)
    names.answer()
    assert play.idle
    client >> request()
    assert play.upstream() << b"GET /x?y HTTP/1.1\r\n..."
    assert len(names.asked) == 1


def test_a_client_that_goes_while_its_host_is_looked_up(play: Playbook, names: Names) -> None:
    """Costs nothing."""
    names.silent = True
    play.client() >> request()
    client = play.client()
    client >> request()
    client.ends()
    names.answer()
    assert play.upstream() << b"GET /x?y HTTP/1.1\r\n..."
    assert play.idle


def test_a_body_waits_for_the_address(play: Playbook, names: Names) -> None:
    """And comes whole."""
    names.silent = True
    client = play.client()
    client >> request(b"POST http://h.example.com/", b"content-length: 6") + b"abc"
    client >> b"def"
    names.answer()
    assert play.upstream() << b"POST / HTTP/1.1\r\n...\r\n\r\nabcdef"


def test_addresses_are_looked_up_again(play: Playbook, names: Names) -> None:
    """Once they are old; a host that has moved is found where it is."""
    client = play.client()
    client >> request()
    up = play.upstream()
    up >> OK
    client >> request()
    up >> OK
    assert names.asked == [("h.example.com", 80)]
    names.answers["h.example.com"] = ["192.0.2.2"]
    play.passes(FRESH_S + 1)
    play.client() >> request()
    assert play.dialled().name == "('192.0.2.2', 80)"
    assert len(names.asked) == 2


def test_another_address_is_tried_where_one_refuses(play: Playbook, names: Names) -> None:
    """A failed answer is nobody's but the program's: it is passed on as it is."""
    names.answers["h.example.com"] = ["192.0.2.1", "192.0.2.2"]
    client = play.client()
    client >> request(b"POST http://h.example.com/", b"content-length: 0")
    first = play.dialled()
    first.refuses()
    play.passes(1)
    second = play.dialled()
    assert first.name != second.name
    second.accepts()
    second >> b"HTTP/1.1 503 No\r\nRetry-After: 0\r\nContent-Length: 0\r\nx-shoal-unsent: 1\r\nx-shoal-shed: 1\r\n\r\n"
    assert client << b"HTTP/1.1 503 No\r\n..."
    assert play.idle


def test_an_answer_may_take_long(play: Playbook) -> None:
    """Longer than a service of the mesh has by default: the program has a limit of its own."""
    client = play.client()
    client >> request()
    up = play.upstream()
    play.passes(120)
    up >> OK
    assert client << b"HTTP/1.1 200 OK\r\n...ok"


def test_what_is_known_has_a_bound(play: Playbook, names: Names) -> None:
    """Of hosts, and of the addresses of each."""
    foreign = play.worker.foreign
    for n in range(3 * MOST_HOSTS):
        names.answers[f"h{n}.example.com"] = [f"192.0.2.{k}" for k in range(20)]
        foreign.ask(b"h%d.example.com" % n, False, 0.0, lambda found: None)
    assert len(foreign._known) == MOST_HOSTS
    assert all(len(known.service.members) == MOST_ADDRESSES for known in foreign._known.values())


@pytest.mark.parametrize("host", ["h.example.com", "evil.example.net", "169.254.169.254", "pets.production"])
@pytest.mark.parametrize("egress", [None, {"allow": ["*.example.com"]}, {"allow": [], "mode": "audit"}])
def test_explained_as_it_is_done(play: Playbook, host: str, egress: dict[str, object] | None) -> None:
    """The same answer, and the same say of the same document."""
    play.put("two", service="web.production", **({} if egress is None else {"egress": egress}))
    told = explain(play.worker, Explain(url=f"http://{host}/", method="GET", caller="web.production"))
    client = play.client()
    client >> request(b"GET http://%b/" % host.encode())
    refusal = client.heard.split()[1:2]
    if play.idle and b"outside of it no address" not in client.heard:
        assert [str(told["status"]).encode()] == refusal
    else:
        assert told["status"] is None
    policies = [entry["policy"] for entry in told["decisions"] if entry["policy"].startswith("egress/")]
    wanted = egress is not None and host != "pets.production"
    assert (set(policies) == {"egress/web.production"}) == wanted


CONNECT = b"CONNECT h.example.com:443"


def test_a_tunnel_leads_out(play: Playbook, names: Names) -> None:
    """Bytes both ways, unread, those too that came early; nobody else gets the connection."""
    play.client() >> request(b"GET http://h.example.com:443/")
    first = play.upstream()
    first >> OK
    client = play.client()
    client >> request(CONNECT) + b"hello"
    up = play.upstream()
    assert up << b"hello"
    assert client << b"HTTP/1.1 200 Connection established\r\n\r\n"
    up >> b"GET / HTTP/1.1\r\n\r\n"
    assert client << b"GET / HTTP/1.1\r\n\r\n"
    client >> b"more"
    assert up << b"more"
    up.ends()
    client.ends()
    assert up.closed
    play.client() >> request(b"GET http://h.example.com:443/")
    assert play.idle
    assert names.asked == [("h.example.com", 443)]


@pytest.mark.parametrize(
    ("said", "status", "policy"),
    [
        (request(b"CONNECT pets.production:443"), 405, "http"),
        (b"CONNECT h.example.com:443 HTTP/1.1\r\nHost: h\r\n\r\n", 405, "http"),
        (request(b"CONNECT /"), 400, "http"),
        (request(b"CONNECT 169.254.169.254:80"), 403, "egress"),
        (request(b"CONNECT nosuch.example.com:443"), 404, "egress"),
    ],
)
def test_tunnels_that_are_not_opened(play: Playbook, said: bytes, status: int, policy: str) -> None:
    """Into the mesh, by strangers, to nowhere."""
    client = play.client()
    client >> said
    refused(client, status, policy)
    assert play.idle


def test_no_tunnel_comes_in(play: Playbook) -> None:
    """Whatever another agent says."""
    client = play.client(inbound=True)
    client >> request(b"CONNECT pets.production:443")
    refused(client, 405, "http")
    assert play.idle


def test_a_tunnel_meets_egress(play: Playbook, names: Names) -> None:
    """By host and port."""
    play.put("two", service="web.production", egress={"allow": ["h.example.com:443"]})
    client = play.client()
    client >> request(b"CONNECT h.example.com:444")
    refused(client, 403)
    client >> request(CONNECT)
    assert play.upstream()
    assert client << b"HTTP/1.1 200 Connection established\r\n\r\n"


def test_a_tunnel_that_finds_nobody(play: Playbook) -> None:
    """Says so, and the client may ask for another."""
    client = play.client()
    client >> request(CONNECT)
    play.dialled().refuses()
    play.passes(2)
    if not play.idle:
        play.dialled().refuses()
    assert client << b"HTTP/1.1 503 Service Unavailable\r\n...cannot connect to 192.0.2.1:443..."


async def test_names_are_looked_up_in_threads() -> None:
    """By the host's resolver; one that has no such name says so, and what is asked of it has a bound."""
    import trio

    told: list[tuple[list[str], str]] = []
    resolver = Resolver()
    resolver.resolve("127.0.0.1", 80, lambda found, why: told.append((found, why)))
    resolver.resolve("a..b", 80, lambda found, why: told.append((found, why)))
    with trio.fail_after(60):
        while len(told) < 2:
            await trio.sleep(0.01)
    assert (["127.0.0.1"], "it has none") in told
    assert any(not found and why for found, why in told)
    told.clear()
    resolver._waiting = MOST_WAITING
    resolver.resolve("127.0.0.1", 80, lambda found, why: told.append((found, why)))
    assert told == [([], "too many names are being looked up")]
