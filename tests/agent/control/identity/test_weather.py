"""Clocks that are off, an etcd that is away, restored or full of garbage: what is held stays, and no more is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.identity.certificates import key_digest
from agent.identity.revocations import Revocations, Revoked
from registry.identity_records import Request
from registry.records import encode
from tests.support.identity import NOW_S, TRUST_DOMAIN, Authority, key
from tests.support.issuing import DAY_S, HOUR_S, KEYS, Mesh, clock, leaf, leap, moment, running, until
from tests.support.memory import MemoryStore

PETS = "pets.production"
SHOP = "shop.production"


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
