# mypyc: compiled
"""`from`: where a request comes from, by its client's address as the mesh vouches for it.

Law: an address that nobody vouches for is every address to a rule that denies, and none to one that allows.
"""

from __future__ import annotations

from policies.language.addresses import Ranges
from policies.request import RequestView


class Origin:
    """A predicate."""

    __slots__ = ("_fails", "_ranges")

    def __init__(self, ranges: tuple[str, ...], *, fails: bool) -> None:
        """`fails`: what it says where the address is not known."""
        self._ranges = Ranges(ranges)
        self._fails = fails

    def __call__(self, request: RequestView) -> bool:
        """Whether it holds."""
        address = request.vouched
        return self._ranges.has(address) if address else self._fails
