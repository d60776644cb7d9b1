"""Hosts and an operator at a store in memory: who gets what, from nothing to the end."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

import trio

from agent.identity.certificates import key_digest, make_request
from agent.identity.revocations import Revocations, Revoked
from registry.identity_records import Request
from registry.records import encode
from tests.support.identity import TRUST_DOMAIN, key
from tests.support.issuing import DAY_S, HOUR_S, KEYS, clock, leaf, leap, moment, running, until

PETS = "pets.production"
SHOP = "shop.production"


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
