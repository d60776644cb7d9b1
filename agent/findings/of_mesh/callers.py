"""Callers that documents name: those of whom nobody has heard, and keys of callers that end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from agent.findings.finding import Finding
from agent.findings.of_mesh.facts import Facts
from policies.catalogue import parse
from policies.kinds.authn.document import Authn
from policies.kinds.authz.document import Authz
from policies.kinds.isolation.document import Isolation
from policies.language.document import Document, Invalid, meant
from policies.language.duration import moment
from policies.language.matching import Match
from policies.language.names import parse_service
from policies.language.plain import below

UNKNOWN: Final = "no-such-caller"
MOST: Final = 10
"""Of one document. What may be meant by each is looked for among all services."""
SOON_S: Final = 14 * 24 * 3600.0
"""For how long it is told that an API key ends."""


def of_callers(facts: Facts) -> Iterator[Finding]:
    """A warning where another name may be meant. Else it may be one that calls now and then, or is to come."""
    known = _known(facts)
    for room, policies in (("", facts.census.policies), ("audits/", facts.census.audits)):
        for (kind, pattern), policy in sorted(policies.items()):
            document = parse(kind, pattern, policy.text)
            if isinstance(document, Invalid):
                continue
            unheard: dict[str, str] = {}
            for path, text in _named(document):
                caller = _service(text)
                if caller and caller not in known:
                    unheard.setdefault(caller, path)
            for name, path in islice(unheard.items(), MOST):
                hint = meant(name, known)
                what = f"nothing that is called {name} was heard of{hint}: it is for nobody"
                say = "name another: `shoal services`" if hint else "leave it, if it is to come"
                yield Finding(UNKNOWN, "warning" if hint else "info", f"{room}{kind}/{pattern} {path}", what, say)
            if len(unheard) > MOST:
                what = f"nor was anything heard of {len(unheard) - MOST} more that it names"
                yield Finding(UNKNOWN, "info", f"{room}{kind}/{pattern}", what, "leave them, if they are to come")


def _service(text: str) -> str:
    """That a text names; empty: it is a pattern, or a SPIFFE id."""
    try:
        return parse_service(text)
    except ValueError:
        return ""


def _known(facts: Facts) -> set[str]:
    """Services that run, that hosts can prove to be, or that were seen to call."""
    census = facts.census
    known = {service for service, _ in (*census.instances, *facts.suspects)}
    for holds in census.holds.values():
        known |= holds.services.keys()
    return known | census.calls.keys()


def _named(document: Document) -> Iterator[tuple[str, str]]:
    yield from _matched(document, "$")
    if isinstance(document, Isolation):
        for n, name in enumerate(document.allow):
            yield below("$", "allow", n), name
    elif isinstance(document, Authz):
        for n, rule in enumerate(document.ordered):
            if not isinstance(rule.sources, str):
                for m, name in enumerate(rule.sources):
                    yield below("$", "rules", n, "deny" if rule.allow is None else "allow", m), name


def _matched(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """`caller` of every `match`."""
    if isinstance(value, Match):
        for n, caller in enumerate(value.caller):
            yield below(path, "caller", n), caller
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(type(value)):
            yield from _matched(getattr(value, field.name), below(path, field.encode_name))
    elif isinstance(value, tuple | list):
        for n, each in enumerate(value):
            yield from _matched(each, below(path, n))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _matched(each, below(path, name))


def of_api_keys(facts: Facts) -> Iterator[Finding]:
    """Those that end soon, while there is time to give their holders others; and those that are left over."""
    for (kind, pattern), policy in sorted(facts.census.policies.items()):
        document = parse(kind, pattern, policy.text) if kind == "authn" and facts.now else None
        if not isinstance(document, Authn) or document.api_keys is None:
            continue
        for n, key in enumerate(document.api_keys.keys):
            left_s = moment(key.not_after) - facts.now if key.not_after else SOON_S
            where = f"{kind}/{pattern} {below('$.api_keys', 'keys', n)}"
            if left_s <= 0:
                what = f"the API key {key.id} has ended, at {key.not_after}"
                yield Finding("api-key", "info", where, what, "take it out")
            elif left_s < SOON_S:
                what = f"the API key {key.id} ends at {key.not_after}: whoever shows it gets 401 then"
                say = "give its holder another (`shoal apikey new`), or move $.not_after"
                yield Finding("api-key", "warning", where, what, say)
