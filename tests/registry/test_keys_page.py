"""docs/keys.md says what the code does: every record and key of its own is read by the parsers that agents use."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from agent.identity.bundles import parse_bundle
from agent.identity.grants import Grant, parse_grant
from agent.identity.revocations import parse_revocations
from policies.catalogue import BY_NAME, parse
from policies.language.document import Invalid
from registry.etcd.server import EtcdProcess, find_binary
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.identity_records import Host, IssuerRecord, Join, Person
from registry.keys import Key, Keys, Room, Unknown
from registry.records import (
    Ack,
    Advised,
    Agent,
    Begun,
    Claimed,
    Compared,
    Confirmed,
    Health,
    Held,
    Instance,
    LastGood,
    Layout,
    Malformed,
    MeshId,
    Opened,
    OutboxEntry,
    Record,
    Rejection,
    Seen,
    Version,
    decode,
)
from registry.store import Refused, prefix_end
from tests.support.etcd import running_etcd

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "keys.md").read_text()
KEYS = Keys("default")
RECORDS: dict[Room, type[Record]] = {
    Room.INSTANCES: Instance,
    Room.HEALTH: Health,
    Room.AGENTS: Agent,
    Room.LAST_GOOD: LastGood,
    Room.REJECTED: Rejection,
    Room.HELD: Held,
    Room.CONFIRMED: Confirmed,
    Room.ACKS: Ack,
    Room.SEEN: Seen,
    Room.VERSIONS: Version,
    Room.TALLIES: Compared,
    Room.CLAIMS: Claimed,
    Room.SCALE: Advised,
    Room.SCALING: Claimed,
    Room.CONDITIONS: Begun,
    Room.EVENTS: OutboxEntry,
    Room.TOLD: OutboxEntry,
    Room.UNDELIVERED: OutboxEntry,
}
INSIDE: dict[str, type[Record]] = {"conditions/opened": Opened, "conditions/mesh": MeshId, "confirmed/hosts": Layout}
"""Of keys that stand in a room of others."""
SECTIONS = {part.splitlines()[0]: part for part in PAGE.split("\n## ")}
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "array": "texts"}
PUTS = [shlex.split(line) for line in re.findall(r"^    (etcdctl put .*)$", PAGE, re.MULTILINE)]


def section(room: Room | str) -> str:
    begin = f"`{room}" if isinstance(room, str) else f"`{room.value}/<"
    more = () if isinstance(room, str) else (f"`{room.value}/policies",)
    (found,) = (part for title, part in SECTIONS.items() if title.startswith((begin, *more)))
    return found


def rows(kind: Room | str) -> dict[str, tuple[str, str]]:
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (\S+) \|", section(kind), re.MULTILINE)
    return {name: (type_, default) for name, type_, default in found}


def test_every_room_is_in_the_list() -> None:
    """With whether agents watch it; and every record that there is has a section."""
    listed = dict(re.findall(r"^\| \[`(\w+)/.*\| (yes|no) \|$", PAGE, re.MULTILINE))
    start, end = KEYS.watched
    rooms = set(Room) - {Room.TRUST}  # which stands under its host
    assert listed == {room.value: "yes" if start <= KEYS.room(room) < end else "no" for room in rooms}
    here = {kind for kind in Record.__subclasses__() if kind.__module__ == Record.__module__}
    assert {*RECORDS.values(), *INSIDE.values()} == here


def test_the_links_of_the_list_lead_somewhere() -> None:
    """As GitHub makes anchors of headings."""
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors


@pytest.mark.parametrize("room", [*RECORDS, *INSIDE], ids=str)
def test_every_field_is_in_the_example_and_the_table(room: Room | str) -> None:
    """The example is a record as agents read it; types and defaults of the table are those of the code."""
    kind = INSIDE[room] if isinstance(room, str) else RECORDS[room]
    found = re.search(r"```json\n(.*?)```", section(room), re.DOTALL)
    assert found is not None
    decode(kind, found[1].encode())
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    assert list(json.loads(found[1])) == list(rows(room)) == list(fields)
    properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    for name, (type_, default) in rows(room).items():
        field, schema = fields[name], properties[name]
        if "enum" in schema:
            assert set(re.findall(r"`(\w+)`", type_)) == set(schema["enum"])
        elif schema["type"] != "object":
            assert type_ == TYPES[schema["type"]], name
        if field.required:
            assert default == "needed", name
        else:
            value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            assert default == f"`{json.dumps(value)}`", name
        for bound in ("minimum", "maximum", "maxLength"):
            if bound in schema:
                assert f"{schema[bound]:g}".replace("1e+06", "1000000") in section(room), (name, bound)


@pytest.mark.parametrize("command", PUTS, ids=" ".join)
def test_every_put_can_be_pasted(command: list[str]) -> None:
    """A shell reads it as a key of ours and a value that agents take."""
    key_text, value = [word for word in command[2:] if not word.startswith("--")]
    key = KEYS.parse(key_text)
    assert isinstance(key, Key)
    if key.room in (Room.POLICIES, Room.AUDITS):
        assert not isinstance(parse(key.first, key.second, value.encode()), Invalid)
        assert key.first in BY_NAME
    else:
        decode(RECORDS[key.room], value.encode())


def test_the_documents_of_identity_are_those_that_are_read() -> None:
    """Each of the table, under its key."""
    readers: dict[str, Callable[[bytes], object]] = {
        "bundle": partial(parse_bundle, ""),
        "trust": partial(parse_bundle, "partner.example"),
        "grants": parse_grant,
        "revocations": parse_revocations,
        "hosts": partial(decode, Host),
        "issuers": partial(decode, IssuerRecord),
        "people": partial(decode, Person),
        "joins": partial(decode, Join),
    }
    found = re.findall(r"^\| `identity/(\w+)\S*` \| `(.*?)` \|", PAGE, re.MULTILINE)
    assert {what for what, _ in found} == set(readers)
    for what, document in found:
        readers[what](document.encode())
        kind = {"hosts": Host, "issuers": IssuerRecord, "joins": Join, "people": Person, "grants": Grant}.get(what)
        assert kind is None or list(json.loads(document)) == [field.name for field in msgspec.structs.fields(kind)]


def test_every_put_was_found() -> None:
    """None escapes the test above, and there is one for each room that people write to."""
    assert len(PUTS) == len(re.findall(r"^ +etcdctl put", PAGE, re.MULTILINE)) >= 6
    for room in (Room.INSTANCES, Room.HEALTH, Room.POLICIES, Room.AUDITS):
        assert any(KEYS.room(room) in " ".join(command) for command in PUTS)


def refusals(heading: str) -> list[tuple[str, str]]:
    tables = [part.split("\n\n")[0] for part in PAGE.split(f"| {heading} | what is said |\n")[1:]]
    return re.findall(r"^\| `(.+?)` \| `(.+)` \|$", "\n".join(tables), re.MULTILINE)


def test_what_is_said_of_garbage() -> None:
    """Word by word, with plain quotes for the other ones."""
    values, keys = refusals("`instances/…`"), refusals("key")
    assert len(values) >= 5 and len(keys) >= 5
    for text, said in values:
        with pytest.raises(Malformed) as caught:
            decode(Instance, text.encode())
        assert str(caught.value).replace("`", "'") == said
    for text, said in keys:
        found = KEYS.parse(text)
        assert isinstance(found, Unknown) and found.reason == said
        assert (found.policy is not None) == text.startswith(KEYS.room(Room.POLICIES))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """An etcd with the roles of the page."""
    (script,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    switch = re.findall(r"^    (etcdctl (?:user add root|auth).*)$", PAGE, re.MULTILINE)
    folder = tmp_path_factory.mktemp("roles")
    with running_etcd(folder, arguments=("--bcrypt-cost", "4")) as etcd:
        path = f"{Path(find_binary('etcdctl')).parent}:/usr/bin:/bin"
        command = ["sh", "-ec", "\n".join([script, *switch])]
        subprocess.run(
            command, check=True, capture_output=True, timeout=60, env={"PATH": path, "ETCDCTL_ENDPOINTS": etcd.url}
        )
        yield etcd


MAY_WRITE = {
    "agent": set(Room)
    - {Room.AUDITS, Room.CONFIRMED, Room.IDENTITY, Room.POLICIES}
    - {Room.REQUESTS, Room.SIGNED, Room.SIGNING, Room.TRUST},
    "operator": {Room.AUDITS, Room.CONFIRMED, Room.POLICIES},
    "reader": set(),
}


@pytest.mark.parametrize("user", MAY_WRITE)
async def test_what_the_roles_may_do(guarded: EtcdProcess, user: str) -> None:
    """Everything of the mesh is read and watched; written is what the page says, and nothing else."""
    async with EtcdStore.open(EtcdSettings(endpoints=(guarded.url,), user=user, password="its-password")) as store:
        await store.range(KEYS.prefix, prefix_end(KEYS.prefix))
        await store.range(*KEYS.watched)
        async with store.watch(*KEYS.watched, 0) as watch:
            assert watch.revision > 0
        written = set()
        for room in Room:
            try:
                await store.put(KEYS.room(room) + "a", b"{}")
            except Refused:
                continue
            written.add(room)
        assert written == MAY_WRITE[user]
        with pytest.raises(Refused):
            await store.get(Keys("another").agent("web-1"))


def test_the_table_of_who_writes_is_that_of_the_roles() -> None:
    """So that the sentence and the commands agree."""
    found = re.search(r"^\| an agent \| all of the mesh \| (.*) \|$", PAGE, re.MULTILINE)
    assert found is not None
    assert set(re.findall(r"`(\w+)/`", found[1])) == {room.value for room in MAY_WRITE["agent"]}
