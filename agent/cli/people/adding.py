"""Who may log in: what `shoal person` and `shoal ca revoke person` write. Pure, but for a token's secret."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from agent.cli.failure import Exit, Failure
from agent.cli.identity import revoking
from agent.cli.identity.domain import Change, Domain
from agent.cli.identity.inviting import token_for
from agent.identity.certificates import PERSON_S
from agent.identity.revocations import Revoked
from agent.identity.spiffe import person_id
from agent.identity.tokens import Token, digest_of
from registry.identity_records import Join, Person, Role
from registry.records import encode
from registry.store import Delete, Put


def check_person(name: str) -> str:
    """A person's name as it is. Raises Failure."""
    try:
        return person_id("any", name).person
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def added(
    domain: Domain, name: str, description: str, by: str, now_s: float, role: Role | None = None
) -> tuple[Change, Token]:
    """That somebody may log in, and the token for it, which is good instead of those before. `role`: None: as it is,
    to look where there is none. Raises Failure."""
    domain.required()
    token = msgspec.structs.replace(token_for(domain, "", now_s), person=check_person(name))
    record = Join(person=name, until=datetime.fromtimestamp(token.until, UTC), by=by)
    known = domain.people.get(name)
    known = known if known is not None else Person()
    said = Person(role=role or known.role, description=description or known.description, by=by)
    digest = domain.keys.identity("joins", digest_of(token.secret))
    member = domain.keys.identity("people", name)
    change = Change([domain.unchanged(member), domain.unchanged(digest)], [])
    _take_back(domain, name, change)
    change.operations += [Put(member, encode(said)), Put(digest, encode(record))]
    return change, token


def changed(domain: Domain, name: str, description: str | None, by: str, role: Role | None) -> Change:
    """What somebody may, and nothing of how he logs in; None: as it is. Raises Failure."""
    domain.required()
    member = domain.keys.identity("people", check_person(name))
    known = domain.people.get(name)
    if known is None:
        why = unread(domain).get(name)
        raise Failure(
            f"what stands of {name} cannot be read: {why}; `shoal person rm {name}` takes it away"
            if why
            else f"{name} is nobody who may log in; `shoal person add {name}` lets {name}"
        )
    said = Person(role=role or known.role, description=known.description if description is None else description, by=by)
    return Change([domain.unchanged(member)], [Put(member, encode(said))])


def unread(domain: Domain) -> dict[str, str]:
    """By name, of whom it cannot be read what he may, and why: an agent that knew it before goes by that."""
    prefix = domain.keys.identity("people", "any").removesuffix("any")
    return {key.removeprefix(prefix): why for key, why in domain.malformed.items() if key.startswith(prefix)}


def removed(domain: Domain, name: str) -> Change:
    """That somebody may log in no more, also where nobody can read what he may; agents refuse what he
    has, and etcd takes it until it ends. Raises Failure."""
    domain.required()
    change = Change([], [])
    member = domain.keys.identity("people", check_person(name))
    if domain.revision_of(member):
        change.compares.append(domain.as_found(member))
        change.operations.append(Delete(member))
    _take_back(domain, name, change)
    return change


def revoked(domain: Domain, name: str, now_s: float, reason: str, by: str, *, force: bool) -> Change:
    """The same, and that what he has is believed no more. `force`: also of whom nobody knows. Raises Failure."""
    check_person(name)
    if not force:
        revoking.check_known(domain, "person", name)
    now = datetime.fromtimestamp(int(now_s), UTC)
    entry = Revoked(
        until=datetime.fromtimestamp(int(now_s + PERSON_S), UTC),
        person=name,
        before=now,
        reason=reason,
        by=by,
        at=now,
    )
    change, out = revoking.added(domain, entry, now_s), removed(domain, name)
    return Change(change.compares + out.compares, change.operations + out.operations)


def _take_back(domain: Domain, name: str, change: Change) -> None:
    for digest, join in domain.joins.items():
        if join.person == name:
            key = domain.keys.identity("joins", digest)
            change.compares.append(domain.unchanged(key))
            change.operations.append(Delete(key))
