"""Who may do what: root, the agent's own user, and those that the settings name."""

from __future__ import annotations

import grp
import pwd

import pytest

from agent.control.host.rights import Rights
from agent.identity.users import User
from agent.settings.document import LocalPart
from agent.settings.file import SettingsError

AGENT = 990


def rights(**local: object) -> Rights:
    return Rights(LocalPart(**local), AGENT)  # type: ignore[arg-type]


def test_without_settings_nobody_but_root_and_the_agent_may_anything() -> None:
    """Whoever else is on the host is nobody's operator, and no service."""
    made = rights()
    for uid, may in ((0, True), (AGENT, True), (1000, False), (65534, False)):
        assert made.may_operate(User(uid)) is may
        assert made.may_be(User(uid), "pets.production") is may


def test_users_and_groups_by_name_and_number() -> None:
    """Names are looked up once; a group counts as the kernel says that the process has it."""
    user, group = pwd.getpwuid(65534).pw_name, grp.getgrgid(0).gr_name
    made = rights(operate=(user, "1000", f"@{group}", "@50"))
    assert made.may_operate(User(65534))
    assert made.may_operate(User(1000))
    assert made.may_operate(User(1, frozenset((0,))))
    assert made.may_operate(User(1, frozenset((7, 50))))
    assert not made.may_operate(User(1, frozenset((7, 51))))
    assert not made.may_operate(User(50))


def test_who_may_tap_operates_nothing() -> None:
    """And who operates may tap."""
    made = rights(operate=("1000",), tap=("1001", "@50"))
    for user, taps, operates in (
        (User(0), True, True),
        (User(1000), True, True),
        (User(1001), True, False),
        (User(7, frozenset((50,))), True, False),
        (User(1002), False, False),
    ):
        assert (made.may_tap(user), made.may_operate(user)) == (taps, operates)
        assert made.may_be(user, "pets.production") is operates
    with pytest.raises(SettingsError, match=r"local\.tap: this host has no user 'nobody-of-that-name'"):
        rights(tap=("nobody-of-that-name",))


def test_the_most_specific_pattern_decides_alone() -> None:
    """Who may be anything may not be payments, when that names others; nobody is an empty list."""
    made = rights(services={"*": ("1000",), "*.production": ("1001",), "payments/production": ()})
    assert made.may_be(User(1000), "pets.staging")
    assert not made.may_be(User(1000), "pets.production")
    assert made.may_be(User(1001), "pets.production")
    assert not made.may_be(User(1001), "payments.production")
    assert made.may_be(User(0), "payments.production")


@pytest.mark.parametrize(
    ("local", "said"),
    [
        ({"operate": ("nobody-of-that-name",)}, "local.operate: this host has no user 'nobody-of-that-name'"),
        ({"services": {"pets": ("@no-such-group",)}}, "local.services.pets: this host has no group 'no-such-group'"),
    ],
)
def test_who_does_not_exist_is_an_error(local: dict[str, object], said: str) -> None:
    """A misspelt user would be one who may nothing, and nobody would know why."""
    with pytest.raises(SettingsError, match=said):
        rights(**local)


def test_a_peer_is_called_by_its_name() -> None:
    """In refusals; a number where there is none."""
    assert str(User(0)) == "user root (uid 0)"
    assert str(User(54321)) == "uid 54321"
