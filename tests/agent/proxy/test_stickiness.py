"""The cookie of a sticky split, on the answers that browsers get."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.playbook import Playbook, Wire

SPLIT = [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}]
STICKY: dict[str, Any] = {"rules": [{"split": SPLIT, "sticky": {"cookie": "user", "ttl": "1h"}}]}
COOKIE = re.compile(rb"set-cookie: (user=[0-9a-f]{32}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax\r\n")


def answer(fields: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: 0\r\n%b\r\n" % (status, fields)


class Site:
    """Two versions of a service under one route, and what their browsers hear."""

    def __init__(self, play: Playbook, route: dict[str, Any]) -> None:
        self.play = play
        self.client = play.client()
        self.upstreams: dict[str, Wire] = {}
        places = [play.instance(name, version=name) for name in ("v1", "v2")]
        play.put(*places, route=route)

    def ask(self, cookie: bytes = b"", says: bytes = answer()) -> tuple[str, bytes]:
        """Who was asked, and what the client heard."""
        own = b"Cookie: %b\r\n" % cookie if cookie else b""
        assert self.client >> b"GET / HTTP/1.1\r\nHost: pets.production\r\n%b\r\n" % own
        if not self.play.idle:
            wire = self.play.upstream()
            self.upstreams[wire.name] = wire
        (asked,) = [wire for wire in self.upstreams.values() if wire.heard]
        asked.heard = b""
        assert asked >> says
        heard, self.client.heard = self.client.heard, b""
        return asked.name, heard


def test_a_browser_gets_a_cookie_and_comes_back_to_the_same_side() -> None:
    """Twenty browsers: each its own cookie, each on one side for good; those who have a cookie get no other."""
    with Playbook() as play:
        site = Site(play, STICKY)
        seen, sides = set(), set()
        for _ in range(20):
            side, heard = site.ask()
            found = COOKIE.search(heard)
            assert found is not None and heard.count(b"set-cookie") == 1
            seen.add(found[1])
            sides.add(side)
            for _ in range(3):
                again, heard = site.ask(b"theme=dark; " + found[1])
                assert again == side and b"set-cookie" not in heard
        assert len(seen) == 20 and sides == {"v1", "v2"}


@pytest.mark.parametrize(
    ("says", "given"),
    [
        (answer(), True),
        (answer(b"Cache-Control: private, max-age=60\r\n"), True),
        (answer(b"Cache-Control: no-store\r\n"), True),
        (answer(b"Cache-Control: max-age=0, must-revalidate\r\n"), True),
        (answer(b"Expires: 0\r\n"), True),
        (answer(b"Set-Cookie: other=1\r\n"), True),
        (answer(b"Set-Cookie: username=ann\r\n"), True),
        (answer(status=b"404 Not Found"), True),
        (answer(b"Cache-Control: public\r\n"), False),
        (answer(b"Cache-Control: max-age=60\r\n"), False),
        (answer(b"Cache-Control: must-revalidate\r\nCache-Control: S-MAXAGE=60\r\n"), False),
        (answer(b"Expires: Thu, 01 Dec 2067 16:00:00 GMT\r\n"), False),
        (answer(b"Set-Cookie: other=1\r\nSet-Cookie: user=ann; Path=/\r\n"), False),
        (answer(b"Set-Cookie: user=; Max-Age=0\r\n"), False),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", False),
    ],
)
def test_which_answers_may_set_it(says: bytes, given: bool) -> None:
    """Not what caches may hand to others; and a cookie of that name that the service sets or takes away stands."""
    with Playbook() as play:
        _, heard = Site(play, STICKY).ask(says=says)
        assert (COOKIE.search(heard) is not None) == given


@pytest.mark.parametrize(
    "route",
    [
        {"rules": [{"split": SPLIT}]},
        {"rules": [{"split": SPLIT, "sticky": {"header": "user"}}]},
        {"rules": [{"split": SPLIT, "sticky": {"cookie": "user", "issue": False}}]},
        {"rules": [{"match": {"path": {"exact": "/b"}}, **STICKY["rules"][0]}]},
        {**STICKY, "mode": "audit"},
    ],
)
def test_where_none_is_wanted_none_is_given(route: dict[str, Any]) -> None:
    """By header, at random, where the document says no, where the rule does not match, and where it is only watched."""
    with Playbook() as play:
        site = Site(play, route)
        for _ in range(10):
            assert b"set-cookie" not in site.ask()[1]


def test_the_meshs_own_answers_set_none() -> None:
    """They are about a failure, and would begin a user on a side that cannot serve him."""
    with Playbook() as play:
        play.put(play.instance("v1", version="v1"), route={"rules": [{"split": [{"version": "a"}, {"version": "b"}],
                 "sticky": {"cookie": "user"}}]})  # fmt: skip
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n"
        assert client.heard.startswith(b"HTTP/1.1 503") and b"set-cookie" not in client.heard
