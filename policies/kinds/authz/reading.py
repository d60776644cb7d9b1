# mypyc: compiled
"""A request as some service could take it: for another place, or with the method that it asks to be taken for."""

from __future__ import annotations

from policies.request import RequestView


class Reading:
    """A RequestView that differs from another in its path and method only."""

    __slots__ = (
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

    def __init__(self, request: RequestView, path: str, method: str) -> None:
        self._request = request
        self.method = method
        self.path = path
        self.whole_path = request.whole_path
        self.query = request.query
        self.caller = request.caller
        self.stranger = request.stranger
        self.address = request.address
        self.vouched = request.vouched
        self.in_plain_text = request.in_plain_text
        self.overriding: tuple[str, ...] = ()

    @property
    def principal(self) -> str:
        """As the other's."""
        return self._request.principal

    def header(self, name: str) -> str | None:
        """As the other's."""
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
