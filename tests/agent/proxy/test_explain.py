"""What explains is what acts: an explanation and the request after it agree in every decision, and explaining changes
nothing."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.frames import EndpointFrame, PolicyFrame, Svid, Trust
from agent.identity.spiffe import SpiffeId
from agent.proxy.report.story import no_service
from agent.proxy.request.explain import explain
from agent.proxy.table.service import Service
from agent.proxy.worker import Worker
from agent.questions import Explain, Explained
from policies.decision import Subset
from policies.kinds.shed.backpressure import branch
from tests.support.identity import SHOP, TRUST_DOMAIN
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import CREDENTIALS, SERVICE, entrust
from tests.support.tls import ROOTS, WEB, shown
from tests.support.tokens import provider, token

CATS = "cats.production"
FOREVER = "2999-01-01T00:00:00Z"
modes = st.sampled_from([{}, {}, {}, {"mode": "audit"}])
percents = st.sampled_from([1, 50, 100])
matches = st.sampled_from(
    [
        {},
        {"match": {"path": {"prefix": "/a"}}},
        {"match": {"headers": {"x-user": "ann"}}},
        {"match": {"claims": {"tier": "free"}}},
    ]
)
CLAIMS = {"iss": "https://login", "aud": "lamps", "sub": "ann", "tier": "free", "exp": 4e9}
TOKEN = f"authorization: Bearer {token(CLAIMS)}"
FORGED = f"authorization: Bearer {token(CLAIMS, other=True)}"

limits = st.sampled_from(
    [
        {"name": "all", "rate": "1/h"},
        {"name": "all", "rate": "1/h", "side": "service"},
        {"name": "ann", "rate": 2, "key": {"header": "x-user"}},
        {"name": "sub", "rate": "1/h", "key": {"claim": "sub"}},
    ]
)
traces = st.fixed_dictionaries(
    {
        "share": st.sampled_from([0, 0.5, 1]),
        "rules": st.sampled_from([[], [{"match": {"path": {"prefix": "/a"}}, "share": 1}]]),
    },
    optional={"rate": st.just(0.001), "parent": st.just("ignore"), "slower": st.just("1s")},
)
ratelimits = st.fixed_dictionaries({"limits": st.lists(limits, min_size=1, max_size=1)})
injections = st.sampled_from(
    [{"delay": "20ms"}, {"abort": {"status": 418}}, {"delay": "20ms", "abort": {"status": 418}}]
)
faults = st.builds(
    lambda do, percent, match: {"expires": FOREVER, "rules": [{**do, "percent": percent, **match}]},
    injections,
    percents,
    matches,
)
targets = st.sampled_from(
    [
        [{"weight": 50}, {"weight": 50, "service": CATS}],
        [{"version": "v2"}],
        [{"service": CATS}],
        [{"service": "nobody.production"}],
        [{"version": "v9"}],
        [{"version": "v9", "weight": 50}, {"version": "v2", "weight": 50}],
    ]
)
users = st.sampled_from([{}, {"sticky": {"claim": "sub"}}])
actions = st.one_of(
    st.builds(
        lambda split, user, retry, empty: {"split": split, **retry, **({**empty, **user} if len(split) > 1 else {})},
        targets,
        users,
        st.sampled_from([{}, {"retry": {"attempts": 7}}]),
        st.sampled_from([{}, {"empty": "others"}]),
    ),
    st.just({"respond": {"status": 410}}),
    st.just({"redirect": {"location": "/b"}}),
    st.just({"retry": {"attempts": 7}}),
)
routes = st.builds(lambda action, match: {"rules": [{**action, **match}]}, actions, matches)
fallbacks = st.sampled_from([{}, {"fallback": {"service": CATS}}, {"fallback": {"respond": {"status": 299}}}])
breakers = st.builds(
    lambda trip, each, fallback: {**trip, **each, **(fallback if trip else {})},
    st.sampled_from([{"trip": {"consecutive": 2}}, {"limits": {"requests": 1}}, {"trip": {"requests": 2}}]),
    st.sampled_from([{}, {"endpoint": {"trip": {"consecutive": 2}}}]),
    fallbacks,
)
ways = st.lists(st.sampled_from([{"service": CATS}, {"version": "v2"}]), max_size=2, unique_by=str)
sheds = st.builds(
    lambda way, answer, backpressure: {"concurrency": 2, "instead": [*way, *answer], "backpressure": backpressure},
    ways,
    st.sampled_from([[], [{"respond": {"status": 299}}]]),
    st.booleans(),
)
balances = st.sampled_from(
    [
        {"algorithm": "round-robin"},
        {"algorithm": "weighted"},
        {"algorithm": "least-request"},
        {"algorithm": "random"},
        {"algorithm": "peak-ewma"},
        {"algorithm": "ring-hash", "hash": [{"header": "x-user"}, {"path": True}]},
        {"algorithm": "maglev", "hash": [{"header": "x-user"}]},
        {"algorithm": "round-robin", "sticky": {"header": "x-user"}},
        {"algorithm": "least-request", "sticky": {}},
        {"algorithm": "least-request", "sticky": {"claim": "sub"}},
        {"algorithm": "ring-hash", "hash": [{"claim": "sub"}, {"path": True}]},
    ]
)
shadows = st.builds(
    lambda percent, match: {"copies": [{"to": "dogs.production", "percent": percent, **match}]},
    percents,
    matches,
)
KINDS = {
    "isolation": st.builds(
        lambda allow, anonymous: {"allow": allow, "anonymous": anonymous},
        st.sampled_from([["*"], ["shop.production"], []]),
        st.booleans(),
    ),
    "tls": st.builds(
        lambda mtls, origin: {"mtls": mtls, **({"origin": origin} if origin else {})},
        st.sampled_from(["off", "permissive", "strict", "strict"]),
        st.sampled_from(
            [
                None,
                None,
                {"speaks": "plain"},
                {"speaks": "tls", "name": "db.internal"},
                {"speaks": "tls", "name": "db.internal", "client_certificate": True},
            ]
        ),
    ),
    "authn": st.builds(
        lambda required, more: {"providers": [provider()], "required": required, **more},
        st.booleans(),
        st.sampled_from([{}, {"headers": {"x-user": "sub"}, "forward": False}]),
    ),
    "authz": st.builds(
        lambda rules, default, outbound: {"rules": rules, "default": default, "outbound": outbound},
        st.lists(
            st.sampled_from(
                [
                    {"deny": "anybody", "match": {"path": {"prefix": "/a"}}},
                    {"name": "ann", "allow": "anonymous", "match": {"headers": {"x-user": "ann"}}},
                    {"allow": ["shop.production"]},
                    {"allow": "anybody"},
                    {"name": "free", "deny": "anybody", "match": {"claims": {"tier": "free"}}},
                ]
            ),
            min_size=1,
            max_size=2,
            unique_by=str,
        ),
        st.sampled_from(["deny", "allow"]),
        st.booleans(),
    ),
    "ratelimit": ratelimits,
    "fault": faults,
    "route": routes,
    "breaker": breakers,
    "shed": sheds,
    "balance": balances,
    "shadow": shadows,
    "trace": traces,
    "outlier": st.just({}),
    "retry": st.just({"attempts": 3}),
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.sets(st.sampled_from(sorted(KINDS)), max_size=5))
    found: dict[str, Any] = {kind: {**draw(KINDS[kind]), **draw(modes)} for kind in sorted(chosen)}
    if "ratelimit" in found and draw(st.integers(0, 3)) == 0:
        found["ratelimit"] = PolicyFrame("*", 7, b"", "nobody knows")
    return found


audits = st.sets(st.sampled_from(sorted(KINDS)), max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries({kind: KINDS[kind] for kind in sorted(chosen)})
)


@st.composite
def instances(draw: st.DrawFn) -> list[dict[str, Any]]:
    each = st.fixed_dictionaries(
        {
            "version": st.sampled_from(["v1", "v1", "v2"]),
            "healthy": st.sampled_from([True, True, False]),
            "draining": st.sampled_from([False, False, True]),
            "weight": st.sampled_from([100.0, 1.0]),
            "agent": st.sampled_from(["", "here", "there"]),
            "zone": st.sampled_from(["a", "a", "b"]),
            "address": st.sampled_from(["127.0.0.1", "10.0.0.9"]),
            "secured_until": st.sampled_from([0.0, 1.0, 1e12]),
        }
    )
    return draw(st.lists(each, max_size=4))


states = st.fixed_dictionaries(
    {
        "open": st.booleans(),
        "open_s": st.sampled_from([0.0, 30.0]),
        "endpoints_open": st.sets(st.integers(0, 3)),
        "refused": st.sets(st.integers(0, 3)),
        "active": st.integers(0, 3),
        "spent": st.integers(0, 3),
        "asked": st.integers(0, 3),
        "no_room": st.lists(st.sampled_from(["/", "/a/b", "/x"]), max_size=4),
    }
)


def framed(play: Playbook, prefix: str, found: list[dict[str, Any]]) -> list[EndpointFrame]:
    return [play.instance(f"{prefix}{n}", **more, via=more["agent"] == "there") for n, more in enumerate(found)]


FOLDER = Path(tempfile.mkdtemp(prefix="shoal-explain-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


@cache
def svid(name: SpiffeId) -> Svid:
    files = shown(FOLDER, name)
    return Svid(str(files.chain), str(files.key), time.time() + 3600)


def can_prove(worker: Worker, *names: SpiffeId) -> None:
    """A worker has certificates of these; of nobody: it has no trust domain either."""
    if names:
        worker.take(Trust(TRUST_DOMAIN, {name.service: svid(name) for name in names}, {TRUST_DOMAIN: ROOTS}))


def worn(play: Playbook, service: Service, state: dict[str, Any]) -> None:
    """A service after a while: breakers that are open, endpoints that are out, limits that are used up."""
    worker = play.worker
    now, rng = worker.reactor.now, worker.rng
    books = [service, *([service.audits] if service.audits is not None else [])]
    circuits = [book.circuit for book in books] if state["open"] else []
    loads = [endpoint.load for endpoint in service.plan.endpoints]
    circuits += [load.circuit for n, load in enumerate(loads) if n in state["endpoints_open"]]
    circuits += [load.watched.circuit for load in loads if load.watched is not None]
    for circuit in circuits:
        if circuit is not None:
            for _ in range(2):
                if not circuit.enter(now, rng, 0):
                    circuit.leave(False, 0.0, now, rng)
            circuit.take_transition()
    for n, load in enumerate(loads):
        if n in state["refused"]:
            load.refused_until = now + 30
    for book in books:
        if book.circuit is not None:
            for _ in range(state["active"]):
                book.circuit.enter(now, rng, 0)
            book.circuit.take_transition()
        if book.limiter is not None:
            for _ in range(state["active"]):
                book.limiter.enter(0, now)
    if service.backpressure is not None:
        for path in state["no_room"]:
            service.backpressure.enter(branch(path), 2, now)
            service.backpressure.refuse_call(CATS, now)
            service.backpressure.leave(branch(path), 0.0, now, 503)
    for _ in range(state["asked"]):
        service.plan.balancer.pick(None, now, rng)


def remembered(play: Playbook) -> list[Any]:
    """All that an explanation could have moved."""
    worker = play.worker
    found: list[Any] = [worker.rng.getstate(), worker.refused.copy(), len(worker.news.events), worker._request_number]
    found.append((worker.pool.opened, play.idle, worker.reactor.wheel._ticks.copy()))
    for service in worker.table.services.values():
        found.append(json.dumps(service.stats.as_frame(), sort_keys=True))
        found.append((service.copying, service.shed_at, service.relief, service.tally.connecting, service.tally.open))
        for endpoint in service.plan.endpoints:
            load = endpoint.load
            found.append((load.active, load.requests, load.failures, load.refused_until, _circuit(load.circuit)))
            found.append(_circuit(load.watched.circuit) if load.watched is not None else None)
        for asked in (service.plan.enforced, service.plan.watched):
            book = asked.book if asked is not None else None
            if asked is None or book is None:
                continue
            found.append(_circuit(book.circuit))
            if book.limiter is not None:
                found.append((book.limiter.active, book.limiter.limit))
            if asked.limits is not None and book.buckets is not None:
                names = [limit.name for limit in asked.limits.limits]
                found.append([(book.buckets.demand(name), book.buckets.size(name)) for name in names])
        pressure = service.backpressure
        if pressure is not None:
            found.append((pressure.window, pressure.under_way, pressure._full, [*pressure._credit, *pressure._new]))
        found.append([group.mark() for group in service.plan._groups.values()])
        found.append((service.budget.allowance(), list(service.budget._retries)))
    return found


def _circuit(circuit: Any) -> Any:
    if circuit is None:
        return None
    return (circuit.state, circuit.active, circuit.since, circuit._openings, circuit._until, list(circuit._requests))


def told(decisions: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [(each["phase"], each["policy"], each["mode"], each["decision"]) for each in decisions]


def asked(play: Playbook, client: Wire, head: bytes) -> tuple[list[dict[str, Any]], str | None, int | None]:
    """A real request, explained: its decisions until it is sent, the endpoint, or the status it is answered with."""
    connection = play.connection(client)
    assert client >> head
    for _ in range(40):  # a fault, and waits between tries
        play.passes(0.05)
        exchange: Any = connection.exchange
        if exchange is None or exchange.attempt is not None:
            break
    if exchange is not None:
        endpoint = exchange.endpoint
        return list(exchange.explained), f"{endpoint.service}/{endpoint.id}", None
    heard, _, _ = client.heard.partition(b"\r\n\r\n")
    lines = heard.split(b"\r\n")
    field = next((line for line in lines if line.startswith(b"x-shoal-explain: ")), b"")
    return json.loads(field.partition(b": ")[2])["decisions"], None, int(lines[0].split()[1])


def not_sent(explained: dict[str, Any]) -> bool:
    """Whether a try would not be made, and another would."""
    return any((each["phase"], each["decision"]) == ("hop", "not sent") for each in explained["decisions"])


def takes_of_a_service(documents: dict[str, Any]) -> bool:
    """Whether there is a limit on the side of the service."""
    document = documents.get("ratelimit")
    return isinstance(document, dict) and any("side" in limit for limit in document["limits"])


@settings(max_examples=150, deadline=None)
@given(
    documents(),
    documents(),
    st.tuples(audits, audits),
    instances(),
    instances(),
    st.tuples(states, states),
    st.sampled_from(["/a", "/b"]),
    st.sampled_from(
        [(), ("x-user: ann",), ("x-user: bob", "cookie: shoal-session=x"), (TOKEN,), (TOKEN, "x-user: bob"), (FORGED,)]
    ),
    st.sampled_from(["", "shop.production"]),
    st.sampled_from(["nothing", "the agent", "both"]),
    st.integers(0, 3),
)
def test_an_explanation_and_the_request_after_it_agree(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    watching: tuple[dict[str, Any], dict[str, Any]],
    pets: list[dict[str, Any]],
    cats: list[dict[str, Any]],
    worn_by: tuple[dict[str, Any], dict[str, Any]],
    path: str,
    headers: tuple[str, ...],
    caller: str,
    proves: str,
    seed: int,
) -> None:
    """Whatever the mesh, its documents, and the state that it is in; and asking leaves all of it as it was."""
    for each in (theirs, watching[1]):
        each.get("breaker", {}).pop("fallback", None)
        each.get("shed", {}).pop("instead", None)
    with Playbook(seed, host="here") as play:
        play.worker.table.zone = "a"
        can_prove(play.worker, *{"nothing": (), "the agent": (WEB,), "both": (WEB, SHOP)}[proves])
        entrust(play.worker)
        play.put(*framed(play, "pet-", pets), service=SERVICE, audits=watching[0], **ours)
        play.put(*framed(play, "cat-", cats), service=CATS, audits=watching[1], **theirs)
        play.put("dog-1", service="dogs.production")
        services = play.worker.table.services
        for service in services.values():
            for version in ("v2", "v9"):
                service.plan.group(Subset(version))  # made when first asked for, whoever asks
        worn(play, services[SERVICE], worn_by[0])
        worn(play, services[CATS], worn_by[1])
        spendable = services[SERVICE].buckets is not None or services[SERVICE].audits is not None
        question = Explain(f"{SERVICE}{path}", headers=[h.split(": ") for h in headers], caller=caller)
        head = "".join([f"GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n", *(f"{h}\r\n" for h in headers)]).encode()
        head += CREDENTIALS if caller else b""
        client = play.client()
        for _ in range(worn_by[0]["spent"] if spendable else 0):
            spends = play.client()
            assert spends >> head + b"\r\n"
            spends.ends()
            while not play.idle:
                play.dialled()
        before = remembered(play)
        explained = explain(play.worker, question)
        assert remembered(play) == before, "asking changed something"
        assert len(msgspec.convert(explained, Explained).decisions) == len(explained["decisions"])
        assert explain(play.worker, question) == explained
        if TOKEN in headers:
            supposed = msgspec.structs.replace(
                question,
                headers=[h.split(": ") for h in headers if h != TOKEN],
                claims={name: str(value) for name, value in CLAIMS.items()},
            )
            known = [each for each in explain(play.worker, supposed)["decisions"] if each["policy"]]
            assert told(known) == told([each for each in explained["decisions"] if each["policy"]])
        if not_sent(explained) and any(map(takes_of_a_service, (ours, theirs, *watching))):
            return  # each try takes anew, and an explanation takes nothing
        decisions, endpoint, status = asked(play, client, head + b"x-shoal-explain: 1\r\n\r\n")
        found = explained["endpoint"]
        last = explained["decisions"][-1]["policy"]
        if last.startswith("authz/") and explained["status"] == 403:
            assert [each["reason"] for each in decisions] == ["not allowed"]  # callers hear no more
        elif last.startswith("authn/") and explained["status"] == 401:
            assert [each["decision"] for each in decisions] == ["answer 401"]  # nor here
        elif last.startswith("isolation/"):
            assert [each["reason"] for each in decisions] == [
                no_service(SERVICE.encode()).reason
            ]  # callers hear no more
        else:
            assert told(explained["decisions"])[: len(decisions)] == told(decisions)
            whole = len(decisions) == len(explained["decisions"])
            assert whole or (status is not None and len(json.dumps(explained["decisions"])) > 6000)
        assert (f"{found['service']}/{found['id']}" if found else None, explained["status"]) == (endpoint, status)


@settings(max_examples=50, deadline=None)
@given(sheds, modes, st.integers(0, 3), st.sampled_from([b"one", b"gone", b""]), st.integers(0, 3))
def test_the_inbound_side_agrees_too(
    shed: dict[str, Any], mode: dict[str, str], active: int, wanted: bytes, seed: int
) -> None:
    """What the agent beside the instance would say, and what it says."""
    with Playbook(seed, host="here") as play:
        play.put(*[play.instance(name, agent="here") for name in ("one", "two")], shed={**shed, **mode})
        service = play.worker.table.services[SERVICE]
        limiter = service.limiter if service.audits is None else service.audits.limiter
        assert limiter is not None
        for _ in range(active):
            limiter.enter(0, play.worker.reactor.now)
        instance = f"{SERVICE}/{wanted.decode()}" if wanted else ""
        before = remembered(play)
        explained = explain(play.worker, Explain(f"{SERVICE}/a", inbound=instance))
        assert remembered(play) == before
        client = play.client(inbound=True)
        named = b"x-shoal-endpoint: %b\r\n" % instance.encode() if instance else b""
        assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\nx-shoal-explain: 1\r\n" + named + b"\r\n"
        exchange: Any = play.connection(client).exchange
        if exchange is None:
            assert client.heard.startswith(b"HTTP/1.1 %d" % explained["status"]) and play.idle
        else:
            assert told(exchange.explained) == told(explained["decisions"])
            assert exchange.endpoint.id == explained["endpoint"]["id"]


def decided(play: Playbook, phase: str, **more: Any) -> str:
    explained = explain(play.worker, Explain(f"{SERVICE}/a", **more))
    return next(each["decision"] for each in explained["decisions"] if each["phase"] == phase)


@pytest.mark.parametrize("url", ["g^eyg]{", "http://[::1", "http://[a]b/"])
def test_what_is_no_url_is_answered(url: str) -> None:
    """As a request that cannot be read."""
    with Playbook() as play:
        play.put("one")
        told = explain(play.worker, Explain(url))
        assert (told["status"], told["endpoint"]) == (400, None) and "no URL" in told["decisions"][0]["reason"]


def test_a_rules_own_retries_are_told() -> None:
    """And not those that it replaces."""
    with Playbook() as play:
        play.put("one", route={"rules": [{"retry": {"attempts": 7}}]}, retry={"attempts": 2})
        assert decided(play, "retry") == "up to 7 attempts"


def test_who_is_out_is_not_picked() -> None:
    """An ejected endpoint is passed over, as a request would."""
    with Playbook() as play:
        play.put("one", "two")
        service = play.worker.table.services[SERVICE]
        service.loads["one"].refused_until = play.worker.reactor.now + 30
        for _ in range(20):
            assert explain(play.worker, Explain(f"{SERVICE}/"))["endpoint"]["id"] == "two"


def test_an_instance_that_another_agent_says_is_full_leads_to_the_way_out() -> None:
    """With what that agent says, the explanation goes on as the request would."""
    with Playbook(host="here") as play:
        far = play.instance("far", agent="there", via=True)
        play.put(far, shed={"concurrency": 5, "instead": [{"service": CATS}]})
        play.put("tom", service=CATS)
        assert explain(play.worker, Explain(f"{SERVICE}/a"))["endpoint"]["id"] == "far"
        found = explain(play.worker, Explain(f"{SERVICE}/a", shed={f"{SERVICE}/far": "10 requests are under way"}))
        assert found["endpoint"]["id"] == "tom"
        assert "goes to cats.production instead" in [each["decision"] for each in found["decisions"]]


# How a hop is made.


def hop_of(play: Playbook, **more: Any) -> tuple[str, str, str, int]:
    """Decision, reason, policy and revision of the hop."""
    explained = explain(play.worker, Explain(f"{SERVICE}/a", **more))
    found = next(each for each in explained["decisions"] if each["phase"] == "hop")
    return found["decision"], found["reason"], found["policy"], found["revision"]


def levels(*documents: tuple[str, object]) -> PolicyFrame:
    """Several that apply, the most specific first."""
    found = [PolicyFrame(key, 10 + n, msgspec.json.encode(document)) for n, (key, document) in enumerate(documents)]
    return msgspec.structs.replace(found[0], wider=tuple(found[1:]))


def far(play: Playbook, secured_until: float = 1e12, **more: Any) -> EndpointFrame:
    return play.instance("far", agent="there", via=True, secured_until=secured_until, **more)


def test_a_hop_is_told() -> None:
    """Plain text or TLS, who is shown and who is expected, by which level and revision."""
    pets, shop = "spiffe://default.shoal/svc/pets.production", "spiffe://default.shoal/svc/shop.production"
    with Playbook(host="here") as play:
        play.put(far(play))
        assert hop_of(play) == ("plain text", "no tls document is for pets.production", "", 0)
        permissive = levels((SERVICE, {"mtls": "off"}), ("*.production", {"mtls": "permissive"}))
        play.put(far(play), tls=permissive)
        assert hop_of(play) == ("plain text", "this agent holds no certificate", "tls/*.production", 11)
        can_prove(play.worker, WEB, SHOP)
        assert hop_of(play, caller="shop.production") == (
            "mTLS", f"shown {shop}; expects {pets}", "tls/*.production", 11
        )  # fmt: skip
        shown_agent = f"shown spiffe://default.shoal/agent/here; expects {pets}"
        nameless = "this agent holds no certificate of vets.production"
        assert hop_of(play, caller="vets.production")[:2] == ("plain text", nameless), "and not as nobody"
        assert hop_of(play)[:2] == ("mTLS", shown_agent)
        play.put(far(play), tls={"mtls": "strict"})
        assert hop_of(play, caller="vets.production")[:2] == ("not sent", nameless)
        play.put(far(play, 0.0), tls=permissive)
        lacks = "the agent of there holds no certificate of pets.production"
        assert hop_of(play)[:2] == ("plain text", lacks)
        play.put(far(play, 1.0), tls={"mtls": "strict"})
        assert hop_of(play)[:2] == ("not sent", f"{lacks} any more: it has ended")
        play.put(far(play), tls={"mtls": "off"})
        assert hop_of(play)[:2] == ("plain text", "mtls is off")


def test_an_instance_is_told() -> None:
    """What it speaks itself, by the document that says so."""
    with Playbook(host="here") as play:
        here = play.instance("one", agent="here")
        alone = play.instance("two", address="10.0.0.9")
        play.put(here, tls={"mtls": "strict"})
        assert hop_of(play)[:2] == ("plain text", "the instance is on this host")
        play.put(alone, tls={"mtls": "strict"})
        assert hop_of(play)[:2] == ("not sent", "no agent is beside it that could prove who it is")
        play.put(alone, tls={"mtls": "permissive"})
        assert hop_of(play)[:2] == ("plain text", "no agent is beside the instance")
        plain = {"mtls": "off", "origin": {"speaks": "plain"}}
        play.put(alone, tls=levels((SERVICE, {"mtls": "strict"}), ("*", plain)))
        assert hop_of(play) == (
            "plain text", "the instance has no agent, and $.origin says that it is meant", "tls/*", 11
        )  # fmt: skip
        secured = {"mtls": "off", "origin": {"speaks": "tls", "name": "db.internal"}}
        for each in (here, alone):
            play.put(each, tls=levels((SERVICE, {"mtls": "strict"}), ("*", secured)))
            assert hop_of(play) == (
                "TLS", "the instance has to be db.internal; it is shown nothing", "tls/*", 11
            )  # fmt: skip
        secured["origin"] = {"speaks": "tls", "name": "db.internal", "client_certificate": True}
        play.put(alone, tls=secured)
        decision, reason, *_ = hop_of(play)
        assert decision == "not sent" and "this host has none for pets.production" in reason
        assert explain(play.worker, Explain(f"{SERVICE}/a"))["status"] == 503


def test_the_other_agent_is_asked_as_the_hop_would_come() -> None:
    """In plain text, which strict answers 403; or as whom the hop proves, of whom isolation may know nothing."""
    with Playbook(host="here") as play, Playbook(host="there") as there:
        there.put(there.instance("far", agent="there"), tls={"mtls": "strict"})
        play.put(far(play), tls={"mtls": "permissive"})
        plain = explain(play.worker, Explain(f"{SERVICE}/a", caller="shop.production"))["hop"]
        assert (plain.plain, plain.caller) == (True, "shop.production")
        assert explain(there.worker, plain)["status"] == 403
        client = there.client(inbound=True)
        assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\n\r\n"
        assert client.heard.startswith(b"HTTP/1.1 403")
        can_prove(play.worker, WEB, SHOP)
        proven = explain(play.worker, Explain(f"{SERVICE}/a", caller="shop.production"))["hop"]
        assert (proven.plain, proven.caller) == (False, "shop.production")
        assert explain(there.worker, proven)["endpoint"]["id"] == "far"
        there.put(there.instance("far", agent="there"), isolation={"allow": ["*"]}, tls={"mtls": "strict"})
        unproven = explain(play.worker, Explain(f"{SERVICE}/a", caller="vets.production"))["hop"]
        assert (unproven.plain, unproven.caller) == (True, "vets.production")
        assert explain(there.worker, unproven)["status"] == 403
        nobody = explain(play.worker, Explain(f"{SERVICE}/a"))["hop"]
        assert (nobody.plain, nobody.caller) == (False, "")
        assert explain(there.worker, nobody)["status"] == 404
        assert explain(there.worker, proven)["status"] is None


def test_a_try_that_may_not_be_made_leads_elsewhere() -> None:
    """As the request would go, and to the reason in the end."""
    with Playbook(host="here") as play:
        alone = play.instance("alone", address="10.0.0.9")
        play.put(alone, play.instance("one", agent="here"), tls={"mtls": "strict"})
        for _ in range(8):
            assert explain(play.worker, Explain(f"{SERVICE}/"))["endpoint"]["id"] == "one"
        play.put(alone, tls={"mtls": "strict"})
        found = explain(play.worker, Explain(f"{SERVICE}/"))
        assert found["status"] == 503 and found["decisions"][-1]["policy"] == f"tls/{SERVICE}"
        assert "10.0.0.9" not in str(found["endpoint"])
