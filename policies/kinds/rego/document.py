"""`rego`: modules that `authz` documents name, so that several may share them, and each is put by whoever it is of."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, field

from policies.language.document import Document
from policies.language.plain import Flaw, below
from policies.rego import ModuleName, check_source

MAX_MODULES: Final = 32
MAX_SOURCE: Final = 64 * 1024
"""Characters of all modules together: compiling a thousand rules takes most of a second."""


class Bundle(Document, frozen=True, kw_only=True):
    """The document."""

    modules: Annotated[dict[ModuleName, str], Meta(max_length=MAX_MODULES, description="Rego, by name")] = field(
        default_factory=dict
    )
    data: Annotated[dict[str, Any], Meta(description="What modules see under data, besides themselves")] = field(
        default_factory=dict
    )

    def check(self) -> None:
        """Under an exact name, something, and not too much. Whether it compiles is asked with whoever names it."""
        if "*" in self.service:
            raise Flaw("$.service", f"{self.service!r} is a pattern; a bundle has a name, such as common")
        if not self.modules and not self.data:
            raise Flaw("$", "neither modules nor data; give one of them, or both")
        size = sum(len(source) for source in self.modules.values())
        if size > MAX_SOURCE:
            raise Flaw("$.modules", f"{size} characters of Rego; at most {MAX_SOURCE}, and lists belong to data")
        for name, source in self.modules.items():
            check_source(source, below("$", "modules", name))
