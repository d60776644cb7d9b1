"""Without etcd: renewal by way of issuers themselves, and hosts that join with a token."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
from cryptography import x509

from agent.control.identity.late_answers import LateAnswers
from agent.identity.certificates import make_request
from agent.identity.tokens import SECRET_BYTES, Joined, Joining, digest_of, secret_of
from agent.questions import JOIN, SIGN, Sign, SignAnswer
from registry.identity_records import Join, Request, Signed
from registry.records import decode, encode
from tests.support.identity import TRUST_DOMAIN, key
from tests.support.issuing import HOUR_S, KEYS, Host, Mesh, clock, leap, running, until
from tests.support.memory import MemoryStore

PETS = "pets.production"


async def test_etcd_away_for_three_lifetimes(tmp_path: Path, autojump_clock: object) -> None:
    """With agents, issuers among them, restarted meanwhile: nobody notices."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        await mesh.with_issuer("issuer-1", "issuer-2", lifetime="1h")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        await trio.sleep(10)
        store.down = True
        store.cut()
        first = web.shown[PETS].ends_s
        for round_ in range(36):
            leap(HOUR_S / 12)
            await trio.sleep(15)
            if round_ % 7 == 3:
                host = mesh.hosts[round_ % len(mesh.hosts)]
                mesh.restart(host)
                await trio.sleep(5)
            for host in mesh.hosts:
                services = (PETS,) if host.host == "web-1" else ()
                assert host.shows("", *services), (round_, host.host, host.problems)
                assert not host.problems
        web = next(host for host in mesh.hosts if host.host == "web-1")
        assert web.shown[PETS].ends_s > first + 2 * HOUR_S
        store.down = False
        await trio.sleep(30)
        assert web.shows("", PETS) and not web.problems


async def outage(mesh: Mesh, store: MemoryStore, web: Host) -> None:
    """Etcd is away until web-1 has renewed what it holds, past it; and comes back."""
    before = web.shown[PETS].ends_s
    store.down = True
    store.cut()
    for _ in range(20):
        leap(HOUR_S / 10)
        await trio.sleep(15)
        if web.shown[PETS].ends_s > before + HOUR_S / 2:
            break
    assert web.shown[PETS].ends_s > before + HOUR_S / 2, web.problems
    store.down = False


def leaf_in(text: str) -> x509.Certificate:
    """Of a chain, or of a file that workers read."""
    return x509.load_pem_x509_certificates(text.encode())[0]


async def test_what_was_signed_without_etcd_is_noted_there(tmp_path: Path, autojump_clock: object) -> None:
    """Once it is back, for each name what its host holds; the issuer's own too; and no request is answered anew."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1", lifetime="1h")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        await trio.sleep(10)
        before = await web.signed(f"svc/{PETS}")
        assert before is not None
        answered = issuer.identity.counters()
        await outage(mesh, store, web)
        assert issuer.identity.as_state()["signed_without_etcd"] >= 2

        async def noted() -> bool:
            for host, name, shown in ((web, "agent", ""), (web, f"svc/{PETS}", PETS), (issuer, "agent", "")):
                signed = await host.signed(name)
                if signed is None or leaf_in(signed.chain) != leaf_in(Path(host.shown[shown].chain).read_text()):
                    return False
            return not issuer.identity.as_state()["signed_without_etcd"]

        await until(noted)
        after = await web.signed(f"svc/{PETS}")
        assert after is not None and (after.request, after.issuer) == (before.request, "issuer-1")
        await trio.sleep(20)
        assert issuer.identity.counters() == answered, "nothing was asked, so nothing is signed"


async def test_a_restored_etcd_that_knows_no_request_is_told(tmp_path: Path, autojump_clock: object) -> None:
    """It stands alone, as an answer to a token does, and nobody clears it away."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1", lifetime="1h")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        await trio.sleep(10)
        await store.delete(KEYS.request("web-1", f"svc/{PETS}"))
        await until(lambda: web.identity is not None)
        await trio.sleep(5)
        assert await web.signed(f"svc/{PETS}") is None, "an answer that nobody asks for is cleared away"
        await outage(mesh, store, web)
        await until(lambda: not issuer.identity.as_state()["signed_without_etcd"])
        await trio.sleep(20)
        signed = await web.signed(f"svc/{PETS}")
        assert signed is not None and signed.request == 0


