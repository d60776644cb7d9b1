# mypyc: interpreted, because commands ask it, and no request
"""Who may call whom, by the rules alone: what can be said of a caller without knowing what he will ask for. Pure.

Laws
- `SOME` is the most that it may be: of several conditions nobody says whether any request meets them all.
- A pattern is one caller: what a rule says of a part of it only is said of some requests.
- ANYBODY is whom no other row is about: what is allowed to a part only is that part's, and what is denied to one is a
  denial of some.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from policies.kinds.authz.document import DEFAULT, Authz, Rule, name_of
from policies.language.matching import Match
from policies.language.names import matches, parse_pattern

NONE: Final = "none"
SOME: Final = "some"
ALL: Final = "all"
ANYBODY: Final = "anybody"
ANONYMOUS: Final = "anonymous"
_WORDS: Final = (ANYBODY, ANONYMOUS)
_ORDER: Final = (NONE, SOME, ALL)


class May(NamedTuple):
    """Which of a caller's requests pass, as far as rules say."""

    what: str
    """NONE, SOME or ALL."""
    by: tuple[str, ...]
    """Rules that allow some, or what denies all: `authz/lamps.production: the shop reads`."""


def may(levels: Sequence[tuple[str, Authz]], caller: str) -> May:
    """Of a caller: a service, a pattern, a SPIFFE id, ANONYMOUS, or ANYBODY. Each level has to allow."""
    found = [_of_level(pattern, document, caller) for pattern, document in levels]
    least = min(found, key=lambda each: _ORDER.index(each.what))
    if least.what == NONE:
        return least
    return May(least.what, tuple(rule for each in found for rule in each.by))


def in_own_names(document: Authz, domain: str) -> Authz:
    """With services of one's own trust domain as services, where rules name them by id; `domain`: empty: not known."""
    own = f"spiffe://{domain}/svc/"
    if not domain or not any(each.startswith(own) for rule in document.ordered for each in _sources(rule)):
        return document
    return msgspec.structs.replace(document, rules=tuple(_renamed(rule, own) for rule in document.ordered))


def _renamed(rule: Rule, own: str) -> Rule:
    if isinstance(rule.sources, str):
        return rule
    sources = tuple(each.removeprefix(own) for each in rule.sources)
    if rule.allow is None:
        return msgspec.structs.replace(rule, deny=sources)
    return msgspec.structs.replace(rule, allow=sources)


def named(levels: Iterable[tuple[str, Authz]]) -> list[str]:
    """The callers that documents speak of, in their order."""
    found: dict[str, None] = {}
    for _, document in levels:
        for rule in document.ordered:
            found |= dict.fromkeys(_canonical(source) for source in _sources(rule))
    return list(found)


def _sources(rule: Rule) -> tuple[str, ...]:
    if isinstance(rule.sources, str):
        return _WORDS if rule.sources == ANYBODY else (ANONYMOUS,)
    return rule.sources


def _canonical(source: str) -> str:
    return source if source in _WORDS or source.startswith("spiffe://") else parse_pattern(source)


def _of_level(pattern: str, document: Authz, caller: str) -> May:
    """Of what rules let pass, nobody knows how much Rego and an OPA allow."""
    found = _by_rules(pattern, document, caller)
    asked = [f"authz/{pattern}: {who}" for who in ("rego", "opa") if getattr(document, who) is not None]
    if not asked or found.what == NONE:
        return found
    return May(SOME, (*(() if document.judges_all else found.by), *asked))


def _by_rules(pattern: str, document: Authz, caller: str) -> May:
    allowing: list[str] = []
    denies = False
    for n, rule in enumerate(document.ordered):
        covers = _covers(rule, caller)
        if covers == NONE:
            continue
        text = f"authz/{pattern}: {name_of(rule, n)}"
        if covers == ALL:
            return _decided(rule.allow is not None, text, allowing, denies)
        if rule.allow is not None:
            allowing.append(text)
        else:
            denies = True
    return _decided(document.default == "allow" or document.judges_all, f"authz/{pattern}: {DEFAULT}", allowing, denies)


def _decided(allows: bool, text: str, allowing: list[str], denies: bool) -> May:
    """By what decides all that is left."""
    if allows:
        return May(SOME if denies else ALL, (*allowing, text))
    return May(SOME, tuple(allowing)) if allowing else May(NONE, (text,))


def _covers(rule: Rule, caller: str) -> str:
    """How many of a caller's requests a rule is for."""
    whom = _whom(rule, caller)
    if rule.when or rule.from_:
        return min(whom, SOME, key=_ORDER.index)
    if whom == NONE or rule.not_ is None:
        return min(whom, ALL if rule.match == Match() else SOME, key=_ORDER.index)
    callers = rule.not_.caller
    if rule.not_ == Match(caller=callers) and caller not in _WORDS and "*" not in caller:
        excepted = any(matches(parse_pattern(each), caller) for each in callers)
        return NONE if excepted else min(whom, ALL if rule.match == Match() else SOME, key=_ORDER.index)
    return SOME


def _whom(rule: Rule, caller: str) -> str:
    sources = rule.sources
    if sources == ANYBODY:
        return ALL
    if caller == ANYBODY:
        return NONE if rule.allow is not None else SOME
    if isinstance(sources, str):
        # Somebody of another domain is no service of this mesh.
        return ALL if caller == ANONYMOUS or caller.startswith("spiffe://") else NONE
    found = NONE
    for each in map(_canonical, sources):
        if each == caller or (caller not in _WORDS and _wider(each, caller)):
            return ALL
        if _within(each, caller):
            found = SOME
    return found


def _wider(pattern: str, caller: str) -> bool:
    """Whether all of a caller is in a pattern."""
    if caller.startswith("spiffe://"):
        return _within(caller, pattern)
    return ("*" not in caller and matches(pattern, caller)) or _within(caller, pattern)


def _within(one: str, other: str) -> bool:
    """Whether a pattern, or a name, is a part of another pattern."""
    if one.startswith("spiffe://") or other.startswith("spiffe://"):
        return other.endswith("/*") and one.startswith(other[:-1]) and other.startswith("spiffe://")
    return other == "*" or (other.startswith("*.") and one.endswith(other[1:]))
