"""Which requests are the agent's own page's, and which another site has a browser make."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from agent.control.admin.browsers import CALLED, why_not
from agent.ui.browsers import Called, is_address

HERE = {"host": "127.0.0.1:15000"}
THERE = Called(("web-1", "mesh.corp.example"), secure=True)


def judged(
    headers: dict[str, str],
    called: Called | None = None,
    *,
    is_page: bool = False,
    kind: str = "http",
    method: str = "GET",
) -> str:
    fields = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return judged_fields(fields, called, is_page=is_page, kind=kind, method=method)


def judged_fields(
    fields: list[tuple[bytes, bytes]],
    called: Called | None = None,
    *,
    is_page: bool = False,
    kind: str = "http",
    method: str = "GET",
) -> str:
    scope: dict[str, Any] = {"type": kind, "path": "/", "headers": fields}
    scope |= {"method": method} if kind == "http" else {}
    scope |= {CALLED: called} if called is not None else {}
    return why_not(HTTPConnection(scope), is_page=is_page)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"origin": "http://127.0.0.1:15000"},
        {"origin": "HTTP://127.0.0.1:15000"},
        {"origin": "http://127.0.0.1:15000", "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"},
        {"host": "localhost:80", "origin": "http://localhost"},
        {"host": "[::1]:15000", "origin": "http://[::1]:15000"},
        {"host": "LocalHost:15000", "origin": "http://localhost:15000"},
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_programs_and_the_own_page_pass(more: dict[str, str], kind: str) -> None:
    """What typed an address by a person is opens no WebSocket, and a program says nothing at all."""
    typed = more.get("sec_fetch_site") == "none"
    assert bool(judged(HERE | more, kind=kind)) == (typed and kind == "websocket")


@pytest.mark.parametrize(
    "more",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "https://127.0.0.1:15000"},
        {"origin": "http://127.0.0.1:15001"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:15000/"},
        {"origin": "http://user@127.0.0.1:15000"},
        {"origin": "http://127.0.0.1:15000#a"},
        {"origin": "http://127.0.0.1:99999"},
        {"origin": "http://127.0.0.1:\xb2"},
        {"origin": "http://[::1:15000"},
        {"origin": "http://localhost:15000"},
        {"origin": "file://"},
        {"origin": "http://127.0.0.1:15000 http://evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "none", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": ""},
        {"origin": "http://127.0.0.1:15000", "sec_fetch_site": "cross-site"},
        {"host": "rebound.example:15000"},
        {"host": "rebound.example:15000", "origin": "http://rebound.example:15000", "sec_fetch_site": "same-origin"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "127.0.0.1:\xb2"},
        {"host": "127.0.0.1:"},
        {"host": "127.0.0.1:123456"},
        {"host": "::1"},
        {"host": "[127.0.0.1]"},
        {"host": "[::1"},
        {"host": ""},
        {"host": "localhost."},
        {"host": "127.0.0.1@evil.example"},
        {"host": "web-1"},
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_other_pages_are_refused(more: dict[str, str], kind: str) -> None:
    """By name, by origin, and by where a browser says that they come from; to the page itself people are not led either
    by what another page does in the background."""
    assert judged(HERE | more, kind=kind)
    assert judged(HERE | more, kind=kind, is_page=True)


def test_a_link_leads_to_the_page_and_to_nothing_else() -> None:
    """A person who follows one: the page shows nothing before it has asked itself. A frame is no person."""
    for site in ("cross-site", "same-site"):
        led = HERE | {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert judged(led, is_page=True) == ""
        assert judged(led)
        assert judged(led, is_page=True, method="POST")
        assert judged(led | {"origin": "http://evil.example"}, is_page=True)
        assert judged(led | {"sec_fetch_dest": "iframe"}, is_page=True)
        assert judged(led | {"sec_fetch_mode": "no-cors"}, is_page=True)


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("web-1", True),
        ("WEB-1:15443", True),
        ("mesh.corp.example:15443", True),
        ("10.0.0.7:15443", True),
        ("localhost:15443", True),
        ("web-2:15443", False),
        ("mesh.corp.example.evil.example", False),
    ],
)
def test_names_of_the_people_s_port(host: str, passes: bool) -> None:
    """Its host's and those in the settings; its page's origin is https."""
    assert (judged({"host": host}, THERE) == "") == passes
    assert (judged({"host": host, "origin": f"https://{host}"}, THERE) == "") == passes
    assert judged({"host": host, "origin": f"http://{host}"}, THERE)
    assert passes or "web-1 or mesh.corp.example" in judged({"host": host}, THERE)


def test_what_is_said_twice_or_never_is_refused() -> None:
    """One good word beside a bad one."""
    good, bad = b"http://127.0.0.1:15000", b"http://evil.example"
    host = (b"host", b"127.0.0.1:15000")
    assert not judged_fields([host, (b"origin", good)])
    assert judged_fields([])
    assert judged_fields([host, (b"host", b"evil.example")])
    assert judged_fields([host, (b"origin", good), (b"origin", bad)])
    assert judged_fields([host, (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")])


def test_addresses() -> None:
    """As they stand in a Host, without a port."""
    assert all(map(is_address, ("127.0.0.1", "[::1]", "[fe80::1]")))
    assert not any(
        map(is_address, ("", "::1", "[127.0.0.1]", "[::1", "localhost", "1", "127.1", "[[::1]]", "a.example"))
    )
