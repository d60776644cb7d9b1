"""Hosts, issuers and an operator at a store in memory: who gets what, from nothing to the end."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509

from agent.identity.certificates import key_digest, make_request
from agent.identity.revocations import Revocations, Revoked
from registry.identity_records import Request, Signing
from registry.records import encode
from registry.store import Put
from tests.support.identity import NOW_S, TRUST_DOMAIN, Authority, key
from tests.support.issuing import DAY_S, HOUR_S, KEYS, Mesh, clock, leap, running, until
from tests.support.memory import MemoryStore

PETS = "pets.production"
SHOP = "shop.production"


def leaf(path: str) -> x509.Certificate:
    """Of a file that workers read."""
    return x509.load_pem_x509_certificates(Path(path).read_bytes())[0]


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


# What is held.


async def test_without_a_bundle_there_is_nothing(tmp_path: Path, autojump_clock: object) -> None:
    """Whatever else stands: nothing is asked, nothing told, nothing written, and no library loaded."""
    async with running(tmp_path) as mesh:
        web = mesh.host("web-1", PETS)
        await mesh.operator.add("web-1", PETS)
        await until(lambda: web.identity._heard)
        assert web.identity._engaged is None and not web.folder.exists()
        assert web.identity.as_state() == {} and web.identity.gauges() == {} and web.identity.counters() == {}
        assert await mesh.store.get(KEYS.request("web-1", "agent")) is None


async def test_what_is_granted_is_held(tmp_path: Path, autojump_clock: object) -> None:
    """For the agent, and for each service that is registered and granted: shown to workers, told to the mesh."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        trust = web.proven[-1]
        assert trust.trust_domain == TRUST_DOMAIN and list(trust.bundles) == [TRUST_DOMAIN]
        assert all(stat.S_IMODE(os.stat(svid.key).st_mode) == 0o600 for svid in trust.shown.values())
        assert not list(web.folder.glob("*.key")), "what was asked with is held"

        async def told() -> bool:
            holds = await web.holds()
            return holds is not None and set(holds.services) == {PETS} and holds.agent is not None

        await until(told)
        holds = await web.holds()
        assert holds is not None and holds.bundle == 1 and len(holds.roots) == 1
        assert web.problems == {}


async def test_a_host_asking_for_what_it_may_not_hold(tmp_path: Path, autojump_clock: object) -> None:
    """Gets none, however it asks: a line of words that names host, service and the grant that would allow it."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS, SHOP)
        await until(lambda: web.shows("", PETS) and web.problems)
        line = f'etcdctl put /shoal/default/identity/grants/{SHOP} \'{{"hosts": ["web-1"]}}\''
        assert line in web.problems[f"svc/{SHOP}"]
        assert ("identity.missing", SHOP, web.problems[f"svc/{SHOP}"]) in web.told
        assert await mesh.store.get(KEYS.request("web-1", f"svc/{SHOP}")) is None, "it does not even ask"
        asked = encode(Request(csr=make_request(key("thief")).decode(), at=moment(clock())))
        for host, name in (("web-1", f"svc/{SHOP}"), ("stranger", "agent"), ("stranger", f"svc/{PETS}")):
            await mesh.store.put(KEYS.request(host, name), asked)
        web.host = "stranger"
        refused = await until(lambda: web.signed("agent"))
        assert not refused.chain and "etcdctl put /shoal/default/identity/hosts/stranger '{}'" in refused.refused
        web.host = "web-1"
        refused = await until(lambda: web.signed(f"svc/{SHOP}"))
        assert not refused.chain and line in refused.refused


async def test_a_host_that_was_put_out_is_told_so(tmp_path: Path, autojump_clock: object) -> None:
    """Neither its own agent nor an issuer says what would let it in: who reads it at night would type it."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        now, ends = moment(clock()), moment(clock() + DAY_S)
        entry = Revoked(until=ends, host="web-1", before=now, reason="stolen", by="ada", at=now)
        await mesh.operator.put("revocations", value=Revocations([entry]).document())
        for what, whose in (("hosts", "web-1"), ("grants", PETS)):
            await mesh.store.delete(KEYS.identity(what, whose))
        await until(lambda: len(web.problems) == 2)

        async def refused(name: str) -> str:
            signed = await web.signed(name)
            return signed.refused if signed is not None else ""

        asked = encode(Request(csr=make_request(key("thief")).decode(), at=moment(clock())))
        told = list(web.problems.values())
        for name in ("agent", f"svc/{PETS}"):
            await mesh.store.put(KEYS.request("web-1", name), asked)
            told.append(await until(partial(refused, name)))
        for said in told:
            assert f"{entry}" in said and "host web-1 is revoked since" in said and "by ada (stolen)" in said
            assert "etcdctl" not in said


