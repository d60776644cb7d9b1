"""The mesh's own words: who is believed, for requests and for answers, on real sockets."""

from __future__ import annotations

import pytest

from agent.frames import Commit, Where
from agent.proxy.http1.head import parse_request
from agent.proxy.messages import head, words
from tests.support.proxy import CREDENTIALS, GET, OK, STRANGER, Client, Proxy, endpoint, entrust, running_proxy

SAID = {
    b"x-shoal-caller": b"root",
    b"x-shoal-endpoint": b"pets.production/two",
    b"x-shoal-explain": b"1",
    b"x-shoal-deadline": b"60000",
    b"x-shoal-shadow": b"shadow",
    b"x-shoal-priority": b"critical",
    b"x-shoal-replay": b"7",
    b"x-shoal-no-fault": b"1",
    b"x-shoal-unsent": b"1",
    b"x-shoal-no-retry": b"1",
    b"x-shoal-shed": b"1",
    b"x-shoal-attempt": b"9",
    b"x-shoal-whatever": b"1",
}
EVERYTHING = GET[:-2] + b"".join(b"%b: %b\r\n" % said for said in SAID.items()) + b"\r\n"
MARKS = {b"x-shoal-shadow: shadow", b"x-shoal-priority: critical", b"x-shoal-replay: 7"}


