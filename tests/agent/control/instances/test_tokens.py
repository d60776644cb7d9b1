"""Tokens of instances: shown once, kept as digests, ended by and by."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.control.instances.tokens import FROM_BEFORE_S, LINGER_S, MAX_LEAVING, Tokens, digest


def test_one_that_is_replaced_lingers() -> None:
    """The program finishes what it began with it, and no longer."""
    tokens = Tokens()
    first = tokens.issue("pets", "a", 100.0)
    second = tokens.issue("pets", "a", 200.0)
    assert tokens.callers() == {digest(first): "pets", digest(second): "pets"}
    assert not tokens.expire(200.0 + LINGER_S - 1)
    assert tokens.expire(200.0 + LINGER_S)
    assert tokens.callers() == {digest(second): "pets"}


def test_what_is_saved_is_no_token() -> None:
    """Who reads the file cannot call in anybody's name; after a restart they are what they were."""
    tokens = Tokens()
    shown = [tokens.issue("pets", "a", 0.0), tokens.issue("shop", "b", 0.0)]
    tokens.retire("shop", "b", 5.0)
    saved = msgspec.json.encode(tokens.saved())
    assert not any(token.encode() in saved for token in shown)
    again = Tokens()
    again.load(msgspec.json.decode(saved), 6.0)
    assert again.callers() == tokens.callers()
    assert again.has("pets", "a") and not again.has("shop", "b")


def test_those_of_the_first_days_end() -> None:
    """They were one a service, and anybody could have them."""
    tokens = Tokens()
    tokens.load({"pets": "secret"}, 0.0)
    assert tokens.callers() == {digest("secret"): "pets"}
    assert tokens.expire(FROM_BEFORE_S)
    assert tokens.callers() == {}


def test_what_has_left_is_bounded() -> None:
    """However often somebody comes and goes."""
    tokens = Tokens()
    for _ in range(MAX_LEAVING + 10):
        tokens.issue("pets", "a", 0.0)
    assert len(tokens.callers()) == MAX_LEAVING + 1


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_damaged_files_cost_what_is_damaged(saved: object) -> None:
    """Whatever stood there."""
    tokens = Tokens()
    tokens.load(saved, 0.0)
    tokens.expire(1e12)


def test_those_of_instances_that_are_gone_are_retired() -> None:
    """An instance that could not be registered again after a restart has no standing token."""
    tokens = Tokens()
    tokens.issue("pets", "a", 0.0)
    tokens.issue("pets", "b", 0.0)
    tokens.keep_only({("pets", "b")}, 1.0)
    assert not tokens.has("pets", "a") and tokens.has("pets", "b")
