"""Certificates from SPIFFE's Workload API: a real gRPC server on a Unix socket gives, and an agent takes."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from agent.frames import Svid, Trust
from agent.identity.revocations import Revocations, Revoked
from agent.identity.spiffe import agent_id
from agent.proxy.engine.reactor import Reactor
from agent.proxy.proof.security import Security
from agent.questions import JOIN, SIGN
from tests.support.identity import PETS, SHOP, TRUST_DOMAIN, Authority, der
from tests.support.issuing import HOUR_S, KEYS, Host, Mesh, clock, leap, running, until
from tests.support.workload import RESPONSE, WorkloadApi, response, serving

WEB = agent_id(TRUST_DOMAIN, "web-1")


class Spire(NamedTuple):
    """An agent of ours beside an API that gives."""

    mesh: Mesh
    api: WorkloadApi
    authority: Authority
    web: Host


@asynccontextmanager
async def beside_spire(folder: Path, *services: str) -> AsyncIterator[Spire]:
    """web-1 holds its own certificate and those of pets and shop by then."""
    async with running(folder) as mesh:
        with serving(folder / "api.sock") as api:
            authority = Authority(now_s=clock())
            api.give(response(authority, WEB, PETS, SHOP, now_s=clock()))
            web = mesh.host("web-1", *services, socket=str(api.path))
            await until(lambda: web.shows("", PETS.service, SHOP.service))
            yield Spire(mesh, api, authority, web)


def on_disk(folder: Path) -> bytes:
    """All that any file says."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_what_is_given_is_shown_and_told(tmp_path: Path) -> None:
    """The agent's own, and each service's; the mesh hears of it; no key is in any file; and the API knows that nobody
    has been tricked into asking."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        trust = spire.web.proven[-1]
        assert trust.trust_domain == TRUST_DOMAIN and list(trust.bundles) == [TRUST_DOMAIN]
        assert all(not svid.chain and b"PRIVATE KEY" in svid.pem for svid in trust.shown.values())

        async def told() -> bool:
            holds = await spire.web.holds()
            return holds is not None and set(holds.services) == {PETS.service, SHOP.service} and bool(holds.agent)

        await until(told)
        assert b"PRIVATE" not in on_disk(tmp_path)
        assert spire.api.unasked == 0 and spire.web.problems == {}
        state = spire.web.identity.as_state()
        assert {each["name"] for each in state["held"]} == {"agent", f"svc/{PETS.service}", f"svc/{SHOP.service}"}
        assert state["workload_api"] == str(spire.api.path) and not state["workload_error"]


async def test_workers_and_the_agent_show_it(tmp_path: Path) -> None:
    """A worker makes its contexts of it, and the agent asks others with it; no descriptor stays open."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        trust = spire.web.proven[-1]
        later_s = time.time() + HOUR_S  # workers go by the machine's clock
        shown = {name: Svid("", "", later_s, svid.pem) for name, svid in trust.shown.items()}
        security = Security(Reactor())
        before = len(os.listdir("/proc/self/fd"))
        security.take(Trust(trust.trust_domain, shown, trust.bundles))
        way = security.way(PETS.service, SHOP.service)
        asking = spire.web.identity.way("web-2")
        assert len(os.listdir("/proc/self/fd")) == before
        assert way is not None and security.listens is not None
        assert asking is not None and asking.context.verify_mode is ssl.CERT_REQUIRED


async def test_what_no_worker_can_load_costs_one_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no certificate costs its service what it proves, and nobody else anything."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        trust = spire.web.proven[-1]
        shown = {name: Svid("", "", time.time() + HOUR_S, svid.pem) for name, svid in trust.shown.items()}
        shown[SHOP.service] = Svid("", "", time.time() + HOUR_S, b"no certificate")
        security = Security(Reactor())
        security.take(Trust(trust.trust_domain, shown, trust.bundles))
        assert security.way(PETS.service, SHOP.service) is not None
        assert security._context("client", SHOP.service) is None
        assert f"the certificate of {SHOP.service} cannot be used" in caplog.text