async def test_a_grant_that_comes_later(tmp_path: Path, autojump_clock: object) -> None:
    """Is used at once, and what was told has ended."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1")
        web = mesh.host("web-1", PETS)
        await until(lambda: web.problems)
        await mesh.operator.add("web-1", PETS)
        await until(lambda: web.shows("", PETS) and not web.problems, 10)
        assert ("identity.held", PETS, "it holds a certificate") in web.told


async def test_services_come_and_go(tmp_path: Path, autojump_clock: object) -> None:
    """One that is registered while the agent runs is proven within seconds; one that left lets all of it go, a while
    after: files, request, and answer."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS, SHOP)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        web.services.add(SHOP)
        await until(lambda: web.shows("", PETS, SHOP), 20)
        files = {Path(svid.key) for name, svid in web.shown.items() if name == SHOP}
        web.services.discard(SHOP)
        await trio.sleep(60)
        assert web.shows("", PETS, SHOP), "it finishes what it began"
        await until(lambda: web.shows("", PETS), 1200)
        await until(lambda: not any(path.exists() for path in files))

        async def gone() -> bool:
            place = f"svc/{SHOP}"
            return not (await mesh.store.get(KEYS.request("web-1", place)) or await web.signed(place))

        await until(gone)


async def test_renewal(tmp_path: Path, autojump_clock: object) -> None:
    """At about half of its life there is another, with another key; for days nothing is missing for a moment."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1", lifetime="1h")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        first = web.shown[PETS]
        for _ in range(6 * 12):
            leap(HOUR_S / 12)
            await trio.sleep(12)
            assert web.shows("", PETS) and not web.problems
        assert key_digest(leaf(web.shown[PETS].key).public_key()) != Path(first.key).stem
        assert 10 <= len({trust.shown[PETS].key for trust in web.proven if PETS in trust.shown}) <= 30
        assert len(list(web.folder.glob("*.pem"))) <= 4, "of each the one that is held, and the one before"


async def test_nobody_can_issue(tmp_path: Path, autojump_clock: object) -> None:
    """Serving goes on until the end; from two thirds on it is told, with how long; what has ended is not shown."""
    async with running(tmp_path) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1", lifetime="1h")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        await trio.sleep(5)
        mesh.kill(issuer)
        leap(0.6 * HOUR_S)
        await trio.sleep(6)
        assert web.shows("", PETS) and not web.problems
        leap(0.1 * HOUR_S)
        await until(lambda: web.problems, 6)
        assert "ends in" in web.problems[f"svc/{PETS}"] and web.shows("", PETS)
        assert web.identity.gauges()["shoal_identity_missing"] == 2
        leap(0.3 * HOUR_S)
        await until(lambda: web.shown == {}, 6)
        await until(lambda: "no certificate" in web.problems["agent"])
        assert {service for kind, service, _ in web.told if kind == "identity.missing"} == {"agent.shoal", PETS}
        mesh.restart(issuer)
        await until(lambda: web.shows("", PETS) and not web.problems, HOUR_S)


# Issuers.


class Watched(MemoryStore):
    """Counts who answers what."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[str, bytes]] = []
        self.before: Any = None
        """Called with each transaction before it is made."""

    async def transact(self, compare: Any, success: Any, failure: Any = ()) -> Any:
        if self.before is not None:
            await self.before(success)
        outcome = await super().transact(compare, success, failure)
        if outcome.succeeded:
            for operation in success:
                if isinstance(operation, Put) and operation.key.startswith(f"{KEYS.prefix}signed/"):
                    self.answers.append((operation.key, operation.value))
        return outcome


async def test_two_issuers_at_once(tmp_path: Path, autojump_clock: object) -> None:
    """Each request is answered once, and both take part."""
    store = Watched()
    async with running(tmp_path, store) as mesh:
        first, second = await mesh.with_issuer("issuer-1", "issuer-2")
        store.answers.clear()
        names = [f"s{n}.production" for n in range(30)]
        await mesh.operator.add("web-1", *names)
        web = mesh.host("web-1", *names)
        await until(lambda: web.shows("", *names))
        assert sorted(key for key, _ in store.answers) == sorted(
            KEYS.signed("web-1", name) for name in ["agent", *(f"svc/{name}" for name in names)]
        )
        by = [host.identity.counters()["shoal_identity_signed",] for host in (first, second)]
        assert min(by) > 3, by
        assert not (await store.range(f"{KEYS.prefix}signing/", f"{KEYS.prefix}signing0")).items


