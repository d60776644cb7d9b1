"""`trace`: which requests to a service leave spans, and what is in them.

Of a trace that is sampled every hop makes its span. Requests of others may leave one all the same, at the hop that saw
them fail or take long.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import Duration, positive
from policies.language.matching import Match, check_ungrouped, template_regex
from policies.language.plain import Flaw, below
from policies.request import SECRET_HEADERS, TOKEN

MOST_SLOWER_S = 3600.0
_Share = Annotated[float, Meta(ge=0, le=1, description="Of the traces that begin: 0.01 is one in 100")]
_Rate = Annotated[float, Meta(gt=0, le=1_000_000)]
_Name = Annotated[str, Meta(min_length=1, max_length=128)]
_Names = Annotated[tuple[_Name, ...], Meta(max_length=20)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A share of its own for some requests."""

    match: Annotated[Match, Meta(description="Which requests; but no claims, since nobody is known yet")]
    share: _Share


class Trace(Document, frozen=True, kw_only=True):
    """The document."""

    enabled: Annotated[
        bool, Meta(description="false: trace headers are passed on as they are, and no span is made")
    ] = True
    share: _Share = 0.01
    rules: Annotated[tuple[Rule, ...], Meta(max_length=50, description="The first that matches has the share")] = ()
    parent: Annotated[
        Literal["follow", "ignore"],
        Meta(description="What whoever calls has decided: it counts, or it is drawn anew by the trace's id"),
    ] = "follow"
    rate: Annotated[_Rate | None, Meta(description="Traces that are drawn in a second, in each agent")] = None
    follow_rate: Annotated[
        _Rate | None, Meta(description="Traces of callers that are followed in a second, in each agent")
    ] = None
    errors: Annotated[bool, Meta(description="Requests that fail leave a span whatever was drawn")] = True
    slower: Annotated[Duration | None, Meta(description="So do those that take longer")] = None
    headers: Annotated[_Names, Meta(description="Of the request, that spans tell")] = ()
    response_headers: Annotated[_Names, Meta(description="Of the answer")] = ()
    templates: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/", extra={"right": "a path, such as /users/{id}"})], ...],
        Meta(max_length=50, description="Spans are named by the first of these that a path matches: /users/{id}"),
    ] = ()

    def check(self) -> None:
        """No secrets, templates that are some, and nothing that would do nothing."""
        if not self.enabled:
            self._check_off()
        if self.follow_rate is not None and self.parent == "ignore":
            raise Flaw("$.follow_rate", 'does nothing with parent: "ignore": what is drawn anew is bounded by rate')
        for n, rule in enumerate(self.rules):
            path = below("$", "rules", n, "match")
            check_ungrouped(rule.match, path)
            if rule.match.claims:
                raise Flaw(below(path, "claims"), "it is drawn before anybody's token is verified; name a header")
        for field, names in (("headers", self.headers), ("response_headers", self.response_headers)):
            for n, name in enumerate(names):
                if not TOKEN.match(name):
                    raise Flaw(below("$", field, n), f"{name[:60]!r} is no header name")
                if name.lower() in SECRET_HEADERS:
                    raise Flaw(below("$", field, n), f"{name} is a secret, and secrets are not recorded")
        for n, template in enumerate(self.templates):
            template_regex(below("$", "templates", n), template)
        if self.slower is not None:
            positive("$.slower", self.slower, MOST_SLOWER_S)

    def _check_off(self) -> None:
        usual = Trace()
        for field in (
            "share",
            "rules",
            "parent",
            "rate",
            "follow_rate",
            "errors",
            "slower",
            "headers",
            "response_headers",
            "templates",
        ):
            if getattr(self, field) != getattr(usual, field):
                raise Flaw(f"$.{field}", "does nothing with enabled: false")