async def test_another_delivery_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """Renewed without a question; and what is not given any more, as when its entry is deleted, is shown no more."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        first = spire.web.shown[PETS.service]
        spire.api.give(response(spire.authority, WEB, PETS, now_s=clock(), lifetime_s=30 * HOUR_S))
        await until(lambda: spire.web.shows("", PETS.service))
        assert spire.web.shown[PETS.service].ends_s > first.ends_s + 5 * HOUR_S
        assert spire.api.asked <= 2, "once before the workers, and once to listen"


async def test_federated_bundles_come_too(tmp_path: Path) -> None:
    """Each good for its own domain; one that makes no sense is passed over, and the others stay."""
    async with beside_spire(tmp_path) as spire:
        partner = Authority("partner.example", now_s=clock())
        message = RESPONSE.FromString(response(spire.authority, WEB, PETS, federated=(partner,), now_s=clock()))
        message.federated_bundles["spiffe://broken.example"] = b"\x30\x82"
        message.federated_bundles[f"spiffe://{TRUST_DOMAIN}"] = message.federated_bundles["spiffe://partner.example"]
        spire.api.give(message.SerializeToString())
        await until(lambda: set(spire.web.proven[-1].bundles) == {TRUST_DOMAIN, "partner.example"})
        ours = der([spire.authority.root.certificate])
        assert spire.web.proven[-1].bundles[TRUST_DOMAIN] == ours
        assert list(spire.web.identity.as_state()["passed_over"]) == ["spiffe://broken.example"]


async def test_what_is_held_serves_until_it_ends(tmp_path: Path) -> None:
    """SPIRE away: nothing changes, then it is told, then it is over; when it is back, so is what it gives."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        web = spire.web
        spire.api.stop()
        await until(lambda: web.identity.as_state()["workload_error"])
        assert web.shows("", PETS.service, SHOP.service) and not web.problems
        leap(17 * HOUR_S)
        web.identity._engaged.wake()  # type: ignore[union-attr]
        await until(lambda: len(web.problems) == 2 and all("unavailable" in why for why in web.problems.values()))
        assert all("its certificate ends in 7 h" in why for why in web.problems.values())
        assert web.shows("", PETS.service, SHOP.service)
        leap(8 * HOUR_S)
        web.identity._engaged.wake()  # type: ignore[union-attr]
        await until(lambda: not web.shown)
        assert [kind for kind, service, _ in web.told if service == PETS.service] == ["identity.missing"]
        spire.api.give(response(Authority(now_s=clock()), WEB, PETS, now_s=clock()))
        spire.api.start()
        await until(lambda: web.shows("", PETS.service) and not web.problems)
        assert [kind for kind, service, _ in web.told if service == PETS.service][-1] == "identity.held"


@pytest.mark.parametrize("case", ["nothing", "garbage", "no svids", "another key", "no roots"])
async def test_what_makes_no_sense_replaces_nothing(tmp_path: Path, case: str) -> None:
    """And is told, in words."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        good = RESPONSE.FromString(response(spire.authority, PETS, now_s=clock()))
        if case == "another key":
            good.svids[0].x509_svid_key = (
                RESPONSE.FromString(response(spire.authority, SHOP, now_s=clock())).svids[0].x509_svid_key
            )
        elif case == "no roots":
            good.svids[0].bundle = b""
        elif case == "no svids":
            del good.svids[:]
        broken = {"nothing": b"\x0a\x00", "garbage": b"\xff\xff"}.get(case, good.SerializeToString())
        spire.api.give(broken or b"\x12\x01x")
        await until(lambda: "makes no sense" in spire.web.identity.as_state()["workload_error"])
        assert spire.web.shows("", PETS.service, SHOP.service)
        spire.api.give(response(spire.authority, WEB, PETS, now_s=clock()))
        await until(lambda: spire.web.shows("", PETS.service))
        assert not spire.web.identity.as_state()["workload_error"]


async def test_what_does_not_convince_is_not_shown(tmp_path: Path) -> None:
    """Ended, or signed by whoever may not: that one alone, in words."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        stranger = Authority("stranger.example", now_s=clock())
        message = RESPONSE.FromString(response(spire.authority, WEB, SHOP, now_s=clock()))
        message.svids.append(RESPONSE.FromString(response(stranger, PETS, now_s=clock())).svids[0])
        spire.api.give(message.SerializeToString())
        await until(lambda: spire.web.shows("", SHOP.service))
        await until(lambda: "may not sign such names" in spire.web.problems.get(f"svc/{PETS.service}", ""))
        old = RESPONSE.FromString(response(spire.authority, PETS, now_s=clock() - 25 * HOUR_S)).svids[0]
        message.svids[2].CopyFrom(old)
        spire.api.give(message.SerializeToString())
        await until(lambda: "has ended" in spire.web.problems.get(f"svc/{PETS.service}", ""))