async def noted(store: MemoryStore, csr: str, at_s: float) -> Signed | None:
    """What stands for web-1's agent, once an issuer has put what it signed without etcd."""
    late = LateAnswers(store, KEYS, lambda: True, Random(1))
    late.note("web-1", "agent", csr, Signed(chain="late", issuer="issuer-1", at=datetime.fromtimestamp(at_s, UTC)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.run)
        await until(lambda: not len(late))
        nursery.cancel_scope.cancel()
    found = await store.get(KEYS.signed("web-1", "agent"))
    return decode(Signed, found.value) if found is not None else None


@pytest.mark.parametrize(
    ("asked", "answered", "at_s", "chain", "answers"),
    [
        ("", None, 5.0, "late", 0),
        ("csr", None, 5.0, "late", 1),
        ("csr", Signed(refused="no", request=1, at=datetime.fromtimestamp(9, UTC)), 5.0, "late", 1),
        ("csr", Signed(chain="newer", request=1, at=datetime.fromtimestamp(9, UTC)), 5.0, "newer", 1),
        ("another", Signed(chain="old", request=1, at=datetime.fromtimestamp(1, UTC)), 5.0, "late", 1),
        ("another", Signed(chain="old", request=7, at=datetime.fromtimestamp(1, UTC)), 5.0, "old", 7),
        ("another", None, 5.0, "", 0),
        ("", Signed(chain="old", request=1, at=datetime.fromtimestamp(1, UTC)), 5.0, "late", 0),
    ],
    ids=[
        "nothing stands",
        "asked with that key",
        "refused meanwhile",
        "something newer stands",
        "answered with the key before",
        "asked with another key, not answered yet",
        "asked with another key, nothing answered",
        "the request is gone",
    ],
)
async def test_what_is_noted_where(
    autojump_clock: object, asked: str, answered: Signed | None, at_s: float, chain: str, answers: int
) -> None:
    """Nothing newer is written over, and no request counts as answered that is not."""
    store = MemoryStore()
    moment = datetime.fromtimestamp(0, UTC)
    if asked:
        assert await store.put(KEYS.request("web-1", "agent"), encode(Request(csr=asked, at=moment))) == 2
    if answered is not None:
        stands = msgspec.structs.replace(answered, request=answered.request + 1)
        await store.put(KEYS.signed("web-1", "agent"), encode(stands))
    found = await noted(store, "csr", at_s)
    assert ((found.chain, found.request) if found is not None else ("", 0)) == (chain, answers and answers + 1)


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each name the last; the oldest goes."""
    monkeypatch.setattr("agent.control.identity.late_answers.MAX_LATE", 3)
    late = LateAnswers(MemoryStore(), KEYS, lambda: True, Random(1))
    for number in range(5):
        for _ in range(3):
            late.note(f"web-{number}", "agent", "csr", Signed(chain="c", at=datetime.fromtimestamp(0, UTC)))
    assert list(late._late) == [("web-2", "agent"), ("web-3", "agent"), ("web-4", "agent")]


async def test_an_issuer_that_is_none_any_more_notes_nothing(tmp_path: Path, autojump_clock: object) -> None:
    """It has no right to."""
    store = MemoryStore()
    late = LateAnswers(store, KEYS, lambda: False, Random(1))
    late.note("web-1", "agent", "csr", Signed(chain="c", at=datetime.fromtimestamp(0, UTC)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.run)
        await until(lambda: not len(late))
        nursery.cancel_scope.cancel()
    assert await store.get(KEYS.signed("web-1", "agent")) is None


async def test_only_agents_of_the_mesh_are_signed_for(tmp_path: Path, autojump_clock: object) -> None:
    """By the certificate that they show, and for what their own host is granted."""
    async with running(tmp_path) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        await trio.sleep(5)
        question = msgspec.msgpack.encode(Sign(f"svc/{PETS}", make_request(key("another")).decode()))
        for who, status in (
            ("", 403),
            ("nonsense", 403),
            (f"spiffe://{TRUST_DOMAIN}/svc/{PETS}", 403),
            ("spiffe://partner.example/agent/web-1", 403),
            (f"spiffe://{TRUST_DOMAIN}/agent/web-1", 200),
        ):
            assert (await issuer.answers(SIGN, question, who))[0] == status, who
        status, body = await issuer.answers(SIGN, question, f"spiffe://{TRUST_DOMAIN}/agent/web-2")
        answer = msgspec.msgpack.decode(body, type=SignAnswer)
        assert not answer.chain and "etcdctl put /shoal/default/identity/hosts/web-2" in answer.refused
        agent = f"spiffe://{TRUST_DOMAIN}/agent/web-1"
        for body in (b"", b"\xff", msgspec.msgpack.encode(Sign("../../x", "no request"))):
            status, said = await issuer.answers(SIGN, body, agent)
            assert status == 400 or not msgspec.msgpack.decode(said, type=SignAnswer).chain


# Joining.


async def token(mesh: Mesh, host: str, lasts_s: float = HOUR_S) -> str:
    """A secret that lets a host in, as an operator makes it."""
    secret = secret_of(os.urandom(SECRET_BYTES))
    await mesh.operator.add(host, PETS)
    await mesh.operator.put(
        "joins", digest_of(secret), Join(host=host, until=datetime.fromtimestamp(clock() + lasts_s, UTC))
    )
    await trio.sleep(5)
    return secret


async def join(issuer: Host, secret: str) -> tuple[int, bytes]:
    """As a new host asks."""
    return await issuer.answers(JOIN, msgspec.msgpack.encode(Joining(secret, make_request(key("new")).decode())))


async def test_a_token_lets_one_host_in_once(tmp_path: Path, autojump_clock: object) -> None:
    """Replayed, even at the same moment and at two issuers, it is refused, and told with the address."""
    async with running(tmp_path) as mesh:
        issuers = await mesh.with_issuer("issuer-1", "issuer-2")
        secret = await token(mesh, "web-3")
        answers: list[tuple[int, bytes]] = []

        async def one(issuer: Host) -> None:
            answers.append(await join(issuer, secret))

        async with trio.open_nursery() as nursery:
            for issuer in (*issuers, *issuers):
                nursery.start_soon(one, issuer)
        assert sorted(status for status, _ in answers) == [200, 403, 403, 403]
        joined = msgspec.msgpack.decode(next(body for status, body in answers if status == 200), type=Joined)
        assert "BEGIN CERTIFICATE" in joined.chain and TRUST_DOMAIN in joined.bundle
        refused = [reason for host in issuers for kind, _, reason in host.told if kind == "join.refused"]
        assert len(refused) == 3 and all("from 10.0.0.9" in reason for reason in refused)
        assert await mesh.store.get(KEYS.identity("joins", digest_of(secret))) is None
        await trio.sleep(120)
        signed = await mesh.store.get(KEYS.signed("web-3", "agent"))
        assert signed is not None, "it stays, for who looks who joined"


@pytest.mark.parametrize("case", ["late", "unknown", "not a member", "garbage", "revoked token"])
async def test_tokens_that_let_nobody_in(tmp_path: Path, autojump_clock: object, case: str) -> None:
    """In words, and the token is not used up by what was refused."""
    async with running(tmp_path) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")
        secret = await token(mesh, "web-3")
        stands = True
        if case == "late":
            leap(2 * HOUR_S)
        elif case == "unknown":
            status, body = await join(issuer, secret_of(os.urandom(SECRET_BYTES)))
        elif case == "not a member":
            await mesh.store.delete(KEYS.identity("hosts", "web-3"))
            await trio.sleep(2)
        elif case == "garbage":
            await mesh.operator.put("joins", digest_of(secret), b"\xff")
        else:
            await mesh.store.delete(KEYS.identity("joins", digest_of(secret)))
            stands = False
        if case != "unknown":
            status, body = await join(issuer, secret)
        assert status == 403 and body
        assert [kind for kind, _, _ in issuer.told if kind == "join.refused"] == ["join.refused"]
        assert secret not in str(issuer.told)
        assert (await mesh.store.get(KEYS.identity("joins", digest_of(secret))) is not None) is stands


async def test_nobody_joins_without_etcd(tmp_path: Path, autojump_clock: object) -> None:
    """Whether a token was used is known there; it is good afterwards."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")
        secret = await token(mesh, "web-3")
        store.down = True
        status, body = await join(issuer, secret)
        assert status == 503 and b"etcd is away" in body
        store.down = False
        assert (await join(issuer, secret))[0] == 200


async def test_an_operators_wish_for_other_certificates(tmp_path: Path, autojump_clock: object) -> None:
    """`renew_before` of a host's record: each is asked for anew, once, and shown until the new one is there."""
    from registry.identity_records import Host as HostRecord

    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        before = {name: svid.key for name, svid in web.shown.items()}
        leap(HOUR_S)
        await trio.sleep(10)
        assert {name: svid.key for name, svid in web.shown.items()} == before
        wish = HostRecord(renew_before=datetime.fromtimestamp(clock(), UTC))
        await mesh.operator.put("hosts", "web-1", wish)
        await until(lambda: all(web.shown[name].key != path for name, path in before.items()))
        after = {name: svid.key for name, svid in web.shown.items()}
        await trio.sleep(60)
        assert {name: svid.key for name, svid in web.shown.items()} == after
