# mypyc: compiled
"""A request as policies see it, decoded from the parsed head only where it is asked for."""

from __future__ import annotations

from agent.proxy.messages.head import RequestHead
from policies.language.normal_path import is_plain, normal
from policies.stranger import Stranger


class HeadView:
    """policies.request.RequestView over a RequestHead. Made only where policies look at more than the host."""

    __slots__ = ("_request", "address", "caller", "in_plain_text", "method", "path", "query", "stranger", "whole_path")

    def __init__(
        self,
        request: RequestHead,
        caller: str,
        address: str,
        in_plain_text: bool,
        stranger: Stranger | None = None,
        rewritten: str | None = None,
    ) -> None:
        """`rewritten`: path and query in place of the request's."""
        self._request = request
        self.caller = caller
        self.stranger = stranger
        self.address = address
        self.in_plain_text = in_plain_text
        self.method = request.method.decode()
        target, place = request.target, request.place
        if rewritten is not None:
            target = rewritten.encode("latin-1")
            place = b"" if is_plain(target) else normal(target).place
        self.whole_path, _, self.query = target.decode("latin-1").partition("?")
        self.path = place.decode("latin-1") if place else self.whole_path

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