@pytest.mark.parametrize("when", ["claimed", "signed"])
async def test_an_issuer_killed_on_its_way(tmp_path: Path, autojump_clock: object, when: str) -> None:
    """After it has claimed, or signed and not put: its claim ends with its lease, and the other one goes on."""
    store = Watched()
    async with running(tmp_path, store) as mesh:
        hosts = {host.host: host for host in await mesh.with_issuer("issuer-1", "issuer-2")}
        killed: list[str] = []

        async def kill(operations: Any) -> None:
            for operation in operations:
                if killed or not isinstance(operation, Put):
                    continue
                wanted = "signing/" if when == "claimed" else "signed/"
                if operation.key == f"{KEYS.prefix}{wanted}web-1/svc/{PETS}":
                    if when == "claimed":
                        await MemoryStore.transact(store, [], operations)
                        killed.append(_issuer(operation.value))
                    else:
                        found = await store.get(KEYS.signing("web-1", f"svc/{PETS}"))
                        assert found is not None
                        killed.append(_issuer(found.value))
                    hosts[killed[0]].scope.cancel()
                    await trio.lowlevel.checkpoint()

        store.before = kill
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        assert len(killed) == 1
        answer = await web.signed(f"svc/{PETS}")
        assert answer is not None and answer.issuer != killed[0]


def _issuer(value: bytes) -> str:
    from registry.records import decode

    return decode(Signing, value).issuer


async def test_a_paused_issuer_puts_nothing(tmp_path: Path, autojump_clock: object) -> None:
    """A grant, a membership, a revocation or the request that changes between its look and its word undoes the word."""
    store = Watched()
    async with running(tmp_path, store) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        put = KEYS.signed("web-1", f"svc/{PETS}")
        meanwhile: list[Any] = [
            lambda: mesh.operator.put("hosts", "web-1", b'{"description": "the same"}'),
            lambda: mesh.operator.put("revocations", value=b'{"revoked": []}'),
            lambda: mesh.operator.put("grants", PETS, b'{"hosts": ["web-2"]}'),
        ]
        tried = 0

        async def pause(operations: Any) -> None:
            nonlocal tried
            if any(isinstance(each, Put) and each.key == put and b"BEGIN" in each.value for each in operations):
                tried += 1
                if meanwhile:
                    await meanwhile.pop(0)()

        store.before = pause
        mesh.host("web-1", PETS)
        await until(lambda: not meanwhile)
        await until(lambda: tried == 3)
        await trio.sleep(30)
        assert not any(key == put and b"BEGIN" in value for key, value in store.answers)


