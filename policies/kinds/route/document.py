"""`route`: which instances a request goes to, or which answer the mesh gives by itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from policies.kinds.route.rules import (
    Group,
    Preview,
    Rule,
    check_group,
    check_preview,
    check_rule,
)
from policies.language.document import Document
from policies.language.plain import Flaw, below


class Route(Document, frozen=True, kw_only=True):
    """The document."""

    rules: Annotated[tuple[Rule, ...], Meta(max_length=1000, description="The first that matches decides")] = ()
    groups: Annotated[dict[str, Group], Meta(max_length=256, description="Named groups, for match.groups")] = (
        msgspec.field(default_factory=dict)
    )
    active: Annotated[
        str, Meta(max_length=128, description="Blue-green: the version that gets all traffic no rule has placed")
    ] = ""
    standby: Annotated[
        str, Meta(max_length=128, description="Blue-green: the version that waits; reachable through `preview`")
    ] = ""
    preview: Annotated[Preview | None, Meta(description="Blue-green: who sees the standby version")] = None

    def check(self) -> None:
        """Everything the types let pass."""
        for name, group in self.groups.items():
            check_group(group, below("$", "groups", name))
        for n, rule in enumerate(self.rules):
            check_rule(rule, below("$", "rules", n), frozenset(self.groups))
        if self.standby and not self.active:
            raise Flaw("$.active", "missing: with a standby version there has to be an active one")
        if self.active and self.active == self.standby:
            raise Flaw("$.standby", f"{self.standby!r} is the active version too; they are two")
        if self.preview is not None:
            if not self.standby:
                raise Flaw("$.preview", "there is no standby version to show")
            check_preview(self.preview, "$.preview")
