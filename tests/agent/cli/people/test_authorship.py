"""Who puts a document is written into it, and nothing else of it changes; not where an agent would refuse it so."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.documents import Source
from agent.cli.people.authorship import Author, anew, signed, with_author
from policies.catalogue import BY_NAME, parse
from policies.language.document import Invalid
from policies.language.plain import load
from policies.vocabulary import vocabulary
from registry.census import Census
from registry.records import Ack, Agent, Version

ALICE = Author("alice", "TICKET-12")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (b'{"active": "v1"}', b'{"by": "alice", "reason": "TICKET-12", "active": "v1"}'),
        (b"{}", b'{"by": "alice", "reason": "TICKET-12"}'),
        (b"# mine\nactive: v1 # now\n\n", b'# mine\nactive: v1 # now\nby: "alice"\nreason: "TICKET-12"\n'),
        (b"active: v1\nby: bob\n", b'active: v1\nby: bob\nreason: "TICKET-12"\n'),
        (b"{by: bob, reason: mine}", b"{by: bob, reason: mine}"),
        (b"active: v1\n...\n", b"active: v1\n...\n"),
        (b"[]", b"[]"),
        (b"\xff", b"\xff"),
        (b"description: |\n  a\n  b", b"description: |\n  a\n  b"),
    ],
)
def test_it_is_added(text: bytes, made: bytes) -> None:
    """To JSON and YAML; what the document says itself stays; where nothing can be added, it is as it was."""
    assert with_author(text, ALICE) == made


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("by: bob\nactive: v2 # mine\n", "active: v2 # mine\n"),
        ('"by": bob\nactive: v2\n', "active: v2\n"),
        ("'by' : bob\nactive: v2\n", "active: v2\n"),
        ("by: >\n  bob\nactive: v2\n", "active: v2\n"),
        ('{"by": "bob", "active": "v2"}', '{\n  "active": "v2"\n}\n'),
        ("? by\n: bob\n? active\n: v2\n", '{\n  "active": "v2"\n}'),
        ("by: ann\nactive: v2\n", "by: ann\nactive: v2\n"),
    ],
)
def test_what_was_said_of_the_one_before_is_not_said_again(text: str, left: str) -> None:
    """However it is written; another name is what somebody says himself."""
    before = b"by: >\n  bob\nactive: v1\n" if ">" in text else b"by: bob\nactive: v1\n"
    assert anew(text.encode(), before).decode() == left


@given(by=st.text(), reason=st.text(max_size=300))
def test_whatever_is_said(by: str, reason: str) -> None:
    """Line ends, quotes and escapes say nothing else in the document."""
    for text in (b'{"active": "v1"}', b"active: v1\n"):
        made = load(with_author(text, Author(by, reason)))
        assert made["active"] == "v1"
        assert set(made) <= {"active", "by", "reason"}


@pytest.mark.parametrize("kind", BY_NAME)
def test_every_kind_has_them(kind: str) -> None:
    """And refuses what is too long, or no text."""
    assert {"by", "reason"} <= set(vocabulary(kind).fields["$"])
    for wrong in ({"by": "x" * 257}, {"reason": 5}):
        found = parse(kind, "pets", msgspec.json.encode(wrong))
        assert isinstance(found, Invalid)


def census(*known: bool | None) -> Census:
    """Agents that know the fields, do not, or do not say."""
    found = Census()
    for number, knows in enumerate(known):
        host = f"web-{number}"
        found.agents[host] = Agent(address="127.0.0.1", inbound_port=1, version="1")
        found.acks[host] = Ack(revision=1, at="")
        if knows is not None:
            kinds = {kind: msgspec.to_builtins(vocabulary(kind)) for kind in BY_NAME}
            if not knows:
                for each in kinds.values():
                    each["fields"]["$"] = [name for name in each["fields"]["$"] if name not in ("by", "reason")]
            found.versions[host] = Version(version="1", kinds=kinds)
    return found


@pytest.mark.parametrize(("known", "host"), [((), ""), ((True,), ""), ((True, False), "web-1"), ((None,), "web-0")])
def test_an_agent_of_before_leaves_them_out(known: tuple[bool | None, ...], host: str) -> None:
    """It would refuse the whole document; and that is said, with its name."""
    source = Source("pets.yaml", "route", "pets", b'{"active": "v1"}')
    made, why_not = signed(census(*known), [source], ALICE)
    assert (b"alice" in made[0].text) is not bool(host)
    assert host in why_not and bool(host) is bool(why_not)
