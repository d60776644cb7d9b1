# mypyc: interpreted, because a command asks it, and no request
"""The least that lets pass what was seen: a document that somebody reviews before it is put. Pure.

Laws
- It is proposed in audit mode. What was seen is not what is right, and what is rare was not seen.
- Numbers, UUIDs and long hexadecimal names in a path are taken for what stands for one thing of many.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from policies.kinds.authz.document import MAX_RULES
from policies.language.normal_path import normal

MOST_PATHS: Final = 30
"""Of one caller and method with the same first segment; with more of them, that is allowed with all below it."""
MOST_RULES: Final = MAX_RULES // 2
"""Each may become two: for callers with a name, and for those without."""
_ID: Final = re.compile(r"\d+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|(?=.*\d)[0-9a-fA-F]{12,}|(?=.*\d)[0-9A-Za-z_-]{20,}")
_PLAIN: Final = re.compile(r"(?:[!$&'()*+,./:;=@_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})*\Z")


class Asked(NamedTuple):
    """What a caller asked for, and was given."""

    caller: str
    """Empty: one that is not known."""
    method: str
    target: str


def from_calls(service: str, callers: Sequence[str]) -> str:
    """By who was seen to call alone."""
    rules: list[tuple[dict[str, Any], str]] = []
    known = sorted(caller for caller in callers if caller)
    if known:
        rules.append(({"allow": known}, "which methods and paths, agents do not count: --records FILE reads them"))
    if len(known) < len(callers):
        rules.append(({"allow": "anonymous"}, "callers without credentials were seen: can they be told apart?"))
    return _written(service, rules, "the calls that agents have seen since they started")


def from_records(service: str, asked: Mapping[Asked, int]) -> str:
    """By requests, and how many there were of each."""
    paths: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for each, number in asked.items():
        if each.target.startswith("/"):
            paths.setdefault((each.caller, each.method), Counter())[_condition(each.target)] += number
    rules: dict[tuple[str, tuple[str, str]], tuple[set[str], int]] = {}
    for (caller, method), found in sorted(paths.items()):
        for condition, number in _shortened(found).items():
            methods, before = rules.get((caller, condition), (set(), 0))
            rules[caller, condition] = (methods | {method}, before + number)
    merged: dict[tuple[tuple[str, ...], tuple[str, str]], dict[str, int]] = {}
    for (caller, condition), (methods, number) in sorted(rules.items()):
        merged.setdefault((tuple(sorted(methods)), condition), {})[caller] = number
    left_out = len(merged) - MOST_RULES
    more = f", without the {left_out} rarest kinds of them" if left_out > 0 else ""
    return _written(service, list(_rules(merged)), f"{requests(sum(asked.values()))}{more}")


def _rules(
    merged: Mapping[tuple[tuple[str, ...], tuple[str, str]], Mapping[str, int]],
) -> Iterable[tuple[dict[str, Any], str]]:
    ordered = sorted(merged.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    for (methods, (how, path)), numbers in ordered[:MOST_RULES]:
        match = {"method": list(methods), "path": {how: path}}
        known = [caller for caller in numbers if caller]
        if known:
            yield {"allow": known, "match": match}, requests(sum(numbers[caller] for caller in known))
        if "" in numbers:
            said = f"{requests(numbers[''])} without credentials: can these callers be told apart?"
            yield {"allow": "anonymous", "match": match}, said


def _condition(target: str) -> tuple[str, str]:
    """How a path is matched that was asked for once."""
    place = normal(target.encode("latin-1", "replace")).place.decode("latin-1")
    if not _PLAIN.match(place):
        return "prefix", "/"
    segments = place.split("/")
    number = 0
    for n, segment in enumerate(segments):
        if _ID.fullmatch(segment):
            number += 1
            segments[n] = "{id}" if number == 1 else f"{{id{number}}}"
    return ("template" if number else "exact"), "/".join(segments)


def _shortened(found: Mapping[tuple[str, str], int]) -> Counter[tuple[str, str]]:
    """Many paths with the same first segment as one prefix."""
    first = Counter(_prefix(path) for _, path in found)
    kept: Counter[tuple[str, str]] = Counter()
    for condition, number in found.items():
        prefix = _prefix(condition[1])
        kept[condition if first[prefix] <= MOST_PATHS else ("prefix", prefix)] += number
    return kept


def _prefix(path: str) -> str:
    segment = path.split("/")[1]
    return "/" if segment.startswith("{") or path.count("/") < 2 else f"/{segment}"


def requests(number: int) -> str:
    """So many, in words."""
    return f"{number} request{'' if number == 1 else 's'}"


def _written(service: str, rules: list[tuple[dict[str, Any], str]], seen: str) -> str:
    """As YAML that can be put."""
    lines = [
        f"# Proposed by {seen}: what was seen is not yet what is right. Review it, and watch it first;",
        "# `verdicts` in the access logs of its instances' hosts say whom it would deny, shoal_audit_total how many.",
        "# Without `mode` it is enforced.",
        "kind: authz",
        f"service: {service}",
        "mode: audit",
        "rules:" if rules else "rules: []  # nobody was seen to call it",
    ]
    lines += [f"- {json.dumps(rule)}  # {said}" for rule, said in rules]
    return "\n".join(lines) + "\n"
