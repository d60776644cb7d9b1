"""Who a request is of, as a document says it: by a header, a cookie or a claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.language.plain import Flaw, below
from policies.request import TOKEN, RequestView, cookie

MAX_CLAIM: Final = 512
"""Characters of a claim's name."""


class Sticky(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What tells users apart; exactly one. Requests without it are divided at random."""

    header: str = ""
    cookie: str = ""
    claim: Annotated[str, Meta(description="Of a verified token")] = ""


def check_key(path: str, **keys: str) -> None:
    """Exactly one of the keys, with a name that a request can have."""
    given = [name for name, value in keys.items() if value]
    if len(given) != 1:
        possible = ", ".join(keys)
        raise Flaw(path, f"exactly one of {possible}; here: {' and '.join(given) or 'none'}")
    kind = given[0]
    if kind == "claim":
        check_claim(keys[kind], below(path, kind))
    elif not TOKEN.match(keys[kind]):
        raise Flaw(below(path, kind), f"{keys[kind][:60]!r} is no {kind} name")


def check_claim(name: str, path: str) -> None:
    """A name that a claim can have. Raises Flaw."""
    if len(name) > MAX_CLAIM:
        raise Flaw(path, f"{len(name)} characters; at most {MAX_CLAIM}")


def check_sticky(sticky: Sticky, path: str) -> None:
    """One key. Raises Flaw."""
    check_key(path, header=sticky.header, cookie=sticky.cookie, claim=sticky.claim)


def check_share(sticky: Sticky | None, percent: float, path: str) -> None:
    """What keeps users in a share of `percent` together, where there is one to be kept in. Raises Flaw."""
    if sticky is not None:
        check_sticky(sticky, path)
        if percent == 100:
            raise Flaw(path, "does nothing without a percent below 100: everybody is in")


def reader(header: str, cookie_name: str, claim: str) -> Callable[[RequestView], str | None]:
    """What reads who is asking."""
    if header:
        name = header.lower()
        return lambda request: request.header(name)
    if cookie_name:
        return lambda request: cookie(request, cookie_name)
    return lambda request: request.claim(claim)


def user_of(sticky: Sticky) -> Callable[[RequestView], str | None]:
    """What reads the user who is kept together."""
    return reader(sticky.header, sticky.cookie, sticky.claim)
