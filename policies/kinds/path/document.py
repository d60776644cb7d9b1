"""`path`: what becomes of a path that has several spellings, before anything judges it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from policies.language.document import Document
from policies.language.plain import Flaw


class PathPolicy(Document, frozen=True, kw_only=True):
    """The document."""

    action: Annotated[
        Literal["normalize", "refuse", "keep"],
        Meta(description="What becomes of a path that is not in its normal form; keep: nothing, it is as sent"),
    ] = "normalize"
    escaped_slashes: Annotated[
        Literal["keep", "decode", "refuse"],
        Meta(description="What becomes of %2F and %5C. decode: they count as slashes, and are passed on as such"),
    ] = "keep"

    def check(self) -> None:
        """Nothing without effect."""
        if self.escaped_slashes == "keep" or self.action == "normalize":
            return
        if self.action == "keep":
            raise Flaw("$.escaped_slashes", "does nothing beside action: keep, which looks at no path; take one out")
        if self.escaped_slashes == "decode":
            raise Flaw("$.escaped_slashes", "'decode' beside action: refuse, which changes no path; write 'refuse'")