class Seen:
    """An instance that keeps what it was sent, and answers as it is told."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def __call__(self, client: Client) -> None:
        while True:
            self.heads.append(await client.head())
            await client.send(self.answer)

    def words(self) -> set[bytes]:
        """Of the last request, but for the deadline, which agents give themselves."""
        lines = self.heads[-1].lower().split(b"\r\n")
        return {line for line in lines if line.startswith(b"x-shoal-") and b"deadline" not in line}


def test_every_word_that_has_a_meaning_is_in_a_table() -> None:
    """A code without a row would be believed from nobody, and nobody would notice."""
    codes = {value for name, value in vars(head).items() if name.startswith("SHOAL_")}
    assert codes == words.REQUESTS.keys() | words.ANSWERS.keys()
    assert all(head.is_word(code) for code in codes)


@pytest.mark.parametrize(
    ("sender", "left"),
    [
        (words.LOCAL, {b"deadline", b"replay", b"no-fault", b"explain"}),
        (words.LOCAL | words.NAMED, {b"deadline", b"shadow", b"priority", b"replay", b"no-fault", b"explain"}),
        (words.CLIENT, {b"deadline", b"replay", b"no-fault"}),
        (words.CLIENT | words.NAMED, {b"deadline", b"shadow", b"priority", b"replay", b"no-fault"}),
        (words.AGENT, {b"deadline", b"shadow", b"priority", b"replay", b"explain", b"caller", b"endpoint"}),
        (words.STRANGER, set()),
    ],
)
def test_what_is_left_of_a_request(sender: int, left: set[bytes]) -> None:
    """Field by field, for each who may send one; everything else of the request stays as it was."""
    request = parse_request(EVERYTHING[:-4])
    assert request.has_words
    words.disbelieve(request, sender)
    assert {field.name[8:] for field in request.fields if field.name.startswith(b"x-shoal-")} == left
    assert [field.name for field in request.fields if field.code == head.HOST] == [b"host"]
    assert all(field in request.fields for field in request.special)
    assert len(request.wires) == 1 + len(left & {b"shadow", b"priority", b"replay"})


async def two_instances(proxy: Proxy, one: Seen, two: Seen) -> None:
    """Of this host; only the first one is healthy."""
    proxy.worker.table.host = "here"
    ports = await proxy.upstream(one), await proxy.upstream(two)
    proxy.put(endpoint(ports[0], "one", agent="here"), endpoint(ports[1], "two", agent="here", healthy=False))


async def test_a_stranger_at_the_inbound_listener_says_nothing() -> None:
    """He is served as a client without an agent is: he chooses no instance, is nobody, marks nothing, is told nothing;
    and he is a link of the chain that services see."""
    async with running_proxy() as proxy:
        one, two = Seen(), Seen()
        await two_instances(proxy, one, two)
        client = await proxy.client(inbound=True, source=STRANGER)
        answer = await client.ask(EVERYTHING)
        assert answer.startswith(b"HTTP/1.1 200") and b"x-shoal" not in answer
        assert one.words() == set() and two.heads == []
        assert b"x-forwarded-for: 127.0.0.66\r\n" in one.heads[0]
        await client.ask(GET[:-2] + b"X-Forwarded-For: 10.1.1.1\r\n\r\n")
        assert b"x-forwarded-for: 10.1.1.1, 127.0.0.66\r\n" in one.heads[1]


async def test_an_agent_at_the_inbound_listener_says_what_agents_say() -> None:
    """It chooses the instance, names the caller, passes marks on, and may be told."""
    async with running_proxy() as proxy:
        one, two = Seen(), Seen()
        await two_instances(proxy, one, two)
        answer = await (await proxy.client(inbound=True)).ask(EVERYTHING)
        assert b"x-shoal-explain-inbound: {" in answer
        assert two.words() == {*MARKS, b"x-shoal-caller: root"} and one.heads == []
        assert b"x-forwarded-for" not in two.heads[0]


async def test_who_becomes_an_agent_is_believed_from_then_on() -> None:
    """On the connection that he has, and not any longer when he left."""
    async with running_proxy() as proxy:
        one, two = Seen(), Seen()
        await two_instances(proxy, one, two)
        client = await proxy.client(inbound=True, source=STRANGER)
        for address, seen, forwarded in ((STRANGER, two, False), ("127.0.0.9", one, True), (STRANGER, two, False)):
            proxy.worker.take(Where("here", {"new": address}))
            await client.ask(EVERYTHING)
            proxy.worker.take(Commit(9))
            await client.ask(EVERYTHING)
            assert (b"x-forwarded-for" in seen.heads[-1]) is forwarded
        assert (len(one.heads), len(two.heads)) == (3, 3), "each is in force with the commit, and not before"


async def test_clients_do_not_speak_as_agents_over_two_hops() -> None:
    """What a local service says of itself, or of an instance, goes no further than the outbound listener."""
    async with running_proxy() as near, running_proxy() as far:
        one, two = Seen(), Seen()
        await two_instances(far, one, two)
        over = {"agent": "far", "dial_port": far.inbound_port, "via": True}
        near.put(endpoint(1, "one", **over))
        answer = await (await near.client()).ask(EVERYTHING)
        assert b"x-shoal-explain: {" in answer and b"explain-inbound" not in answer
        assert one.words() == {b"x-shoal-replay: 7"} and two.heads == []


async def test_a_service_says_more_than_any_client() -> None:
    """By its credentials: that it hands on a copy, and how important a request is. With wrong ones nobody does."""
    async with running_proxy() as near, running_proxy() as far:
        one, two = Seen(), Seen()
        await two_instances(far, one, two)
        near.put(endpoint(1, "one", agent="far", dial_port=far.inbound_port, via=True))
        entrust(near.worker)
        await (await near.client()).ask(EVERYTHING[:-2] + CREDENTIALS + b"\r\n")
        assert one.words() == {*MARKS, b"x-shoal-caller: shop.production"}
        wrong = CREDENTIALS.replace(b"Basic c", b"Basic d")
        assert (await (await near.client()).ask(EVERYTHING[:-2] + wrong + b"\r\n", b"\r\n\r\n")).startswith(
            b"HTTP/1.1 407"
        )
        assert len(one.heads) == 1


async def test_a_callers_agent_at_another_address_than_it_registered() -> None:
    """It dials from the registered one, so that its choice of an instance is believed."""
    async with running_proxy() as near, running_proxy() as far:
        one, two = Seen(), Seen()
        await two_instances(far, one, two)
        far.worker.agents.learn({"near": "127.0.0.5"}, "far")
        near.worker.agents.learn({"near": "127.0.0.5", "far": "127.0.0.1"}, "near")
        near.put(endpoint(1, "two", agent="far", dial_port=far.inbound_port, via=True))
        await (await near.client()).ask(GET)
        assert one.heads == [] and len(two.heads) == 1


POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 2\r\n\r\nhi"
UNSENT = b"HTTP/1.1 503 No\r\nX-Shoal-Unsent: 1\r\nContent-Length: 2\r\n\r\nok"
SHED = UNSENT.replace(b"Unsent", b"Shed")


@pytest.mark.parametrize("answer", [UNSENT, SHED])
@pytest.mark.parametrize("hops", [1, 2])
async def test_a_service_cannot_have_a_post_done_twice(answer: bytes, hops: int) -> None:
    """It has seen the request, whatever it says: nothing is tried again, and nothing goes another way."""
    async with running_proxy() as near, running_proxy() as far:
        liar, other = Seen(answer), Seen()
        port = await near.upstream(liar)
        far.worker.table.host = "far"
        far.put(endpoint(port, "one", agent="far"))
        over = {"agent": "far", "dial_port": far.inbound_port, "via": True}
        ways = {"concurrency": 100, "instead": [{"service": "spare.production"}]}
        near.put(endpoint(await near.upstream(other)), service="spare.production")
        near.put(endpoint(1, "one", **over) if hops == 2 else endpoint(port, "one"), shed=ways)
        for _ in range(3):
            client = await near.client()
            got = await client.ask(POST)
            assert got.startswith(b"HTTP/1.1 503") and b"x-shoal-" not in got
        assert len(liar.heads) == 3 and other.heads == []


async def test_an_agent_is_believed_that_it_sheds() -> None:
    """What an instance may not say, its host's agent may: the caller's takes the next way out."""
    async with running_proxy() as near:
        busy, other = Seen(SHED), Seen()
        ways = {"concurrency": 100, "instead": [{"service": "spare.production"}]}
        near.put(endpoint(await near.upstream(other)), service="spare.production")
        near.put(endpoint(await near.upstream(busy), agent="far", via=True), shed=ways)
        assert (await (await near.client()).ask(POST)).startswith(b"HTTP/1.1 200")
        assert len(busy.heads) == len(other.heads) == 1


async def test_words_in_trailers_are_dropped() -> None:
    """Whoever sends them: a head that some server makes of them would be believed there."""
    async with running_proxy() as proxy:
        bodies: list[bytes] = []

        async def upstream(client: Client) -> None:
            await client.head()
            bodies.append(await client.until(b"\r\n\r\n"))
            await client.send(OK)

        proxy.put(endpoint(await proxy.upstream(upstream)))
        chunked = GET.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
        trailers = b"".join(b"%b: %b\r\n" % said for said in SAID.items()) + b"x-sum: 1\r\n\r\n"
        await (await proxy.client()).ask(chunked + trailers)
        assert bodies[0].endswith(b"0\r\nx-sum: 1\r\n\r\n")
