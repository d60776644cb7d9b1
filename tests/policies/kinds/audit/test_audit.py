"""What documents of several levels want of a request together: nothing that one of them records is taken back."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.audit.decide import TIGHTEST, Compiled, compile, together
from policies.kinds.audit.document import Audit
from policies.language.document import Invalid

DOCUMENTS = st.builds(
    Audit,
    requests=st.just("all"),
    share=st.sampled_from((0.1, 0.5, 1.0)),
    claims=st.sets(st.sampled_from(("sub", "tier"))).map(tuple),
    headers=st.sets(st.sampled_from(("user-agent", "X-Team"))).map(tuple),
    templates=st.sampled_from(((), ("/users/{id}",), ("/pets/{pet}",))),
    redact=st.sets(st.sampled_from(("client", "path"))).map(tuple),
    keep=st.sampled_from((None, "1h", "30d")),
    durability=st.sampled_from(("async", "sync")),
) | st.builds(Audit)


class Always(random.Random):
    """Draws the same number."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


def records(found: Compiled, drawn: float = 0.3) -> set[str]:
    """What of requests is recorded: who was let in, and with what."""
    said = {f"claim {name}" for name in found.claims} | {f"header {name}" for name in found.headers}
    said |= {"let in"} if found.takes(True, Always(drawn)) else set()
    said |= {"refused"} if found.takes(False, Always(drawn)) else set()
    said |= {"client", "path"} - found.hidden
    said |= {"the path itself"} if found.path("/users/7") == "/users/7" else set()
    return said | ({"sync"} if found.sync else set()) | ({"denies"} if found.denies else set())


@given(st.lists(DOCUMENTS, min_size=1, max_size=4), st.floats(0, 0.999))
def test_nothing_is_taken_back(documents: list[Audit], drawn: float) -> None:
    """By no document of whatever level; in whatever order they stand."""
    levels = [compile(document) for document in documents]
    whole = together(levels)
    for level in levels:
        assert records(level, drawn) <= records(whole, drawn) | {"the path itself"}
        assert level.keep_s <= whole.keep_s
        assert whole.by_default or not level.by_default
    assert records(together(reversed(levels)), drawn) == records(whole, drawn)


def test_templates_and_redaction_want_everybody() -> None:
    """One that says nothing of paths wants them as they are."""
    hidden = Audit(templates=("/users/{id}",), redact=("client",))
    both = together([compile(hidden), compile(hidden)])
    assert (both.path("/users/7"), both.path("/x"), both.hidden) == ("/users/{id}", "/x", {"client"})
    one = together([compile(hidden), compile(Audit())])
    assert (one.path("/users/7"), one.hidden) == ("/users/7", set())


def test_a_share_is_drawn_of_what_is_let_in() -> None:
    """What is refused is recorded whole."""
    found = compile(Audit(requests="all", share=0.5))
    assert found.takes(True, Always(0.4)) and not found.takes(True, Always(0.6))
    assert found.takes(False, Always(0.9))
    assert not compile(Audit()).takes(False, Always(0.0))
    assert compile(TIGHTEST).takes(True, Always(0.999))


@pytest.mark.parametrize("name", ["authorization", "Cookie", "X-API-Key", "proxy-authorization"])
def test_no_secret_is_recorded(name: str) -> None:
    """However it is written."""
    found = parse("audit", "pets", msgspec.json.encode({"headers": [name]}))
    assert isinstance(found, Invalid) and "secret" in found.reason