async def test_a_lone_claim_that_is_none(tmp_path: Path, autojump_clock: object) -> None:
    """What stands under signing/ without a lease keeps nobody waiting, be it garbage or an issuer's that was."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.store.put(KEYS.signing("web-1", "agent"), b"\xff garbage")
        old = Signing(issuer="issuer-9", revision=1, at=moment(NOW_S))
        await mesh.store.put(KEYS.signing("web-1", f"svc/{PETS}"), encode(old))
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS), 30)


async def test_an_issuer_that_is_one_no_more(tmp_path: Path, autojump_clock: object) -> None:
    """Lets its intermediate go, and signs nothing."""
    async with running(tmp_path) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")
        await until(lambda: issuer.shows(""))
        await mesh.store.delete(KEYS.identity("issuers", "issuer-1"))
        await until(lambda: not issuer.identity.as_state()["issuing"])
        await until(lambda: "issuer" not in {each["name"] for each in issuer.identity.as_state()["held"]})
        await mesh.operator.add("web-1")
        web = mesh.host("web-1")
        await trio.sleep(60)
        assert web.shown == {} and "nobody who can sign has answered" in web.problems["agent"]


async def test_an_intermediate_is_rotated(tmp_path: Path, autojump_clock: object) -> None:
    """At half of its life, or when an operator empties the record, the host asks with another key."""
    async with running(tmp_path) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")

        def held() -> Any:
            return next(each for each in issuer.identity.as_state()["held"] if each["name"] == "issuer")

        async def request() -> Any:
            return await mesh.store.get(KEYS.request("issuer-1", "issuer"))

        first, asked = held(), await request()
        leap(18 * DAY_S)
        await trio.sleep(10)
        assert (await request()).value != asked.value and held() == {**first, "ends_s": held()["ends_s"]}
        await mesh.operator.make_issuer("issuer-1")
        await until(lambda: held()["ends"] != first["ends"])
        assert issuer.identity.as_state()["issuing"] and issuer.problems == {}


# Clocks.


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
async def test_a_clock_an_hour_off(tmp_path: Path, autojump_clock: object, off_s: float) -> None:
    """An issuer's that is ahead makes what others do not believe yet: they say so, and whose clock it is. One that is
    behind by an hour makes what is shorter by that, and says nothing false."""
    async with running(tmp_path) as mesh:
        await mesh.operator.put_bundle()
        issuer = mesh.host("issuer-1")
        await mesh.operator.add("issuer-1")
        await mesh.operator.make_issuer("issuer-1")
        leap(2 * HOUR_S)  # its intermediate is valid for both clocks
        await until(lambda: issuer.shows(""))
        issuer.off_s = off_s
        await trio.sleep(6)
        await mesh.operator.add("web-1")
        web = mesh.host("web-1")
        if off_s > 0:
            await until(lambda: web.problems)
            assert "too early; one of the clocks is off" in web.problems["agent"] and web.shown == {}
        else:
            await until(lambda: web.shows(""))
            assert 22.5 * HOUR_S < web.shown[""].ends_s - clock() < 23.5 * HOUR_S
        assert web.identity.as_state()["clocks"] == {"issuer-1": pytest.approx(off_s, abs=10)}


async def test_a_host_whose_own_clock_jumps(tmp_path: Path, autojump_clock: object) -> None:
    """A year ahead it shows nothing, and says why; back again it shows what it had. Nothing was deleted meanwhile."""
    async with running(tmp_path) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        had = web.shown
        mesh.kill(issuer)
        web.off_s = 365 * DAY_S
        await until(lambda: web.shown == {} and "ended" in web.problems.get("agent", ""))
        web.off_s = 0.0
        await until(lambda: web.shown == had, 20)
        await until(lambda: not web.problems)
        web.off_s = -365 * DAY_S
        web = mesh.restart(web)
        await trio.sleep(10)
        assert web.shown == {}
        web.off_s = 0.0
        await until(lambda: web.shown == had, 20)


# etcd.


async def test_a_restart_while_etcd_is_away(tmp_path: Path, autojump_clock: object) -> None:
    """Shows and believes what it did before."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        revoked = Revocations([Revoked(until=moment(NOW_S + DAY_S), host="web-9", before=moment(NOW_S))])
        await mesh.operator.put("revocations", value=revoked.document())
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS) and web.proven[-1].revoked)
        await trio.sleep(5)
        before = web.proven[-1]
        store.down = True
        store.cut()
        web = mesh.restart(web)
        await until(lambda: web.shows("", PETS), 1)
        assert web.proven[-1] == before


async def test_what_was_pending_is_gone_on_with(tmp_path: Path, autojump_clock: object) -> None:
    """A key that was asked with is on disk before, so the answer to it is of use after a restart."""
    async with running(tmp_path) as mesh:
        await mesh.operator.put_bundle()
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: mesh.store.get(KEYS.request("web-1", f"svc/{PETS}")))
        asked = await mesh.store.get(KEYS.request("web-1", f"svc/{PETS}"))
        web = mesh.restart(web)
        await trio.sleep(60)
        assert await mesh.store.get(KEYS.request("web-1", f"svc/{PETS}")) == asked, "the same, at the same revision"
        await mesh.operator.add("issuer-1")
        mesh.host("issuer-1")
        await mesh.operator.make_issuer("issuer-1")
        await until(lambda: web.shows("", PETS))


