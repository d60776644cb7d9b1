# mypyc: compiled
"""A request as policies see it, decoded from the parsed head only where it is asked for."""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.head import UNDERSCORED, RequestHead
from policies.decision import Edits
from policies.language.normal_path import is_plain, normal
from policies.request import METHOD_OVERRIDES, overriding_methods
from policies.stranger import Stranger

_OVERRIDES: Final = frozenset([name.encode() for name in METHOD_OVERRIDES])


class HeadView:
    """policies.request.RequestView over a RequestHead. Made only where policies look at more than the host."""

    __slots__ = (
        "_domain",
        "_edits",
        "_hidden",
        "_host",
        "_proven",
        "_request",
        "address",
        "caller",
        "claims",
        "in_plain_text",
        "method",
        "path",
        "query",
        "stranger",
        "vouched",
        "whole_path",
    )

    def __init__(
        self,
        request: RequestHead,
        caller: str,
        address: str,
        in_plain_text: bool,
        proven: str = "",
        trust_domain: str = "",
        stranger: Stranger | None = None,
        vouched: str = "",
        *,
        rewritten: str | None = None,
        host: str | None = None,
        edits: Edits | None = None,
        hidden: frozenset[bytes] | None = None,
    ) -> None:
        """`vouched`: the client's address, where it is known; `proven`: the SPIFFE id that whoever connected has shown;
        `trust_domain`: of a caller who is known by his credentials. What a route makes of it: `rewritten`: path and
        query in place of the request's; `host`, `edits`: its Host, and its headers, but for those that are `hidden`."""
        self._request = request
        self._host = host
        self._edits = edits
        self._hidden = hidden
        self.caller = caller
        self.stranger = stranger
        self.claims: dict[str, str] | None = None
        """Of a token that `authn` has verified, which is asked before what asks for them."""
        self.address = address
        self.vouched = vouched
        self.in_plain_text = in_plain_text
        self._proven = proven
        self._domain = trust_domain
        self.method = request.method.decode()
        target, place = request.target, request.place
        if rewritten is not None:
            target = rewritten.encode("latin-1")
            place = b"" if is_plain(target) else normal(target).place
        self.whole_path, _, self.query = target.decode("latin-1").partition("?")
        self.path = place.decode("latin-1") if place else self.whole_path

    @property
    def principal(self) -> str:
        """The SPIFFE id of who is calling; empty where nobody is."""
        if self.stranger is not None:
            return self.stranger.id
        if self._proven or not (self._domain and self.caller):
            return self._proven
        return f"spiffe://{self._domain}/svc/{self.caller}"

    @property
    def overriding(self) -> tuple[str, ...]:
        """The methods that it asks to be taken for; a name with underscores is one with hyphens to many services."""
        found: list[str] = []
        for field in self._request.fields:
            name = field.name.replace(b"_", b"-") if field.code == UNDERSCORED else field.name
            if name in _OVERRIDES:
                found.append(field.value.decode("latin-1"))
        if self._edits is not None:
            found += [value for name in METHOD_OVERRIDES if (value := self.header(name)) is not None]
        return overriding_methods(found, self.query) if found or self.query else ()

    def header(self, name: str) -> str | None:
        """Value of a header (lower-case name); several fields of one name joined with ', '."""
        wanted = name.encode()
        edits, found = self._edits, None
        if self._host is not None and name == "host":
            return self._host
        if self._hidden is not None and wanted in self._hidden:
            return None
        if edits is None or not _replaced(edits, name):
            for field in self._request.fields:
                if field.name == wanted:
                    value = field.value.decode("latin-1")
                    found = value if found is None else f"{found}, {value}"
        if edits is not None:
            for added, value in (*edits.set, *edits.add):
                if added.lower() == name:
                    found = value if found is None else f"{found}, {value}"
        return found

    def claim(self, name: str) -> str | None:
        """A claim of a verified token; None before `authn` has verified one: nothing unverified is believed."""
        claims = self.claims
        return None if claims is None else claims.get(name)

    def headers(self) -> dict[str, str]:
        """All of them, by lower-case name, but what is between a caller and its agent, or between agents."""
        names = dict.fromkeys([field.name.decode("latin-1") for field in self._request.fields])
        for name in [name for name in names if name == "proxy-authorization" or name.startswith("x-shoal-")]:
            del names[name]
        edits = self._edits
        if edits is not None:
            for name, _ in (*edits.set, *edits.add):
                names[name.lower()] = None
        found: dict[str, str] = {}
        for name in names:
            value = self.header(name)
            if value is not None:
                found[name] = value
        return found

    def claimed(self) -> dict[str, str]:
        """All claims that `authn` has verified."""
        return {} if self.claims is None else dict(self.claims)


def _replaced(edits: Edits, name: str) -> bool:
    """Whether what was sent of a header goes no further."""
    return name in edits.remove or any(each.lower() == name for each, _ in edits.set)
