"""Requests with tokens, at an agent without sockets."""

from __future__ import annotations

import time
from typing import Any

from tests.support.playbook import Playbook, Wire
from tests.support.tokens import provider, token

LAMPS = "lamps.production"
BACKUP = "backup.production"
AUTHN: dict[str, Any] = {"providers": [provider()], "required": False}
TOLD = {**AUTHN, "forward": False, "headers": {"x-user": "sub", "X-Roles": "roles"}, "payload": "x-claims"}
"""Tokens are taken out, and what is in them is told instead."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CANARY = {
    "rules": [{"match": {"claims": {"tier": "free"}}, "split": [{"version": "v2"}]}, {"split": [{"version": "v1"}]}]
}


def jwt(other: bool = False, **claims: Any) -> str:
    return token({"iss": "https://login", "aud": "lamps", "exp": time.time() + 3600, **claims}, other=other)


def bearer(other: bool = False, **claims: Any) -> str:
    return f"Authorization: Bearer {jwt(other, **claims)}"


def put(play: Playbook, agent: str = "here", **documents: Any) -> None:
    """Two versions of lamps."""
    via = agent != "here"
    places = [play.instance(name, version=name, agent=agent, via=via) for name in ("v1", "v2")]
    play.put(*places, service=LAMPS, **documents)


def asks(play: Playbook, *lines: str, target: str = "/", client: Wire | None = None, body: str = "") -> Wire:
    client = client or play.client()
    head = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", f"Host: {LAMPS}", *lines]
    assert client >> "\r\n".join([*head, "", body]).encode()
    return client


def heard(play: Playbook, name: str | None = None) -> tuple[str, bytes]:
    """Who was asked, and what it has heard; it answers, and its connection ends."""
    wire = play.upstream(name) if name else play.upstream()
    text = wire.heard
    assert wire >> OK
    wire.ends()
    return wire.name, text


def lines(text: bytes) -> list[bytes]:
    return text.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")


def status(client: Wire) -> int:
    return int(client.heard.split(b" ", 2)[1])