async def test_revocations_survive_a_restored_etcd(tmp_path: Path, autojump_clock: object) -> None:
    """Agents keep what they heard, and an issuer puts it back; and no lower bundle is believed."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1")
        web = mesh.host("web-1")
        await until(lambda: web.shows(""))
        backup = (await store.range(KEYS.prefix, f"{KEYS.prefix}~")).items
        entry = Revoked(until=moment(NOW_S + DAY_S), key="ab" * 32, reason="stolen")
        await mesh.operator.put("revocations", value=Revocations([entry]).document())
        await mesh.operator.put_bundle(2, (mesh.operator.authority.root.certificate,))
        await until(lambda: web.proven[-1].revoked and web.identity.as_state()["bundle"] == 2)
        store.replace(cluster_id=7)
        for item in backup:
            if not item.lease:
                await store.put(item.key, item.value)

        async def put_back() -> bool:
            found = await store.get(KEYS.identity("revocations"))
            return found is not None and b"stolen" in found.value

        await until(put_back)
        await until(lambda: "no agent goes back" in web.identity.malformed.get(KEYS.identity("bundle"), ""))
        assert web.proven[-1].revoked and web.identity.as_state()["bundle"] == 2


async def test_a_restored_etcd_without_identity(tmp_path: Path, autojump_clock: object) -> None:
    """Takes nothing away that was believed; an operator's deletion does, and everything is plain again."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1")
        web = mesh.host("web-1")
        await until(lambda: web.shows(""))
        store.replace(cluster_id=7)
        await until(lambda: KEYS.identity("bundle") in web.identity.malformed)
        assert web.shows("")
        await mesh.operator.put_bundle()
        await until(lambda: KEYS.identity("bundle") not in web.identity.malformed)
        await store.delete(KEYS.identity("bundle"))
        await until(lambda: web.shown == {} and web.proven[-1].trust_domain == "")
        await until(lambda: web.identity.as_state() == {})

        async def untold() -> bool:
            return await web.holds() is None

        await until(untold)


