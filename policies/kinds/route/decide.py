# mypyc: compiled
"""`route`: which instances a request goes to, or which answer the mesh gives by itself.

Rules are asked in order and the first that matches decides; when none does, the request goes to the service itself.
In a blue-green release "the service itself" is its active version, or for those who are shown it the standby one.
Decisions that do not depend on the request are made when the document is compiled, and shared.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias
from urllib.parse import quote

import msgspec

from policies.decision import Decision, Edits, Forward, Limits, Redirect, Share, Subset, respond
from policies.hashing import draw
from policies.kind import Scope
from policies.kinds.retry.decide import compile_rule
from policies.kinds.route.document import Route
from policies.kinds.route.others import Others
from policies.kinds.route.rules import (
    Group,
    HeaderEdit,
    Headers,
    Preview,
    Rule,
    Target,
    TimeoutRule,
)
from policies.kinds.route.split import Split
from policies.kinds.route.stickiness import issuer
from policies.language.duration import seconds
from policies.language.matching import Predicate, Text, compile_match, compile_text, path_pattern
from policies.language.names import parse_service
from policies.language.normal_path import normal
from policies.language.user import reader, user_of
from policies.request import RequestView

Chooser: TypeAlias = Callable[[RequestView, random.Random], Decision]


class Compiled:
    """A route, ready to be asked."""

    __slots__ = ("_default", "_rules")

    def __init__(self, document: Route, service: str, matches: Sequence[Predicate | None]) -> None:
        release = _Release(document)
        self._rules = [
            (match, _chooser(rule, rule.name or f"rules[{n}]", service, release))
            for n, (rule, match) in enumerate(zip(document.rules, matches, strict=True))
        ]
        self._default = release.chooser("default", Forward(), "no rule matched")

    def decide(self, request: RequestView, rng: random.Random) -> Decision:
        """The first rule that matches decides."""
        for matches, choose in self._rules:
            if matches is None or matches(request):
                return choose(request, rng)
        return self._default(request, rng)


def is_drawn(document: Route) -> bool:
    """Whether its predicates are a service's own: they draw shares of its users."""
    return any(group.percent is not None for group in document.groups.values())


def predicates(document: Route, service: str = "") -> list[Predicate | None]:
    """What its rules ask of requests: the same for every service that has the document, unless `is_drawn`."""
    groups = {name: _member(name, group, service) for name, group in document.groups.items()}
    return [compile_match(rule.match, groups) for rule in document.rules]


def compile(document: Route, scope: Scope, matches: Sequence[Predicate | None] | None = None) -> Compiled:
    """A checked document, ready for requests to a service; `matches`: its predicates, when they are made already."""
    return Compiled(document, scope.service, predicates(document, scope.service) if matches is None else matches)


def decide(compiled: Compiled, request: RequestView, rng: random.Random) -> Decision:
    """Where a request goes."""
    return compiled.decide(request, rng)


class _Release:
    """What "the service itself" means: in a blue-green release one of two versions, else any instance."""

    __slots__ = ("_shown", "_standby", "active")

    def __init__(self, document: Route) -> None:
        self.active = document.active
        self._standby = document.standby
        self._shown = _shown(document.preview) if document.preview is not None else None

    def subset(self) -> Subset | None:
        return Subset(self.active) if self.active else None

    def chooser(self, rule: str, forward: Forward, reason: str) -> Chooser:
        """To the service itself, with a rule's edits in `forward`."""
        if not self.active:
            return _always(Decision(rule, reason, forward))
        active = _to(forward, Subset(self.active))
        decision = Decision(rule, f"{reason}; version {self.active} is active", active)
        shown = self._shown
        if shown is None:
            return _always(decision)
        preview = Decision(
            rule, f"{reason}; version {self._standby} is on standby, and shown", _to(forward, Subset(self._standby))
        )
        return lambda request, rng: preview if shown(request) else decision


def _always(decision: Decision) -> Chooser:
    return lambda request, rng: decision


def _to(forward: Forward, subset: Subset | None) -> Forward:
    return msgspec.structs.replace(forward, subset=subset)


# A rule, compiled.


def limits_of(timeout: TimeoutRule) -> Limits:
    """In seconds."""
    request_s = seconds(timeout.request) if timeout.request is not None else 0.0
    return Limits(request_s, seconds(timeout.try_) if timeout.try_ is not None else 0.0)


def _chooser(rule: Rule, name: str, service: str, release: _Release) -> Chooser:
    if rule.respond is not None:
        return _always(Decision(name, "answers by itself", respond(rule.respond)))
    if rule.redirect is not None:
        status, locate = rule.redirect.status, _located(rule.redirect.location)
        return lambda request, rng: Decision(name, "redirects", Redirect(status, locate(request)))
    headers = rule.headers or Headers()
    host = rule.rewrite.host if rule.rewrite is not None else ""
    forward = Forward(
        host=host or None,
        request_headers=_edits(headers.request),
        response_headers=_edits(headers.response),
        retry=compile_rule(rule.retry) if rule.retry is not None else None,
        limits=limits_of(rule.timeout) if rule.timeout is not None else None,
    )
    chosen = _split(rule, name, service, release, forward) if rule.split else release.chooser(name, forward, "matched")
    rewritten = _rewriter(rule)
    return chosen if rewritten is None else _rewriting(chosen, rewritten)


