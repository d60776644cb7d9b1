"""Several issuers at a store in memory: who signs, and what becomes of one that is killed, paused or replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from registry.identity_records import Signing
from registry.records import encode
from registry.store import Put
from tests.support.identity import NOW_S
from tests.support.issuing import DAY_S, KEYS, leap, moment, running, until
from tests.support.memory import MemoryStore

PETS = "pets.production"


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
