"""Which hosts cannot enforce a document: what the commands say of agents of another version."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.control.mesh.reports import known_here
from agent.findings.of_mesh.enforcing import Text, Unable, silence, silent, unable
from policies.catalogue import KINDS
from registry.census import Census, take
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from registry.records import MAX_RECORD_BYTES, Ack, Agent, Version, decode, encode
from tests.support.etcd import running_etcd
from tests.support.memory import MemoryStore

KEYS = Keys()
AGENT = Agent(address="10.0.0.1", inbound_port=15006, version="0.0.9")
BURST = {"limits": [{"name": "a", "rate": "1/s", "burst": 2}]}
PLAIN = {"limits": [{"name": "a", "rate": "1/s"}]}
NAMED = "ratelimit/pets.production is not enforced by old (0.0.9), which does not know $.limits[].burst of ratelimit"


def text(document: Any, kind: str = "ratelimit") -> Text:
    return Text(kind, "pets.production", json.dumps(document).encode())


def older(*, kind: str = "", field: str = "burst") -> Version:
    """A version without one kind, or without `burst`."""
    now = json.loads(encode(known_here()))
    now["kinds"].pop(kind, None)
    now["kinds"]["ratelimit"]["fields"]["$.limits[]"].remove(field)
    return msgspec.convert({**now, "version": "0.0.9"}, Version)


def census(**versions: Version | None) -> Census:
    return Census(
        agents=dict.fromkeys(versions, AGENT),
        acks=dict.fromkeys(versions, Ack(revision=7)),
        versions={host: version for host, version in versions.items() if version is not None},
    )


def test_this_version_tells_what_it_knows() -> None:
    """Every kind, in a record that etcd and the decoder take."""
    told = decode(Version, encode(known_here()))
    assert set(told.kinds) == {kind.name for kind in KINDS}
    assert "service" in told.frames and "/shares" in told.questions
    assert len(encode(known_here())) < MAX_RECORD_BYTES / 2
    assert unable(census(new=told), [text(BURST)]) == []


def test_hosts_of_an_older_version_are_named_with_what_they_lack() -> None:
    """By version; a document that they know is none of it."""
    now = census(new=known_here(), old=older())
    (found,) = unable(now, [text(BURST), text(PLAIN)])
    assert str(found) == NAMED
    many = census(**{f"h{n}": older() for n in range(7)})
    (found,) = unable(many, [text(BURST)])
    assert "by h0, h1, h2, h3, h4 and 2 more (0.0.9), which do not know" in str(found)


def test_a_kind_that_is_not_known() -> None:
    """Is named as a whole."""
    now = census(new=known_here(), old=older(kind="shed"))
    found = unable(now, [text({"concurrency": 5}, "shed")])
    assert found == [Unable("shed/pets.production", ("old",), "0.0.9", ())]
    assert str(found[0]).endswith("which does not know the kind shed")


def test_a_document_that_is_wrong_everywhere_is_none_of_it() -> None:
    """Misspelt fields and kinds are refused, and that is said elsewhere. One that a newer agent knows is not wrong."""
    now = census(new=known_here(), old=older())
    assert unable(now, [text({"limitz": []}), text({}, "authnn"), Text("ratelimit", "pets", b"\xff{")]) == []
    newer = json.loads(encode(known_here()))
    newer["kinds"]["ratelimit"]["fields"]["$"].append("mood")
    newer["kinds"]["authn"] = {"fields": {"$": ["mode", "jwt"]}, "moods": {"$": 5}}
    now = census(newest=msgspec.convert({**newer, "version": "9.9"}, Version), new=known_here())
    assert [found.hosts for found in unable(now, [text({"mood": "good"}), text({"jwt": 1}, "authn")])] == [("new",)] * 2


def test_who_says_nothing_is_named_once() -> None:
    """An agent that has not said yet what it runs has just come, and is none of them."""
    now = census(new=known_here(), old=None, older=None)
    assert silent(now) == ["old", "older"] and unable(now, [text(BURST)]) == []
    assert silence(now).startswith("old, older (0.0.9) say nothing of what their versions know: ")
    del now.acks["old"]
    assert silence(now).startswith("older (0.0.9) says nothing of what its version knows: ")
    assert silence(census(new=known_here())) == ""


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"version": 5}',
        b'{"version": "1", "kinds": []}',
        b'{"version": "1", "kinds": {"a": 1}}',
    ],
)
async def test_garbage_counts_as_silence(value: bytes) -> None:
    """It is named as malformed, and nothing is said for that host."""
    store = MemoryStore()
    await store.put(KEYS.agent("web-1"), encode(AGENT))
    await store.put(KEYS.ack("web-1"), encode(Ack(revision=1)))
    await store.put(KEYS.version("web-1"), value)
    found = await take(store, "default")
    assert list(found.malformed) == [KEYS.version("web-1")]
    assert silent(found) == ["web-1"] and unable(found, [text(BURST)]) == []
    await store.aclose()


def test_kinds_that_are_told_in_another_way_are_not_understood() -> None:
    """Of a version to come: nothing is said for it, and nothing fails."""
    strange = Version(version="9.9", kinds={"ratelimit": {"fields": 5}})
    assert unable(census(new=strange), [text(BURST)]) == []


# The commands.


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with running_etcd(tmp_path_factory.mktemp("enforcing")) as etcd:
        yield etcd


@pytest.fixture
async def store(etcd: EtcdProcess) -> EtcdStore:  # type: ignore[misc]
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
        for item in (await store.range("/", "0")).items:
            await store.delete(item.key)
        yield store  # type: ignore[misc]


async def host(store: EtcdStore, name: str, version: Version | None) -> None:
    """A live agent that runs everything."""
    await store.put(KEYS.agent(name), encode(AGENT))
    await store.put(KEYS.ack(name), encode(Ack(revision=1 << 40)))
    if version is not None:
        await store.put(KEYS.version(name), encode(version))


def shoal(etcd: EtcdProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from agent.cli.main import main; main()", "--etcd", etcd.url, *words]
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": "/nowhere"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def written(folder: Path, document: Any) -> Path:
    path = folder / "limit.json"
    path.write_text(json.dumps({"kind": "ratelimit", "service": "pets.production", **document}))
    return path


async def test_putting_warns_and_goes_on(etcd: EtcdProcess, store: EtcdStore, tmp_path: Path) -> None:
    """And says it in JSON; `apply` too, also when it changes nothing yet."""
    await host(store, "new", known_here())
    await host(store, "old", older())
    await host(store, "mute", None)
    path = written(tmp_path, BURST)
    done = shoal(etcd, "apply", "--dry-run", str(tmp_path))
    assert done.returncode == 0 and f"warning: {NAMED}\n" in done.stderr
    done = shoal(etcd, "policy", "put", str(path))
    assert done.returncode == 0 and int(done.stdout) > 0
    assert done.stderr.count(f"warning: {NAMED}\n") == 1
    assert done.stderr.count("warning: mute (0.0.9) says nothing of what its version knows") == 1
    done = shoal(etcd, "policy", "put", str(path))
    assert done.returncode == 0 and "warning" not in done.stderr, "nothing was put"
    written(tmp_path, {**BURST, "description": "again"})
    told = json.loads(shoal(etcd, "-o", "json", "policy", "put", str(path)).stdout)
    assert told["changed"] and told["silent"] == ["mute"]
    assert [(each["hosts"], each["unknown"]) for each in told["not_enforced"]] == [(["old"], ["$.limits[].burst"])]


async def test_waiting_fails_with_the_reason(etcd: EtcdProcess, store: EtcdStore, tmp_path: Path) -> None:
    """For the documents of the revision that is waited for, and no others; a host that says nothing fails nothing."""
    await host(store, "new", known_here())
    await host(store, "old", older())
    await host(store, "mute", None)
    revision = shoal(etcd, "policy", "put", str(written(tmp_path, BURST))).stdout.strip()
    done = shoal(etcd, "wait", revision)
    assert done.returncode == 1
    assert done.stderr == f"shoal: revision {revision} has reached 3 agents, but {NAMED}\n"
    done = shoal(etcd, "policy", "put", "--wait", str(written(tmp_path, {**BURST, "description": "again"})))
    assert done.returncode == 1 and "not enforced by old" in done.stderr.splitlines()[-1]
    done = shoal(etcd, "policy", "put", "--wait", str(written(tmp_path, PLAIN)))
    assert done.returncode == 0 and "not enforced" not in done.stderr
    assert "warning: mute (0.0.9) says nothing" in done.stderr


async def test_status_lists_them(etcd: EtcdProcess, store: EtcdStore, tmp_path: Path) -> None:
    """Documents that older hosts do not know make its exit code 1; hosts that say nothing do not."""
    await host(store, "new", known_here())
    await host(store, "mute", None)
    shoal(etcd, "policy", "put", str(written(tmp_path, BURST)))
    done = shoal(etcd, "status")
    assert done.returncode == 0 and "version   mute (0.0.9) says nothing" in done.stdout
    await host(store, "old", older())
    done = shoal(etcd, "status")
    assert done.returncode == 1 and f"version   {NAMED}\n" in done.stdout
    told = json.loads(shoal(etcd, "-o", "json", "status").stdout)
    assert told["not_enforced"][0]["hosts"] == ["old"] and told["silent"].startswith("mute")
    await store.put(KEYS.version("old"), b"?")
    done = shoal(etcd, "status")
    assert done.returncode == 1 and f"malformed {KEYS.version('old')}: $: not JSON" in done.stdout


# Packages.


WHEN = {"rules": [{"allow": ["*"]}, {"allow": "anybody", "when": "request.path == '/'"}]}
REGO = {"rego": {"modules": {"x.rego": "package shoal\nallow if true"}}}


def without(*names: str) -> Version:
    return msgspec.structs.replace(known_here(), lacks=list(names))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (
            WHEN,
            "authz/pets.production is not enforced by bare, which has not what $.rules[].when needs: "
            "pip install 'shoal-mesh[cel]'",
        ),
        (
            REGO,
            "authz/pets.production is not enforced by bare, which has not what $.rego needs: "
            "pip install 'shoal-mesh[rego]'",
        ),
        ({**WHEN, **REGO}, "pip install 'shoal-mesh[cel,rego]'"),
        ({"rules": [{"allow": ["*"], "when": ""}]}, ""),
    ],
)
def test_a_host_without_a_package_is_named(document: Any, says: str) -> None:
    """That a document needs."""
    found = unable(
        census(full=without(), bare=without("cel", "rego")),
        [text(document, "authz")],
    )
    assert len(found) == bool(says)
    assert not says or str(found[0]).endswith(says)


def test_this_host_tells_what_it_lacks() -> None:
    """Nothing, while the tests run: development has all."""
    assert known_here().lacks == []
