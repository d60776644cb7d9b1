# mypyc: compiled
"""A request as some service could take it: for another place, with the method that it asks to be taken for, or with
another of several values that it gives."""

from __future__ import annotations

from policies.kinds.authz.several import Variant
from policies.request import RequestView


class Reading:
    """A RequestView that differs from another in its path, method, and which values of several are read only."""

    __slots__ = (
        "_cookies",
        "_request",
        "address",
        "caller",
        "in_plain_text",
        "method",
        "overriding",
        "path",
        "query",
        "stranger",
        "vouched",
        "whole_path",
    )

    def __init__(self, request: RequestView, path: str, method: str, variant: Variant | None) -> None:
        self._request = request
        self._cookies = None if variant is None else variant.cookies
        self.method = method
        self.path = path
        self.whole_path = request.whole_path
        self.query = request.query if variant is None else variant.query
        self.caller = request.caller
        self.stranger = request.stranger
        self.address = request.address
        self.vouched = request.vouched
        self.in_plain_text = request.in_plain_text
        self.overriding: tuple[str, ...] = ()

    def said(self, request: RequestView) -> str:
        """How it differs from the request, in words; no value of it is named, which may be a secret."""
        if self.method != request.method:
            return f"services that heed what it asks for take it for {self.method[:20]}"
        if self.path != request.path:
            return f"some services take its path for {self.path[:100]!a}"
        return "of several values of one name some services read another than the first"

    @property
    def principal(self) -> str:
        """As the other's."""
        return self._request.principal

    def header(self, name: str) -> str | None:
        """As the other's, but for cookies."""
        if self._cookies is not None and name == "cookie":
            return self._cookies
        return self._request.header(name)

    def claim(self, name: str) -> str | None:
        """As the other's."""
        return self._request.claim(name)

    def headers(self) -> dict[str, str]:
        """As the other's."""
        return self._request.headers()

    def claimed(self) -> dict[str, str]:
        """As the other's."""
        return self._request.claimed()