def _split(rule: Rule, name: str, service: str, release: _Release, forward: Forward) -> Chooser:
    total = math.fsum(target.weight for target in rule.split)
    weights: dict[str, float] = {}
    decisions: dict[str, Decision] = {}
    shares: dict[str, Share] = {}
    for target in rule.split:
        other = _other(target, service)
        identity = json.dumps([other, target.version, sorted(target.labels.items())])
        weights[identity] = weights.get(identity, 0.0) + target.weight
        shares[identity] = Share(_described(target, other), 100 * weights[identity] / total)
        share = f"{shares[identity].percent:.4g}% to {shares[identity].to}"
        action = msgspec.structs.replace(forward, service=other or None, subset=_subset(target, other, release))
        decisions[identity] = Decision(name, share, action)
    whole = tuple(shares.values()) if len(shares) > 1 else ()
    targets = [
        (f"route/{service}/{identity}", weights[identity], Decision(each.rule, each.reason, each.action, whole))
        for identity, each in decisions.items()
    ]
    if rule.empty == "others" and len(targets) > 1:
        others = Others(targets, user_of(rule.sticky) if rule.sticky is not None else None)
        targets = [(name, weight, _with(others, each)) for name, weight, each in targets]
    split = Split(targets)
    if split.only is not None:
        return _always(split.only)
    if rule.sticky is None:
        return lambda request, rng: split.at_random(rng)
    user, issued = user_of(rule.sticky), issuer(rule.sticky)

    def stuck(request: RequestView, rng: random.Random) -> Decision:
        key = user(request)
        if key:
            return split.sticky(key)
        return split.at_random(rng) if issued is None else issued.begin(split, rng)

    return stuck


def _with(others: Others, decision: Decision) -> Decision:
    action = decision.action
    assert isinstance(action, Forward)
    return Decision(decision.rule, decision.reason, msgspec.structs.replace(action, others=others), decision.shares)


def _other(target: Target, service: str) -> str:
    """The other service that a target names; empty for the route's own."""
    named = parse_service(target.service) if target.service else service
    return "" if named == service else named


def _subset(target: Target, other: str, release: _Release) -> Subset | None:
    if target.version or target.labels:
        return Subset(target.version or None, tuple(sorted(target.labels.items())))
    return None if other else release.subset()


def _described(target: Target, other: str) -> str:
    parts = [other] if other else []
    if target.version:
        parts.append(f"version {target.version}")
    parts += [f"{key}={value}" for key, value in sorted(target.labels.items())]
    return " ".join(parts) or "the service"


def _edits(edit: HeaderEdit | None) -> Edits | None:
    if edit is None:
        return None
    removed = frozenset(name.lower() for name in edit.remove)
    return Edits(tuple(edit.set.items()), tuple(edit.add.items()), removed)


# Paths that a rule writes.

Written: TypeAlias = Callable[[RequestView], str]
_PLACES: Final = re.compile(r"\{([^}]*)\}")


def _rewriting(chosen: Chooser, rewritten: Written) -> Chooser:
    def choose(request: RequestView, rng: random.Random) -> Decision:
        decision = chosen(request, rng)
        forward = decision.action
        assert isinstance(forward, Forward)
        path = rewritten(request)
        target = f"{path}?{request.query}" if request.query else path
        action = msgspec.structs.replace(forward, target=target)
        return Decision(decision.rule, decision.reason, action, decision.shares)

    return choose


def _rewriter(rule: Rule) -> Written | None:
    path = rule.rewrite.path if rule.rewrite is not None else ""
    match = rule.match.path
    if not path:
        return None
    if match is not None and match.prefix is not None:
        return _in_place_of(match.prefix.rstrip("/"), path.rstrip("/"))
    pattern = path_pattern(match) if match is not None else None
    parts = _PLACES.split(path)
    if pattern is None or len(parts) == 1:
        return lambda request: path
    places = [int(part) if part.isdigit() else part for part in parts[1::2]]

    def substituted(request: RequestView) -> str:
        found = pattern.fullmatch(request.path)
        values = [found.group(place) or "" for place in places]
        return "".join(text + value for text, value in zip(parts[::2], [*values, ""], strict=True))

    return substituted


def _in_place_of(prefix: str, start: str) -> Written:
    depth = prefix.count("/")
    normal_depth = normal(prefix.encode() or b"/").target.rstrip(b"/").count(b"/")

    def moved(request: RequestView) -> str:
        written_so = depth == normal_depth or request.path.startswith(prefix)
        return start + _below(request.whole_path, depth if written_so else normal_depth) or "/"

    return moved


def _below(path: str, depth: int) -> str:
    """What is behind so many segments of a path: with its parameters, where a prefix was found in a path without."""
    parts = path.split("/", depth + 1)
    return f"/{parts[-1]}" if len(parts) == depth + 2 else ""


def _located(location: str) -> Written:
    """`//elsewhere.example` as a path would lead the client to another host: leading slashes count as one."""

    def located(request: RequestView) -> str:
        values = {"path": "/" + request.whole_path.lstrip("/"), "query": request.query}
        filled = _PLACES.sub(lambda place: values[place[1]], location)
        return quote(filled, safe="!#$%&'()*+,/:;=?@[]~-._")

    return located


def _shown(preview: Preview) -> Predicate:
    return _where(reader(preview.header, preview.cookie, preview.claim), preview.where)


def _member(name: str, group: Group, service: str) -> Predicate:
    read = reader(group.header, group.cookie, group.claim)
    if group.percent is None:
        return _where(read, group.where)
    share, salt = group.percent / 100, f"route/{service}/groups/{name}"

    def drawn(request: RequestView) -> bool:
        value = read(request)
        return bool(value) and draw(value or "", salt) < share

    return drawn


def _where(read: Callable[[RequestView], str | None], where: str | Text | None) -> Predicate:
    test = compile_text(Text(exact=where) if isinstance(where, str) else where or Text(present=True))
    return lambda request: test(read(request))
