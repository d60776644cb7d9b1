"""What rules say of a path is what a service does with it: real servers are the judges of which place they serve, for
each trick that there is with paths and hosts. Go's and Jetty's are fetched by `scripts/interop paths`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.support.judges import FETCHED, NOWHERE, Judge, go, jetty, nginx, program, werkzeug
from tests.support.playbook import Playbook

DENY: Final = {"rules": [{"deny": "anybody", "match": {"path": {"prefix": "/admin"}}}], "default": "allow"}
ALLOW: Final = {"rules": [{"allow": "anybody", "match": {"path": {"prefix": "/public"}}}]}
JUDGES: Final = {
    "werkzeug": werkzeug,
    "nginx": nginx,
    "go": go("mux"),
    "go-own": go("own"),
    "jetty": jetty("strict"),
    "jetty-unsafe": jetty("unsafe"),
}
STARTS: Final = r"""
/ /. /x/.. /public/.. /public/x/../.. /%2e /%2E%2e /public/%2e%2e /; /;x=1 /public/..; /public/..;a=b
/public/;/.. /public%2f.. /public/..%2f. /public%5c.. /public/.; \ /\ /public\.. /public/%252e%252e
/%c0%ae%c0%ae /public/%u002e%u002e /public/..%00 /public/%09.. http://lamps http://lamps/ http://lamps//
http://lamps/public/.. http://lamps;@lamps
"""
NAMES: Final = r"""
/admin /%61dmin /%61%64%6d%69%6E /admin; /admin;x=1 /admin;/x /%2fadmin %2fadmin %5cadmin /Admin /ADMIN
/admin. /admin%2e /admin%20 /admin%00 /admin%0d /admin%3b /admin%3f /admin%23 /admin%2f /admin%2fx /admin%5cx
/admin\x //admin// /admin/. /admin/.. /admin/./x /a%64min/ /admin?x /admin/;jsessionid=1 /%e2%80%8badmin
/%ef%bc%8fadmin %c0%afadmin /admin/%2e%2e/admin /ad%6Din /admin/%2e%2e /admin/..; /admin%2f.. /admin/..%2f
"""
TARGETS = [start + name for start, name in itertools.product(["", *STARTS.split()], NAMES.split())]
PUBLIC = [target.replace("public", "y").replace("admin", "public").replace("dmin", "ublic") for target in TARGETS]
HOSTS = ["lamps", "lamps.", "LAMPS", "lamps:80", "lamps:8080"]
PATHS: Final[dict[str, Any]] = {
    "normalize": {},
    "decode": {"path": {"escaped_slashes": "decode"}},
    "refuse": {"path": {"action": "refuse", "escaped_slashes": "refuse"}},
    "keep": {"path": {"action": "keep"}},
}


UNJUDGED: Final = "%u"
"""Jetty's `unsafe` takes `%u002e` for a dot, which is no encoding of any standard; docs/policies/path.md says it."""


@pytest.fixture(scope="module", params=JUDGES)
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    name = request.param
    if name == "nginx" and program("nginx") is None:
        pytest.skip("no nginx")
    if name not in ("nginx", "werkzeug") and not FETCHED.exists():
        pytest.skip("scripts/interop paths fetches it")
    with ExitStack() as stack:
        found: Judge = stack.enter_context(JUDGES[name](tmp_path_factory.mktemp("judge")))
        found.loose = name == "jetty-unsafe"
        yield found


def sent(play: Playbook, request: bytes) -> bytes:
    """What the instance gets of a request; nothing: it was denied or refused."""
    client = play.client()
    client >> request  # what is refused at once may close it
    if play.idle:
        assert client.heard[9:12] in (b"400", b"403", b"404", b"421"), client.heard
        return b""
    wire = play.upstream("one")
    head = bytes(wire.heard)
    wire.heard = b""
    assert wire >> b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    assert client.heard
    return head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


def served(
    play: Playbook, paths: str, authz: dict[str, Any], judge: Judge, targets: list[str]
) -> Iterator[tuple[str, str]]:
    """Each target that passes, and the place at which the judge serves it."""
    play.put(play.instance("one", agent="here"), service="lamps", authz=authz, **PATHS[paths])
    for n, target in enumerate(targets):
        head = sent(play, f"GET {target} HTTP/1.1\r\nHost: {HOSTS[n % len(HOSTS)]}\r\n\r\n".encode())
        if head and not (judge.loose and UNJUDGED in target):
            yield target, judge.place(head)[0]


@pytest.mark.parametrize("paths", PATHS)
def test_what_is_denied_is_served_at_no_spelling(paths: str, judge: Judge) -> None:
    """Whatever passes a rule that denies /admin comes to another place."""
    with Playbook(host="here") as play:
        found = list(served(play, paths, DENY, judge, TARGETS))
    assert [target for target, place in found if place == "admin"] == []
    assert {place for _, place in found} >= {"other"}


@pytest.mark.parametrize("paths", PATHS)
def test_what_is_not_allowed_is_served_at_no_spelling(paths: str, judge: Judge) -> None:
    """Where only /public is allowed, whatever passes comes there, or nowhere."""
    with Playbook(host="here") as play:
        found = list(served(play, paths, ALLOW, judge, [*PUBLIC, *TARGETS, "/public", "/public/x"]))
    assert [each for each in found if each[1] not in ("public", NOWHERE)] == []
    assert ("/public", "public") in found and ("/public/x", "public") in found
