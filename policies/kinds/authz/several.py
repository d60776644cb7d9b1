# mypyc: compiled
"""A request that has several values of a parameter or cookie, as each service could read it: some take the first, some
the last, some any of them.

Laws
- Only what a document asks for makes another reading: what no rule looks at is no matter of it.
- Each value of each name stands first in some reading, with each of the other names; beyond MOST_SEVERAL of these
  nothing is judged, nor where a query or cookies of more than MOST_LONG characters would be read again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from policies.request import RequestView, several_cookies, several_parameters

MOST_SEVERAL: Final = 16
MOST_LONG: Final = 4096


class Asks:
    """The names that a document looks at."""

    __slots__ = ("any", "cookies", "every_parameter", "parameters")

    def __init__(
        self, parameters: Iterable[str] = (), cookies: Iterable[str] = (), *, every_parameter: bool = False
    ) -> None:
        self.parameters = frozenset(parameters)
        self.cookies = frozenset(cookies)
        self.every_parameter = every_parameter
        self.any = every_parameter or bool(self.parameters) or bool(self.cookies)


NOTHING: Final = Asks()


class Variant:
    """Which values are read first."""

    __slots__ = ("cookies", "query")

    def __init__(self, query: str, cookies: str | None) -> None:
        self.query = query
        self.cookies = cookies
        """None: as they are."""


def variants(request: RequestView, asks: Asks) -> list[Variant] | None:
    """As the request could be read, the way that it stands first; empty: in one way; None: in too many."""
    found: list[Variant] = []
    query = request.query
    cookies = request.header("cookie") if asks.cookies else None
    doubled = several_parameters(query) if asks.parameters or asks.every_parameter else _EMPTY
    crumbs = several_cookies(cookies) if cookies is not None else _EMPTY
    if not doubled and not crumbs:
        return found
    queries, fields = [query], [cookies or ""]
    for name, values in doubled.items():
        if asks.every_parameter or name in asks.parameters:
            if len(queries) * len(values) > MOST_SEVERAL or len(query) > MOST_LONG:  # counted before they are made
                return None
            queries = [f"{_encoded(name)}={_encoded(value)}&{rest}" for rest in queries for value in values]
    for name, values in crumbs.items():
        if name in asks.cookies:
            if len(fields) * len(values) * len(queries) > MOST_SEVERAL or len(cookies or "") > MOST_LONG:
                return None
            fields = [f"{name}={value}; {rest}" for rest in fields for value in values]
    if len(queries) == 1 and len(fields) == 1:
        return found
    for one in queries:
        for field in fields:
            found.append(Variant(one, None if len(fields) == 1 else field))
    return found


def _encoded(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


_EMPTY: Final[Mapping[str, tuple[str, ...]]] = {}
