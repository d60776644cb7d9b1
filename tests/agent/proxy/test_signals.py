"""Golden signals: what each request is counted in, once; and that nobody makes more of it than there may be."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.instances.tokens import digest
from agent.proxy.report import state
from agent.proxy.report.load import load
from agent.proxy.report.signals import BOUNDS_S, MAX_WORD, MOST_EDGES, MOST_EXEMPLARS, Key, Room, Signals
from agent.proxy.report.stats import MOST_NAMES, ServiceStats, count
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import AGENT, SERVICE

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SHOP = "shop.production"
KEY: Key = (True, SHOP, "", "v1", "")
OTHERS = ("others",) * 4


def get(*fields: str) -> bytes:
    return "\r\n".join([f"GET / HTTP/1.1\r\nHost: {SERVICE}", *fields, "", ""]).encode()


def shop() -> str:
    return f"Proxy-Authorization: Basic {base64.b64encode(f'{SHOP}:secret'.encode()).decode()}"


def edges(play: Playbook) -> dict[Key, list[int]]:
    """Requests by edge."""
    return {key: edge.requests for key, edge in play.worker.table.services[SERVICE].stats.signals.edges.items()}


def served(play: Playbook, client: Wire, head: bytes, status: bytes = b"200 OK") -> None:
    assert client >> head
    assert play.upstream("one") >> b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
    assert client << b"HTTP/1.1 ..."


def test_bounds() -> None:
    """From half a millisecond to a minute; every second one is twice the one before it."""
    assert BOUNDS_S[0] == 0.0005 and len(BOUNDS_S) == 35 and list(BOUNDS_S) == sorted(BOUNDS_S)
    assert [round(b / a, 6) for a, b in zip(BOUNDS_S[::2], BOUNDS_S[2::2], strict=False)] == [2.0] * 17


def test_the_edge_of_a_request() -> None:
    """Who called, by which rule, which version answered, and whose agent was between; and that this agent was first."""
    with Playbook(host="here") as play:
        play.worker.callers.configure({digest("secret"): SHOP})
        far = play.instance("one", version="v2", agent="another", via=True)
        rule = {"name": "cats", "match": {"path": {"prefix": "/"}}, "split": [{"version": "v2", "weight": 1}]}
        play.put(far, route={"rules": [rule]})
        served(play, play.client(), get(shop()))
        served(play, play.client(), get(), b"404 Not Found")
        assert edges(play) == {
            (True, SHOP, "cats", "v2", "another"): [0, 0, 1, 0, 0, 0, 0],
            (True, "", "cats", "v2", "another"): [0, 0, 0, 0, 1, 0, 0],
        }


def test_the_second_hop_and_a_caller_without_an_agent() -> None:
    """What an agent hands over was counted by it; what nobody handed over is met here first. The version is known by
    which the calling agent has named the instance, too."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", version="v1", agent="here"))
        handed = get("X-Shoal-Caller: shop.production", f"X-Shoal-Endpoint: {SERVICE}/one")
        served(play, play.client(inbound=True), handed)
        served(play, play.client(inbound=True, peer="10.9.9.9"), get())
        assert edges(play) == {
            (False, SHOP, "", "v1", "another"): [0, 0, 1, 0, 0, 0, 0],
            (True, "", "", "v1", ""): [0, 0, 1, 0, 0, 0, 0],
        }


