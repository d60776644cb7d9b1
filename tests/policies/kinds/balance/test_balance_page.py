"""docs/policies/balance.md says what is so."""

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from policies.catalogue import parse
from policies.kinds.balance.document import Balance, HashKey, Locality, SlowStartRule
from policies.kinds.balance.session import StickySession
from policies.language.document import Invalid
from policies.language.names import parse_pattern

PAGE = (Path(__file__).parents[4] / "docs/policies/balance.md").read_text()
PREFIX = "/shoal/default/policies/balance/"
PUTS = re.findall(r"^    (etcdctl put \S+ '[^']*')$", PAGE, re.MULTILINE)
REFUSALS = re.findall(r"^\| `(\{.*?)` \| `(\$.*)` \|$", PAGE, re.MULTILINE)
FIELDS = PAGE.partition("## Fields")[2].partition("## Examples")[0]


def test_there_are_examples() -> None:
    """They were found in the page."""
    assert len(PUTS) == PAGE.count("etcdctl put ") >= 9
    assert len(REFUSALS) >= 20


@pytest.mark.parametrize("command", PUTS, ids=lambda command: command[12:90])
def test_every_example_can_be_pasted(command: str) -> None:
    """A shell reads it as a key of a valid pattern and a valid document."""
    _, _, key, value = shlex.split(command)
    assert key.startswith(PREFIX)
    pattern = parse_pattern(key.removeprefix(PREFIX))
    found = parse("balance", pattern, value.encode())
    assert isinstance(found, Balance), found
    assert found != Balance() or '"least-request"' in value


@pytest.mark.parametrize(("text", "said"), REFUSALS)
def test_every_refusal_is_said_so(text: str, said: str) -> None:
    """Word by word."""
    found = parse("balance", "pets.production", text.encode())
    assert isinstance(found, Invalid)
    assert f"{found.path}: {found.reason}" == said


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (Balance, ""),
        (HashKey, "hash[]."),
        (SlowStartRule, "slow_start."),
        (StickySession, "sticky."),
        (Locality, "locality."),
    ],
)
def test_every_field_is_there(kind: type[msgspec.Struct], place: str) -> None:
    """With its default where that is more than empty."""
    for field in msgspec.structs.fields(kind):
        name = f"`{place}{field.encode_name}`"
        rows = [row for row in FIELDS.splitlines() if name in row.partition(" | ")[0]]
        if field.encode_name == "locality":
            continue  # it is described by its fields
        assert rows, name
        if field.default not in (msgspec.NODEFAULT, "", (), None):
            assert f"`{str(field.default).lower()}`" in rows[0].split(" | ")[1], name
