# mypyc: compiled
"""A request as policies see it, decoded from the parsed head only where it is asked for."""

from __future__ import annotations

from agent.proxy.messages.head import RequestHead


class HeadView:
    """policies.request.RequestView over a RequestHead. Made only where policies look at more than the host."""

    __slots__ = ("_request", "caller", "method", "path", "query")

    def __init__(self, request: RequestHead, caller: str) -> None:
        self._request = request
        self.caller = caller
        self.method = request.method.decode()
        self.path, _, self.query = request.target.decode("latin-1").partition("?")

    def header(self, name: str) -> str | None:
        """Value of a header (lower-case name); several fields of one name joined with ', '."""
        wanted = name.encode()
        found = None
        for field in self._request.fields:
            if field.name == wanted:
                value = field.value.decode("latin-1")
                found = value if found is None else f"{found}, {value}"
        return found

    def claim(self, name: str) -> str | None:
        """A claim of a verified token. None as long as no policy verifies tokens: nothing unverified is believed."""
        return None