def test_agents_that_cannot_be_told_apart() -> None:
    """Several behind one address, or one of a range: an agent all the same, of an unknown host."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", version="v1", agent="here"))
        play.worker.agents.learn({"another": AGENT, "third": AGENT, "here": "10.0.0.9"}, "here")
        play.worker.agents.believe(["10.9.0.0/16"])
        for address in (AGENT, "10.9.9.9"):
            served(play, play.client(inbound=True, peer=address), get(f"X-Shoal-Endpoint: {SERVICE}/one"))
        assert edges(play) == {(False, "", "", "v1", ""): [0, 0, 2, 0, 0, 0, 0]}


def test_an_answer_of_the_mesh_and_a_client_that_goes() -> None:
    """Counted for the version that was tried; of what was never tried there is none."""
    with Playbook(host="here") as play:
        play.put("one", retry={"attempts": 1})
        client = play.client()
        assert client >> get()
        play.dialled("one").refuses()
        assert client << b"HTTP/1.1 503 ..."
        gone = play.client()
        assert gone >> get()
        assert play.upstream("one")
        gone.ends()
        play.put()
        nowhere = play.client()
        assert nowhere >> get()
        assert nowhere << b"HTTP/1.1 503 ..."
        assert edges(play) == {
            (True, "", "", "v1", ""): [1, 0, 0, 0, 0, 1, 0],
            (True, "", "", "", ""): [0, 0, 0, 0, 0, 1, 0],
        }
        stats = play.worker.table.services[SERVICE].stats
        assert stats.as_frame()["requests"] == {"5xx": 2, "gone": 1} and sum(stats.as_frame()["duration_buckets"]) == 3


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"00-{TRACE}-00f067aa0ba902b7-03", True),
        (f"00-{TRACE}-00f067aa0ba902b7-00", False),
        (f"00-{TRACE}-00f067aa0ba902b7-02", False),
        (f"00-{TRACE}-00f067aa0ba902b7-0G", False),
        (f"00-{TRACE}-00f067aa0ba902b7-g1", False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-00f067aa0ba902b7-01-x", False),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE[:-1]}\\-00f067aa0ba902b7-01", False),
        ("01", False),
        ("", False),
    ],
)
def test_exemplars_are_of_sampled_traces(said: str, kept: bool) -> None:
    with Playbook(host="here") as play:
        play.put("one")
        served(play, play.client(), get(f"Traceparent: {said}"))
        found = play.worker.table.services[SERVICE].stats.signals.exemplars_frame()
        assert [(each[:5], each[6]) for each in found] == ([([True, "", "", "v1", ""], TRACE)] if kept else [])


def test_one_exemplar_a_second_counts_for_a_bucket() -> None:
    """Whoever scrapes sees no more, and a request pays for none that nobody sees."""
    made = Signals()
    assert made.observe(KEY, 200, 0.1, 5.0)
    assert made.observe(KEY, 200, 0.1, 5.1), "that one was of no sampled trace"
    made.remember(KEY, TRACE, 0.1, 1_700_000_000.0)
    assert (
        not made.observe(KEY, 200, 0.1, 5.9) and made.observe(KEY, 200, 0.4, 5.9) and made.observe(KEY, 200, 0.1, 6.0)
    )


@pytest.mark.parametrize(
    ("document", "flags", "kept"),
    [
        ({"share": 1, "parent": "ignore"}, "00", True),
        ({"share": 0, "parent": "ignore"}, "01", False),
        ({"share": 0}, "01", True),
    ],
)
def test_a_document_says_which_traces_are_sampled(document: dict[str, object], flags: str, kept: bool) -> None:
    """And then that is what counts, for a trace that it begins as well."""
    with Playbook(host="here") as play:
        play.put("one", trace=document)
        served(play, play.client(), get(f"Traceparent: 00-{TRACE}-00f067aa0ba902b7-{flags}"))
        served(play, play.client(), get())
        found = play.worker.table.services[SERVICE].stats.signals.exemplars_frame()
        assert len(found) == kept and all(len(each[6]) == 32 for each in found)


def test_exemplars_are_bounded() -> None:
    """The last of a bucket stays; where there are too many, the oldest place goes."""
    made = Signals()
    for number in range(3 * MOST_EXEMPLARS):
        key: Key = (True, f"s{number}", "", "", "")
        for trace in ("one", "two"):
            made.observe(key, 200, 0.1, 5.0)
            made.remember(key, trace, 0.1, float(number))
    told = made.exemplars_frame()
    assert len(told) == MOST_EXEMPLARS and {each[6] for each in told} == {"two"} and told[-1][1] == "s299"


def test_a_million_callers_hosts_and_paths() -> None:
    """Bounded, whatever is invented; nothing is lost of the sum; those that were there go on being told apart."""
    made = Signals()
    made.observe(KEY, 200, 0.01, 5.0)
    for number in range(1_000_000):
        made.observe((number % 2 == 0, f"caller-{number}", "", "v1", f"host-{number % 7919}"), 200, 0.01, 5.0)
    made.observe(KEY, 200, 0.01, 5.0)
    assert len(made.edges) == MOST_EDGES + 2
    assert sum(made.requests) == sum(made.buckets) == 1_000_002
    assert made.edges[KEY].requests[2] == 2
    others = made.edges[True, *OTHERS].requests[2] + made.edges[False, *OTHERS].requests[2]
    assert others == made.folded == 1_000_001 - MOST_EDGES
    assert sum(edge[5][2] for edge in made.as_frame()) == 1_000_002


def test_long_words_are_nobodys_names() -> None:
    made = Signals()
    made.observe((True, "x" * (MAX_WORD + 1), "", "", ""), 200, 0.01, 5.0)
    made.observe((True, "x" * MAX_WORD, "", "", ""), 200, 0.01, 5.0)
    assert [key[1] for key in made.edges] == ["others", "x" * MAX_WORD] and made.folded == 1


def test_services_share_the_room() -> None:
    """One that is gone makes room; what it still had under way takes none."""
    room = Room(10)
    one, other = Signals(room), Signals(room)
    for number in range(20):
        one.observe((True, f"{number}", "", "", ""), 200, 0.1, 5.0)
    assert len(one.edges) == 11
    other.observe(KEY, 200, 0.1, 5.0)
    assert list(other.edges) == [(True, *OTHERS)]
    one.leave()
    other.observe(KEY, 200, 0.1, 5.0)
    one.observe(KEY, 200, 0.1, 5.0)
    assert KEY in other.edges and room.taken == 2


def test_every_counter_with_names_is_bounded() -> None:
    """Whoever chooses them: a million of each, and what was folded away is counted in the name of the others."""
    stats = ServiceStats()
    named = [stats.note_plain, stats.note_outside, stats.note_authorized, stats.note_authenticated, stats.note_judged]
    for number in range(3 * MOST_NAMES):
        for note in named:
            note(f"n{number}")
        stats.note_audit("authz", "d", "passed", f"{number}")
        for kind in stats.met:
            stats.note_met(kind, f"n{number}")
        count(stats.callers, f"n{number}")
        count(stats.ejections, f"n{number}")
    frame = stats.as_frame()
    counters = {name: found for name, found in frame.items() if isinstance(found, dict) and found}
    assert len(counters) == 12
    for name, found in counters.items():
        assert sum(found.values()) == 3 * MOST_NAMES, name
        assert len(found) <= MOST_NAMES + 1 and found["others"] >= 2 * MOST_NAMES, name
    assert len(stats.audited()) == MOST_NAMES


def test_a_bomb_of_callers_by_way_of_an_agent() -> None:
    """Who calls is said by other agents: each may invent as many as it likes, and this one's memory does not grow."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", version="v1", agent="here"))
        upstream: Wire | None = None
        client = play.client(inbound=True)
        for number in range(1500):
            assert client >> get(f"X-Shoal-Caller: c{number}.x", f"X-Shoal-Endpoint: {SERVICE}/one")
            upstream = upstream or play.upstream("one")
            assert upstream >> OK
            client.heard = upstream.heard = b""
        found = edges(play)
        assert len(found) == MOST_EDGES + 1 and found[False, *OTHERS] == [0, 0, 500, 0, 0, 0, 0]