async def test_what_has_no_entry_is_told_with_the_line_that_makes_one(tmp_path: Path) -> None:
    """Of a service that is registered here, and of the agent."""
    async with running(tmp_path) as mesh:
        with serving(tmp_path / "api.sock") as api:
            authority = Authority(now_s=clock())
            api.give(response(authority, SHOP, now_s=clock()))
            web = mesh.host("web-1", PETS.service, socket=str(api.path))
            await until(lambda: set(web.problems) == {"agent", f"svc/{PETS.service}"})
            line = f"-spiffeID {PETS} -selector unix:uid:{os.geteuid()}"
            assert line in web.problems[f"svc/{PETS.service}"] and f"-spiffeID {WEB}" in web.problems["agent"]
            api.give(response(authority, WEB, PETS, now_s=clock()))
            await until(lambda: web.shows("", PETS.service) and not web.problems)


async def test_denied_and_not_there(tmp_path: Path) -> None:
    """Said in the API's own words; it goes on asking."""
    async with running(tmp_path) as mesh:
        with serving(tmp_path / "api.sock") as api:
            api.denied = "no identity issued"
            web = mesh.host("web-1", PETS.service, socket=str(api.path))
            other = mesh.host("web-2", PETS.service, socket=str(tmp_path / "nobody.sock"))
            await until(lambda: "permission denied: no identity issued" in web.problems.get("agent", ""))
            await until(lambda: "unavailable" in other.problems.get("agent", ""))
            api.denied = ""
            api.give(response(Authority(now_s=clock()), WEB, PETS, now_s=clock()))
            await until(lambda: web.shows("", PETS.service) and not web.problems)


async def test_revocations_of_the_mesh_count(tmp_path: Path) -> None:
    """A service that is revoked in etcd is not shown, though SPIRE gave it; and a bundle there is not read."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        soon, later = (datetime.fromtimestamp(int(clock() + far_s), UTC) for far_s in (60, HOUR_S))
        revoked = Revoked(service=PETS.service, before=soon, until=later)
        await spire.mesh.operator.put("revocations", value=Revocations([revoked]).document())
        await spire.mesh.operator.put_bundle()
        await until(lambda: spire.web.shows("", SHOP.service))
        await until(lambda: "Workload API" in spire.web.identity.malformed.get(KEYS.identity("bundle"), ""))
        assert "revoked" in spire.web.problems[f"svc/{PETS.service}"]


async def test_an_agent_that_is_executed_anew_has_it_at_once(tmp_path: Path) -> None:
    """Also while SPIRE is away; an agent that was started anew has nothing then, and waits for it."""
    async with beside_spire(tmp_path, PETS.service) as spire:
        spire.api.stop()
        again = spire.mesh.start(spire.web.executed_anew())
        assert again.inherited
        await until(lambda: again.shows("", PETS.service, SHOP.service))
        fresh = spire.mesh.restart(again)
        await until(lambda: fresh.problems)
        assert not fresh.shown
        spire.api.start()
        await until(lambda: fresh.shows("", PETS.service, SHOP.service) and not fresh.problems)


async def test_it_issues_nothing(tmp_path: Path) -> None:
    """Whoever asks is told."""
    async with beside_spire(tmp_path) as spire:
        for path in (SIGN, JOIN):
            status, said = await spire.web.answers(path, b"", str(WEB))
            assert status == 503 and b"Workload API" in said
        assert spire.web.identity.counters() == {}


async def test_a_stream_that_went_silent_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that should have been renewed by now, and an API that keeps the stream and says nothing."""
    monkeypatch.setattr("agent.control.identity.workload.attached.LEAST_SILENCE_S", 0.2)
    async with beside_spire(tmp_path, PETS.service) as spire:
        leap(17 * HOUR_S)
        spire.api.give(response(spire.authority, WEB, PETS, now_s=clock() - 17 * HOUR_S))
        asked = spire.api.asked
        await until(lambda: spire.api.asked > asked + 1)
        assert spire.web.shows("", PETS.service)
        await until(lambda: spire.api.listening <= 2)


async def test_no_thread_is_left(tmp_path: Path) -> None:
    """Whoever ends the agent ends what reads."""
    async with beside_spire(tmp_path) as spire:
        await until(lambda: spire.api.listening == 1)
        spire.web.scope.cancel()
        await until(lambda: spire.api.listening == 0)
        await trio.sleep(0)
