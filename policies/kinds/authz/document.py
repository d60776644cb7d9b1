"""`authz`: who may do what. Ordered rules; the first that matches decides, and `default` where none does. What they let
pass, Rego or an external OPA may deny."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from policies.kinds.authz.condition import MAX_CONDITIONS, check_condition
from policies.kinds.authz.outside import Opa, Rego, check_opa, check_rego
from policies.kinds.authz.source import check_source
from policies.language.addresses import MAX_RANGES, check_range
from policies.language.document import Document
from policies.language.matching import Match, check_ungrouped
from policies.language.plain import Flaw, below, read_at

MAX_RULES: Final = 1000
DEFAULT: Final = "default"
"""What decides where no rule does, as it is counted."""

Name: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9 ._/-]{0,62}[A-Za-z0-9])?)?$(?!\n)",
        extra={"right": "a name: 1 to 64 letters, digits, spaces and any of . _ / -"},
    ),
]
Sources: TypeAlias = Annotated[
    Annotated[tuple[str, ...], Meta(max_length=1000)] | Literal["anybody", "anonymous"],
    Meta(description="Callers: services, patterns or SPIFFE ids; anonymous: who is none; anybody: both"),
]


EVERY: Final = Match()
"""Where a rule has no conditions."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One rule: for whom it is, for which requests, and what it says."""

    name: Annotated[Name, Meta(description="Under which it is counted and explained; empty: its place")] = ""
    allow: Sources | None = None
    deny: Sources | None = None
    match: Match = EVERY
    from_: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            max_length=MAX_RANGES,
            description="Ranges of client addresses, such as 10.8.0.0/16, as agents vouch for",
            extra={"right": "a range at least, or take it out: it would be for everybody"},
        ),
    ] = msgspec.field(default=(), name="from")
    not_: Annotated[
        Match | None, Meta(description="A request for which all of it holds is none that the rule is for")
    ] = msgspec.field(default=None, name="not")

    when: Annotated[
        str,
        Meta(
            min_length=1,
            description="A condition in CEL, such as source.service == 'shop'",
            extra={"needs": "cel", "right": "a condition, or take it out"},
        ),
    ] = ""

    @property
    def sources(self) -> tuple[str, ...] | str:
        """Whom it is for."""
        found = self.deny if self.allow is None else self.allow
        return found if found is not None else ()


class Authz(Document, frozen=True, kw_only=True):
    """The document."""

    rules: (
        Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES, description="The first that matches decides")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    rego: Annotated[
        Rego | None, Meta(description="Modules in Rego that have to allow it, too", extra={"needs": "rego"})
    ] = None
    opa: Annotated[Opa | None, Meta(description="An Open Policy Agent that has to allow it, too")] = None
    default: Annotated[Literal["deny", "allow"], Meta(description="What becomes of requests that no rule matches")] = (
        "deny"
    )
    outbound: Annotated[bool, Meta(description="Whether callers' agents ask as well")] = False

    def check(self) -> None:
        """Rules that say something, of somebody, under a name of their own."""
        rules = self.ordered
        if self.rules is msgspec.UNSET and self.rego is None and self.opa is None:
            raise Flaw("$", "missing field 'rules'")
        if not rules and self.default == "allow":
            raise Flaw("$", "no rule and default: allow, which denies nothing; delete the key instead")
        self._check_outside()
        if sum(bool(rule.when) for rule in rules) > MAX_CONDITIONS:
            raise Flaw(
                "$.rules", f"more than {MAX_CONDITIONS} rules with `when`; match and not are looked up, it is not"
            )
        names: set[str] = set()
        for n, rule in enumerate(rules):
            path = below("$", "rules", n)
            _check_name(rule.name, names, below(path, "name"))
            _check_sources(rule, path)
            _check_conditions(rule, path)

    def _check_outside(self) -> None:
        if self.rego is not None:
            check_rego(self.rego, "$.rego")
        if self.opa is not None:
            check_opa(self.opa, "$.opa")
        if self.outbound and self.rules is msgspec.UNSET:
            raise Flaw("$.outbound", "callers' agents ask rules only, and there are none")

    @property
    def ordered(self) -> tuple[Rule, ...]:
        """Its rules, as far as there are any."""
        return () if isinstance(self.rules, msgspec.UnsetType) else self.rules

    @property
    def judges_all(self) -> bool:
        """Whether it has no rules, and leaves all to others."""
        return isinstance(self.rules, msgspec.UnsetType)


def name_of(rule: Rule, place: int) -> str:
    """Under which a rule is counted and explained."""
    return rule.name or f"rules[{place}]"


def _check_name(name: str, names: set[str], path: str) -> None:
    if name == DEFAULT:
        raise Flaw(path, f"{name!r} is what decides where no rule does; another name")
    if name and name in names:
        raise Flaw(path, f"{name!r} stands twice; a name says which rule decided")
    names.add(name)


def _check_sources(rule: Rule, path: str) -> None:
    if rule.allow is None and rule.deny is None:
        reason = 'neither allow nor deny; one of them says whom the rule is for, such as "allow": ["shop.production"]'
        raise Flaw(path, reason)
    if rule.allow is not None and rule.deny is not None:
        raise Flaw(path, "both allow and deny; make it two rules, in the order in which they are to be read")
    where = below(path, "deny" if rule.allow is None else "allow")
    sources = rule.sources
    if isinstance(sources, str):
        return
    if not sources:
        raise Flaw(where, "an empty list, in which nobody is; take the rule out")
    for n, text in enumerate(sources):
        if text == "*" and rule.deny is not None:
            reason = "'*' is every service, and leaves out who is none; write \"anybody\""
            raise Flaw(below(where, n), reason)
        read_at(below(where, n), check_source, text)


def _check_conditions(rule: Rule, path: str) -> None:
    where = below(path, "match")
    if rule.match == EVERY and rule.match is not EVERY:
        raise Flaw(where, "no condition, so it holds for every request; take it out if that is meant")
    check_ungrouped(rule.match, where)
    if rule.match.caller:
        raise Flaw(below(where, "caller"), "who calls stands in allow or deny; here it would be said twice")
    if rule.not_ is not None:
        where = below(path, "not")
        check_ungrouped(rule.not_, where)
        if rule.not_ == EVERY:
            raise Flaw(where, "no condition, so it holds for every request, and the rule for none")
    for n, text in enumerate(rule.from_):
        read_at(below(path, "from", n), check_range, text)
    if rule.when:
        check_condition(rule.when, below(path, "when"))