def test_hosts_and_paths_make_no_series() -> None:
    """A path is no label, and a host that is no service of the mesh is none either."""
    with Playbook(host="here") as play:
        play.put("one")
        client = play.client()
        upstream: Wire | None = None
        for number in range(200):
            assert client >> f"GET /{number} HTTP/1.1\r\nHost: h{number}.invented\r\n\r\n".encode()
            assert client << b"HTTP/1.1 404 ..."
            assert client >> f"GET /{number} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n".encode()
            upstream = upstream or play.upstream("one")
            assert upstream >> OK
            client.heard = upstream.heard = b""
        told = state.metrics(play.worker)
        assert list(told["services"]) == [SERVICE] and told["refused"] == {"service": 200}
        assert [edge[:5] for edge in told["services"][SERVICE]["edges"]] == [[True, "", "", "v1", ""]]


def test_portions_are_bounded_by_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker tells of so many at a time that no request waits long; and always of one service at least."""
    monkeypatch.setattr(state, "EDGES", 3)
    with Playbook(host="here") as play:
        for name in ("a.x", "b.x", "c.x"):
            play.put(name, service=name)
            for number in range(2 if name != "b.x" else 9):
                play.worker.table.services[name].stats.signals.observe((True, f"{number}", "", "", ""), 200, 0.1, 5.0)
        told: list[list[str]] = []
        after: str | None = ""
        while after is not None:
            found = state.metrics(play.worker, after, 100)
            told.append(list(found["services"]))
            after = found["next"]
        assert told == [["a.x"], ["b.x"], ["c.x"]]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.sampled_from([0, 200, 404, 503]), st.floats(0, 100))))
def test_nothing_is_counted_twice_or_never(ended: list[tuple[bool, int, int, float]]) -> None:
    made = Signals(Room(6))
    for first, caller, status, duration_s in ended:
        made.observe((first, f"{caller}", "", "", ""), status, duration_s, 5.0)
    assert sum(made.requests) == sum(made.buckets) == len(ended)
    assert made.duration_s == pytest.approx(sum(duration_s for *_, duration_s in ended))
    firsts = sum(sum(edge.requests) for key, edge in made.edges.items() if key[0])
    assert firsts == sum(first for first, *_ in ended)
    assert len(made.edges) <= 6 + 2


def test_a_try_that_fails_at_once_took_no_time() -> None:
    """However slow balancers take it for: figures of instances are of what was."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), retry={"attempts": 1})
        up: Wire | None = None
        for status in (b"503 Service Unavailable", b"200 OK"):
            play.client() >> b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n"
            up = up or play.upstream("one")
            play.passes(0.25)
            up >> b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n"
        found = load(play.worker)["services"]["pets.production"]["instances"]["one"]
        assert found[1:3] == [1, 1] and found[3] == pytest.approx(0.5)
        assert play.worker.table.services["pets.production"].plan.endpoints[0].load.ewma_s > 1.0