async def test_a_revoked_host(tmp_path: Path, autojump_clock: object) -> None:
    """Of what it holds nothing is shown at once, here too; a revoked key alone is replaced by another."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        lost = web.shown[PETS].key
        digest = key_digest(leaf(lost).public_key())
        until_s = moment(clock() + 2 * DAY_S)
        revoked = Revocations([Revoked(until=until_s, key=digest)])
        await mesh.operator.put("revocations", value=revoked.document())
        await until(lambda: PETS not in web.shown or web.shown[PETS].key != lost, 3)
        await until(lambda: web.shows("", PETS))
        assert web.shown[PETS].key != lost
        both = Revocations([Revoked(until=until_s, host="web-1", before=moment(clock() + 60))])
        await mesh.operator.put("revocations", value=both.merged(revoked, clock()).document())
        await until(lambda: web.shown == {}, 3)
        await trio.sleep(55)
        assert web.shown == {}
        await until(lambda: web.shows("", PETS), HOUR_S)


async def test_a_root_is_replaced(tmp_path: Path, autojump_clock: object) -> None:
    """With both in the bundle nothing ends; without the old one what led to it is not shown."""
    async with running(tmp_path) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        old, new = mesh.operator.authority, Authority("new.shoal")
        from agent.identity.certificates import ROOT_S, Issuer, Terms, make_root

        root_key = key("another root")
        new.root = Issuer(make_root(root_key, TRUST_DOMAIN, Terms(7, clock(), ROOT_S)), root_key)
        await mesh.operator.put_bundle(2, (old.root.certificate, new.root.certificate))
        mesh.operator.authority = new
        await until(lambda: len(web.proven[-1].bundles[TRUST_DOMAIN]) == 2)
        await mesh.operator.make_issuer("issuer-1")
        for _ in range(4 * 24):
            leap(HOUR_S / 2)
            await trio.sleep(12)
            assert web.shows("", PETS)

        async def moved() -> bool:
            holds = await web.holds()
            from cryptography.hazmat.primitives.hashes import SHA256

            return holds is not None and holds.roots == [new.root.certificate.fingerprint(SHA256()).hex()]

        await until(moved)
        await mesh.operator.put_bundle(3, (new.root.certificate,))
        await until(lambda: len(web.proven[-1].bundles[TRUST_DOMAIN]) == 1)
        await trio.sleep(5)
        assert web.shows("", PETS)
        assert old.root.certificate not in new.bundle.roots


# Garbage.

GARBAGE = [b"", b"\xff\xfe", b"{}", b"[]", b"null", b'{"hosts": 1}', b"{" * 5000, b'{"keys": []}', b"\x00" * 70_000]


def keys_of_identity() -> list[str]:
    """One of each sort."""
    rooms = [("bundle", ""), ("revocations", ""), ("grants", PETS), ("hosts", "web-1"), ("issuers", "issuer-1")]
    rooms += [("joins", "a" * 64), ("trust", "partner.example")]
    found = [KEYS.identity(*each) for each in rooms]
    found += [KEYS.request("web-1", "agent"), KEYS.request("web-1", "issuer"), KEYS.request("web-1", f"svc/{PETS}")]
    found += [KEYS.signed("web-1", "agent"), KEYS.signed("web-1", f"svc/{PETS}"), KEYS.signing("web-1", "agent")]
    return [*found, f"{KEYS.prefix}identity/", f"{KEYS.prefix}identity/nothing/x", f"{KEYS.prefix}signed/web-1/x"]


async def test_garbage_in_every_key(tmp_path: Path, autojump_clock: object) -> None:
    """Ends nothing, replaces nothing good, and is listed with the reason; what comes after it is taken as ever."""
    store = MemoryStore()
    async with running(tmp_path, store) as mesh:
        (issuer,) = await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: web.shows("", PETS))
        good = {item.key: item.value for item in (await store.range(KEYS.prefix, f"{KEYS.prefix}~")).items}
        for value in GARBAGE:
            for name in keys_of_identity():
                await store.put(name, value)
            await trio.sleep(3)
            assert web.shows("", PETS), value[:20]
            assert issuer.identity.as_state()["issuing"], value[:20]
        for name in keys_of_identity()[:2]:
            assert name in web.identity.malformed
        web.services.add(SHOP)
        for name in keys_of_identity():
            await store.delete(name)
            if name in good and "signing" not in name:
                await store.put(name, good[name])
        await mesh.operator.add("web-1", SHOP)
        await until(lambda: web.shows("", PETS, SHOP), HOUR_S)
        assert not web.identity.malformed, web.identity.malformed


async def test_answers_that_are_not_ours(tmp_path: Path, autojump_clock: object) -> None:
    """Whoever may write signed/ can delay, and no more: a chain for another key, of another root, with another name."""
    async with running(tmp_path) as mesh:
        await mesh.operator.put_bundle()
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        found = await until(lambda: mesh.store.get(KEYS.request("web-1", f"svc/{PETS}")))
        for chain in await forged(mesh, found.value):
            from registry.identity_records import Signed

            answer = Signed(chain=chain, request=found.mod_revision, issuer="issuer-1", at=moment(clock()))
            await mesh.store.put(KEYS.signed("web-1", f"svc/{PETS}"), encode(answer))
            await trio.sleep(2)
            assert web.shown == {}
        await mesh.operator.add("issuer-1")
        mesh.host("issuer-1")
        await mesh.operator.make_issuer("issuer-1")
        await until(lambda: web.shows("", PETS), HOUR_S)


async def forged(mesh: Mesh, request: bytes) -> list[str]:
    """Chains that are not what was asked for."""
    from agent.identity.certificates import Terms, make_svid, read_request, to_pem
    from agent.identity.spiffe import service_id
    from registry.records import decode

    ours, stranger = mesh.operator.authority, Authority("default.shoal2")
    asked = read_request(decode(Request, request).csr.encode())
    terms = Terms(5, clock(), DAY_S)
    shop = make_svid(ours.issuer, asked, service_id(TRUST_DOMAIN, SHOP), "web-1", terms)
    foreign = make_svid(stranger.issuer, asked, service_id(TRUST_DOMAIN, PETS), "web-1", terms)
    return [
        to_pem(ours.svid()).decode(),
        to_pem([shop, ours.issuer.certificate]).decode(),
        to_pem([foreign, stranger.issuer.certificate]).decode(),
        "no chain",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ]


async def test_etcd_that_does_not_take_requests(tmp_path: Path, autojump_clock: object) -> None:
    """Is asked again, and it is said what it lacks; nothing else of the agent is hurt."""
    from registry.store import Refused

    class Unwilling(MemoryStore):
        willing = False

        async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
            if key.startswith(f"{KEYS.prefix}requests/web-1") and not self.willing:
                raise Refused("etcdserver: permission denied")
            return await super().put(key, value, lease=lease)

    store = Unwilling()
    async with running(tmp_path, store) as mesh:
        await mesh.with_issuer("issuer-1")
        await mesh.operator.add("web-1", PETS)
        web = mesh.host("web-1", PETS)
        await until(lambda: "permission denied" in web.identity.as_state().get("error", ""))
        store.willing = True
        await until(lambda: web.shows("", PETS), HOUR_S)
        assert web.identity.as_state()["error"] == ""
