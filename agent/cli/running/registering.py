"""What the agent on this host is told of an instance, and what it answers."""

from __future__ import annotations

import http
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from agent.cli.agent_client import Admin, Refused


class Registered(msgspec.Struct, frozen=True):
    """What the agent answers to a registration."""

    id: str
    token: str = ""
    """What the instance proves with that a call is its own, the password in HTTP_PROXY; empty: it has one already."""
    proxy: str = ""
    """URL of the outbound listener, with the credentials."""
    replaced: tuple[str, ...] = ()
    """Instances of other services that stood at its address and port, and were taken out."""


class Credentials(msgspec.Struct, frozen=True):
    """What the agent answers to who asks for another token."""

    token: str
    proxy: str


def registered(admin: Admin, body: dict[str, Any]) -> Registered:
    """Entrusts an instance to the agent. Raises Failure."""
    return msgspec.convert(admin.instance("POST", "/instances", body), Registered)


def new_token(admin: Admin, service: str, id: str) -> Credentials:
    """Another token for an instance; the one before ends soon. Raises Failure."""
    return msgspec.convert(admin.instance("POST", f"{_path(service, id)}/token"), Credentials)


def _path(service: str, id: str) -> str:
    return f"/instances/{quote(service, safe='')}/{quote(id, safe='')}"


def deregistered(admin: Admin, service: str, id: str, died: str = "") -> Any:
    """Takes it away again. `died`: how its program has ended by itself. Raises Failure, also where there is no such
    instance."""
    if died:
        try:
            return admin.instance("DELETE", f"{_path(service, id)}?{urlencode({'died': died})}")
        except Refused as refused:
            if refused.status != http.HTTPStatus.BAD_REQUEST:
                raise  # else an agent of a version that does not hear how
    return admin.instance("DELETE", _path(service, id))
