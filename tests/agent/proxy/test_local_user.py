"""In whose name a program calls whose user the kernel has said."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.frames import LocalUsers
from agent.identity.users import User
from agent.proxy.messages import words
from agent.proxy.messages.answers import Refusal
from agent.proxy.peer import Peer
from agent.proxy.proof.local_user import LocalUser
from agent.proxy.table.callers import Callers
from agent.proxy.worker import users
from policies.language.names import parse_service

USERS = users(
    LocalUsers(
        masters=[0, 900],
        operators=([7], [70]),
        services={
            "payments.production": ([1], [50]),
            "shop.production": ([2], []),
            "pets.production": ([2], []),
            "*.staging": ([3], []),
            "*": ([4], []),
        },
    )
)


def local(uid: int, *gids: int, listener: str = "") -> LocalUser:
    return LocalUser(User(uid, frozenset(gids)), USERS, listener)


def basic(name: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:".encode())


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (local(1), "payments.production"),
        (local(99, 50), "payments.production"),
        (local(2), ""),
        (local(3), ""),
        (local(4), ""),
        (local(0), ""),
        (local(99), ""),
    ],
)
def test_a_name_is_not_guessed(user: LocalUser, name: str) -> None:
    """One service, named as such, is whose its requests are; of several, of a pattern, and of root nobody's."""
    assert (user.service, user.refusal) == (name, None)
    peer = Peer("127.0.0.1", None, None, user)
    assert peer.known and peer.caller == name
    assert Callers().named(peer, None) == (words.NAMED if name else 0)


@pytest.mark.parametrize(
    ("user", "name", "status"),
    [
        (local(1), "payments.production", 0),
        (local(1), "payments/production", 0),
        (local(2), "shop.production", 0),
        (local(3), "pets.staging", 0),
        (local(0), "payments.production", 0),
        (local(7), "payments.production", 0),
        (local(99, 70), "payments.production", 0),
        (local(2), "payments.production", 403),
        (local(3), "pets.staging.eu", 403),
        (local(4), "payments.production", 403),
        (local(99), "nobody.knows", 403),
        (local(1), "*.production", 407),
        (local(1), "", 407),
        (local(1, listener="payments.production"), "payments.production", 0),
        (local(0, listener="payments.production"), "shop.production", 407),
    ],
)
def test_a_name_is_the_users_or_refused(user: LocalUser, name: str, status: int) -> None:
    """The most specific setting decides alone, as for registering; asked again it is the same."""
    for _ in range(2):
        found = user.named(basic(name))
        assert found == parse_service(name) if not status else isinstance(found, Refusal) and found.status == status


@pytest.mark.parametrize("uid", [1, 0, 900, 7])
def test_a_listener_is_its_users(uid: int) -> None:
    """And those who may do everything."""
    user = local(uid, listener="payments.production")
    assert (user.service, user.refusal) == ("payments.production", None)


@pytest.mark.parametrize("user", [User(2), User(4), User(65534), User(99, frozenset((51,))), None])
def test_a_listener_is_nobody_elses(user: User | None) -> None:
    """Nor anybody's of whom the kernel does not say who it is."""
    found = LocalUser(user, USERS, "payments.production")
    assert found.refusal is not None and found.refusal.status == 403 and not found.service
    assert isinstance(found.named(basic("payments.production")), Refusal)


@given(st.binary(max_size=60) | st.text(max_size=30).map(basic))
def test_no_credentials_are_too_strange(value: bytes) -> None:
    """Whatever stands there, a user is nobody that the settings do not name it for."""
    found = local(99).named(value)
    assert isinstance(found, Refusal) and found.status in (403, 407) and len(found.reason) < 400
