# mypyc: compiled
"""`authz`: what the first rule says that matches a request.

Laws
- A request passes only as what every service could take it for: its path in each reading, with the method that it
  asks to be taken for, and each of several values of a parameter or cookie that rules look at. What one of them is
  denied is denied.
- Rules are indexed by caller, method and path, a bit for each in whole numbers. A thousand cost hardly more than one;
  what is no look-up (headers, patterns, `not`) is asked of those only that are left, in their order.
"""

from __future__ import annotations

from typing import Final

import msgspec

from policies.decision import Denied
from policies.kind import ANYWHERE, Scope
from policies.kinds.authz.condition import Condition, parameters_in
from policies.kinds.authz.document import DEFAULT, Authz, Rule, name_of
from policies.kinds.authz.judge import Judge, Ruling
from policies.kinds.authz.origin import Origin
from policies.kinds.authz.paths import Paths, readings
from policies.kinds.authz.reading import Reading
from policies.kinds.authz.several import NOTHING, Asks, Variant, variants
from policies.kinds.authz.source import Sources
from policies.language.matching import Predicate, compile_match
from policies.language.normal_path import is_plain
from policies.request import RequestView

MOST_METHODS: Final = 4
"""That one request may ask to be taken for."""
MOST_READINGS: Final = 64
MOST_READ: Final = 4096
"""Bytes of a path that is read in several ways: each costs a worker about a microsecond a byte."""
TOO_MUCH: Final = (
    "services may take it for more than is judged: other methods, values of one name, "
    f"or an odd path, or a query or cookies with such, over {MOST_READ} bytes"
)
SAID: Final = "not allowed"
"""All that a caller is told."""


