"""A new host: what `shoal host add` writes, and the token that lets its agent in."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec

from agent.cli.failure import Failure
from agent.cli.identity import granting
from agent.cli.identity.domain import Change, Domain
from agent.cli.identity.issuers import root_above
from agent.identity.tokens import (
    MAX_ISSUERS,
    SECRET_BYTES,
    TOKEN_S,
    Place,
    Token,
    anchor_of,
    digest_of,
    secret_of,
)
from registry.identity_records import Join
from registry.records import encode
from registry.store import Delete, Put


class Invited(msgspec.Struct, kw_only=True):
    """What was decided."""

    granted: list[str]
    """All patterns that name the host now."""
    token: Token | None = None
    """None: its agent lives already, and asks by itself."""


def invited(
    domain: Domain, host: str, patterns: list[str], description: str, by: str, now_s: float
) -> tuple[Change, Invited]:
    """That a host belongs to the mesh, with grants and, where no agent of it lives, a token, which is good instead of
    those before. Raises Failure."""
    domain.required()
    change = granting.added(domain, host, patterns, description)
    told = Invited(granted=sorted({*domain.granted(host), *patterns}))
    if host in domain.agents:
        return change, told
    told.token = token_for(domain, host, now_s)
    for digest, join in domain.joins.items():
        if join.host == host or join.until.timestamp() <= now_s:
            key = domain.keys.identity("joins", digest)
            change.compares.append(domain.unchanged(key))
            change.operations.append(Delete(key))
    record = Join(host=host, until=datetime.fromtimestamp(told.token.until, UTC), by=by)
    key = domain.keys.identity("joins", digest_of(told.token.secret))
    change.compares.append(domain.unchanged(key))
    change.operations.append(Put(key, encode(record)))
    return change, told


def token_for(domain: Domain, host: str, now_s: float) -> Token:
    """A token of its own secret, for the issuers that live. Raises Failure where none does: it would let nobody in."""
    able = {name: root for name in sorted(domain.issuers) if (root := root_above(domain, name)) is not None}
    living = [name for name in able if name in domain.agents]
    if not living:
        none = "no issuer lives" if able else "no issuer has an intermediate yet"
        raise Failure(f"{none}, and {host} could not join; see `shoal ca status`. Nothing was changed")
    root = able[living[0]]
    agents = [(name, domain.agents[name]) for name in living if able[name] == root]
    places = [Place(name, agent.address, agent.inbound_port) for name, agent in agents[:MAX_ISSUERS]]
    name, key = anchor_of(root)
    secret = secret_of(os.urandom(SECRET_BYTES))
    return Token(
        secret, domain.keys.mesh, host, int(now_s + TOKEN_S), domain.required().trust_domain, name, key, places
    )
