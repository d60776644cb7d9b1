"""Roles of etcd: what docs/identity.md says of who may write what, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.keys import Keys
from registry.rights import Grant, Rights, Role

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "identity.md").read_text()
KEYS = Keys()
RIGHTS = Rights(KEYS)
HOST = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True)
NAMES = {
    "digest": "d",
    "host": "web-1",
    "id": "1",
    "instance": "a",
    "name": "agent",
    "pattern": "pets",
    "service": "pets",
    "trust-domain": "there.shoal",
}


def writes(role: Role, key: str) -> bool:
    return covers(role.grants, key)


def covers(grants: Iterable[Grant], key: str) -> bool:
    return any(g.may == "readwrite" and (g.key <= key < g.end if g.end else g.key == key) for g in grants)


def rows() -> list[tuple[str, str]]:
    """Keys of the page's table, and who may write each."""
    (table,) = re.findall(r"## Keys\n\n(\|.*?)\n\n", PAGE, re.DOTALL)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [(key, cells[2]) for cells in lines for key in re.findall(r"`([^`]+)`", cells[0])]


@pytest.mark.parametrize(("pattern", "who"), rows(), ids=[key for key, _ in rows()])
def test_who_may_write_by_the_page(pattern: str, who: str) -> None:
    """Each of the roles that it names, and none of the others; what is a host's is no other host's."""
    key = KEYS.prefix + re.sub(r"<([a-z-]+)>", lambda found: NAMES[found[1]], pattern)
    key += "pets/a" if key.endswith("/") else ""
    assert writes(RIGHTS.host("web-1"), key) is (who == "that host")
    assert not writes(RIGHTS.host("web-2"), key) and not writes(RIGHTS.host("web-10"), key)
    assert writes(RIGHTS.operator(), key) is ("operators" in who)
    assert writes(RIGHTS.issuer(), key) is ("issuers" in who)
    assert not writes(RIGHTS.agent(), key) and not writes(RIGHTS.reader(), key)


@given(HOST, HOST)
def test_no_host_has_anothers_keys(one: str, other: str) -> None:
    """Whatever the two are called, one the beginning of the other too."""
    if one == other:
        return
    names = (KEYS.agent(other), KEYS.ack(other), KEYS.seen(other), KEYS.version(other), KEYS.trust(other))
    own = (KEYS.instance("pets", f"a@{other}"), KEYS.health("pets", f"a@{other}"), KEYS.request(other, "agent"))
    own = (*own, KEYS.own_event(other, "1"), KEYS.tally("pets", other, own=True))
    assert not any(writes(RIGHTS.host(one), key) for key in (*names, *own))
    assert all(writes(RIGHTS.host(other), key) for key in (*names, *own))


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True))
def test_no_role_leaves_its_mesh(mesh: str) -> None:
    """Not one whose name begins alike either; and no two meshes have a role of one name."""
    rights = Rights(Keys(mesh))
    for role in (*rights.shared(), rights.host("web-1")):
        assert role.name.startswith(rights.prefix)
        for grant in role.grants:
            assert grant.key.startswith(f"/shoal/{mesh}/") and grant.end <= f"/shoal/{mesh}0"
    assert not Rights(Keys("a")).prefix.startswith(Rights(Keys("a-b")).prefix)


def test_with_issuers_agents_put_nothing_in_force() -> None:
    """Two rooms say what holds in place of a policy."""
    for room in ("last_good", "held", "rejected", "audits_rejected"):
        key = f"{KEYS.prefix}{room}/route/pets"
        assert writes(RIGHTS.agent(), key) and writes(RIGHTS.issuer(), key)
        assert not writes(Rights(KEYS, kept_by_issuers=True).agent(), key)