def compile(document: Authz, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    return Compiled(document, scope.key)


class Compiled:
    """Of one level."""

    __slots__ = (
        "_any_method",
        "_asks_ids",
        "_default",
        "_methods",
        "_paths",
        "_refuses",
        "_rest",
        "_rulings",
        "_sources",
        "asks",
        "errors",
        "judges",
        "key",
        "outbound",
    )

    def __init__(self, document: Authz, key: str) -> None:
        self.outbound = document.outbound
        """Whether callers' agents ask as well."""
        self.key = key
        self.judges: tuple[Judge, ...] = _judges(document, key)
        """Who has to allow what the rules let pass, in the order in which they are asked."""
        self._default = Ruling(key, DEFAULT, allows=document.default == "allow" or document.judges_all)
        self._refuses = Ruling(key, DEFAULT, allows=False, whose=TOO_MUCH)
        self._rulings: list[Ruling] = []
        self._rest: list[Predicate | None] = []
        self.errors: dict[str, str] = {}
        """Of the request that was judged last: the rules whose condition could not be, and why."""
        self._sources = Sources()
        self._paths = Paths()
        self._any_method = 0
        self._methods: dict[str, int] = {}
        for n, rule in enumerate(document.ordered):
            self._rulings.append(Ruling(key, name_of(rule, n), allows=rule.allow is not None))
            self._rest.append(_rest_of(rule, name_of(rule, n), self.errors))
            self._add(1 << n, rule)
        self._asks_ids = self._sources.asks_ids
        self.asks = _asks(document)

    def _add(self, bit: int, rule: Rule) -> None:
        self._sources.add(bit, rule.sources)
        self._paths.add(bit, rule.match.path)
        if not rule.match.method:
            self._any_method |= bit
        for method in rule.match.method:
            self._methods[method] = self._methods.get(method, 0) | bit

    def judge(self, request: RequestView) -> Ruling:
        """The rule that decides; of several readings of one request a rule that denies one of them."""
        if self.errors:
            self.errors.clear()
        found = self._first(request)
        if not found.allows:
            return found
        others = taken_for(request, self.asks)
        if others is None:
            return found
        if not others:
            return self._refuses
        for other in others:
            ruling = self._first(other)
            if not ruling.allows:
                return ruling
        return found

    def unjudged(self) -> str:
        """The conditions that could not be judged of the request that was last, in words; empty: none."""
        return "; ".join([f"{rule}: its condition cannot be judged: {why}" for rule, why in self.errors.items()])

    def taken(self, request: RequestView) -> str:
        """Of a request that is denied: as what, where it would pass as it stands; in words for who operates."""
        if not self._first(request).allows:
            return ""
        for other in taken_for(request, self.asks) or ():
            if not self._first(other).allows:
                return other.said(request)
        return ""

    def _first(self, request: RequestView) -> Ruling:
        left = self._sources.rules_for(request.caller, request.principal if self._asks_ids else "")
        left &= self._methods.get(request.method, 0) | self._any_method
        if left:
            left &= self._paths.rules_for(request.path)
        while left:
            bit = left & -left
            n = bit.bit_length() - 1
            rest = self._rest[n]
            if rest is None or rest(request):
                return self._rulings[n]
            left ^= bit
        return self._default

    def decide(self, request: RequestView) -> Denied | None:
        """As a guard."""
        ruling = self.judge(request)
        return None if ruling.allows else Denied(403, ruling.reason, ruling.rule)


def taken_for(request: RequestView, asks: Asks = NOTHING) -> list[Reading] | None:
    """All that some service could take a request for; None: for nothing but what it is; empty: for too much. `asks`:
    what whoever judges looks at."""
    whole = request.whole_path
    if len(whole) > MOST_READ and not is_plain(whole.encode("latin-1")):
        return []
    overriding, paths = request.overriding, readings(request.path, whole)
    found: list[Reading] = []
    several = variants(request, asks) if asks.any else _ONE_WAY
    if several is None:
        return found
    if not overriding and not paths and not several:
        return None
    ways: list[Variant | None] = [*several] if several else [None]
    if len(overriding) > MOST_METHODS or (1 + len(overriding)) * (1 + len(paths)) * len(ways) > MOST_READINGS:
        return found
    for way in ways:
        for path in [request.path, *paths]:
            for method in [request.method, *overriding]:
                found.append(Reading(request, path, method, way))
    return found


_ONE_WAY: Final[list[Variant]] = []


def _asks(document: Authz) -> Asks:
    """Parameters and cookies that rules look at."""
    parameters: set[str] = set()
    cookies: set[str] = set()
    for rule in document.ordered:
        for match in (rule.match, rule.not_):
            if match is not None:
                parameters.update(match.query)
                cookies.update(match.cookies)
        if rule.when:
            parameters.update(parameters_in(rule.when))
    return Asks(parameters, cookies) if parameters or cookies else NOTHING


def _judges(document: Authz, key: str) -> tuple[Judge, ...]:
    found: list[Judge] = []
    if document.rego is not None:
        found.append(Judge(key, document.rego))
    if document.opa is not None:
        found.append(Judge(key, None, document.opa))
    return tuple(found)


def _rest_of(rule: Rule, name: str, errors: dict[str, str]) -> Predicate | None:
    """What no look-up answers."""
    path = rule.match.path
    looked_up = path is not None and (path.exact is not None or path.prefix is not None)
    rest = compile_match(msgspec.structs.replace(rule.match, method=(), path=None if looked_up else path), {})
    unless = compile_match(rule.not_, {}) if rule.not_ is not None else None
    denies = rule.deny is not None
    when = Condition(rule.when, fails=denies, rule=name, errors=errors) if rule.when else None
    origin = Origin(rule.from_, fails=denies) if rule.from_ else None
    if unless is None and when is None and origin is None:
        return rest
    return _together(origin, rest, unless, when)


def _together(
    origin: Predicate | None, rest: Predicate | None, unless: Predicate | None, when: Predicate | None
) -> Predicate:
    """What costs most is asked last."""

    def holds(request: RequestView) -> bool:
        if origin is not None and not origin(request):
            return False
        if rest is not None and not rest(request):
            return False
        return (unless is None or not unless(request)) and (when is None or when(request))

    return holds
