"""`route`: which instances a request goes to, or which answer the mesh gives by itself.

Rules are asked in order and the first that matches decides; when none does, the request goes to the service itself
(to its `active` version in a blue-green release). Decisions that do not depend on the request are made when the
document is compiled, and shared.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Meta

from policies.document import Document, Fault
from policies.endpoint import Endpoint
from policies.matching import Match, PathMatch, Predicate, Text, check_match, check_text, compile_match, path_pattern
from policies.matching import compile_text as _compile_text
from policies.names import parse_service
from policies.request import RequestView, cookie
from policies.split import Split, draw

Weight = Annotated[float, Meta(ge=0, le=1_000_000)]
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_PROTECTED: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "via"}
)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?\Z")

# The document.


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a share of the traffic goes: instances of a version, with labels, or of another service."""

    service: Annotated[str, Meta(description="Another service; default this one")] = ""
    version: Annotated[str, Meta(max_length=128)] = ""
    labels: Annotated[dict[str, str], Meta(description="Metadata that an instance has to carry")] = msgspec.field(
        default_factory=dict
    )
    weight: Annotated[Weight, Meta(description="Share, relative to the others")] = 1


class Sticky(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What tells users apart; exactly one. Requests without it are divided at random."""

    header: str = ""
    cookie: str = ""
    claim: Annotated[str, Meta(description="Of a verified token; see the page on routes")] = ""


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named group of users: by a value, or a share of them that only grows with `percent`."""

    header: str = ""
    cookie: str = ""
    claim: str = ""
    where: Annotated[str | Text | None, Meta(description="What the value has to be")] = None
    percent: Annotated[float, Meta(ge=0, le=100, description="Share of the values that are in")] | None = None


class HeaderEdit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Edits of a head: removed, then set (replacing), then added."""

    set: dict[str, str] = msgspec.field(default_factory=dict)
    add: dict[str, str] = msgspec.field(default_factory=dict)
    remove: tuple[str, ...] = ()


class Headers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Edits of the request on its way, and of the answer."""

    request: HeaderEdit | None = None
    response: HeaderEdit | None = None


class Rewrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the instance sees in place of what was asked."""

    path: Annotated[
        str,
        Meta(pattern="^(/|$)", description="With match.path.prefix: replaces the prefix. With template or regex: "
             "{place} or {1} stand for what was matched. Else: the whole path"),
    ] = ""  # fmt: skip
    host: str = ""


class RedirectTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Send the client elsewhere."""

    location: Annotated[
        str, Meta(min_length=1, max_length=4096, description="{path} and {query} stand for the request's")
    ]
    status: Annotated[int, Meta(description="301, 302, 303, 307 or 308")] = 302


class DirectResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Answer without asking an instance."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: Annotated[str, Meta(max_length=65536)] = ""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to do with the requests that match."""

    name: Annotated[str, Meta(max_length=128)] = ""
    match: Match = Match()
    split: tuple[Target, ...] = ()
    sticky: Sticky | None = None
    rewrite: Rewrite | None = None
    headers: Headers | None = None
    redirect: RedirectTo | None = None
    respond: DirectResponse | None = None


class Preview(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who sees the standby version before it is switched to."""

    header: str = ""
    cookie: str = ""
    where: str | Text | None = None


class Route(Document, frozen=True, kw_only=True):
    """The document."""

    rules: tuple[Rule, ...] = ()
    groups: dict[str, Group] = msgspec.field(default_factory=dict)
    active: Annotated[str, Meta(description="Blue-green: the version that gets all traffic no rule has decided on")] = (
        ""
    )
    standby: Annotated[str, Meta(description="Blue-green: the version that waits; reachable through `preview`")] = ""
    preview: Preview | None = None

    def check(self) -> None:
        """Everything the types let pass."""
        names = frozenset(self.groups)
        for name, group in self.groups.items():
            _check_group(group, f"$.groups.{name[:60]}")
        for n, rule in enumerate(self.rules):
            _check_rule(rule, f"$.rules[{n}]", names)
        if len(self.rules) > 1000:
            raise Fault("$.rules", f"{len(self.rules)} rules; at most 1000")
        if self.standby and not self.active:
            raise Fault("$.active", "missing: with a standby version there has to be an active one")
        if self.active and self.active == self.standby:
            raise Fault("$.standby", f"{self.standby!r} is the active version too; they are two")
        if self.preview is not None:
            if not self.standby:
                raise Fault("$.preview", "there is no standby version to show")
            _one_key("$.preview", header=self.preview.header, cookie=self.preview.cookie)
            if self.preview.where is not None:
                check_text(self.preview.where, "$.preview.where")


def _one_key(path: str, **keys: str) -> None:
    given = [name for name, value in keys.items() if value]
    if len(given) != 1:
        raise Fault(path, f"exactly one of {', '.join(keys)}; here: {' and '.join(given) or 'none'}")


def _check_group(group: Group, path: str) -> None:
    _one_key(path, header=group.header, cookie=group.cookie, claim=group.claim)
    if (group.where is None) == (group.percent is None):
        raise Fault(path, "exactly one of where and percent says who is in")
    if group.where is not None:
        check_text(group.where, f"{path}.where")


def _check_rule(rule: Rule, path: str, groups: frozenset[str]) -> None:
    check_match(rule.match, f"{path}.match", groups)
    answers = [name for name in ("redirect", "respond") if getattr(rule, name) is not None]
    if len(answers) == 2 or (answers and (rule.split or rule.rewrite or rule.sticky)):
        raise Fault(f"{path}.{answers[0]}", "answers by itself: no split, rewrite, sticky or other answer beside it")
    for n, target in enumerate(rule.split):
        _check_target(target, f"{path}.split[{n}]")
    described = [_describe(target) for target in rule.split]
    for n, name in enumerate(described):
        if name in described[:n]:
            raise Fault(f"{path}.split[{n}]", f"{name} stands twice; add the weights up")
    total = math.fsum(target.weight for target in rule.split)
    if rule.split and total <= 0:
        raise Fault(f"{path}.split", "the weights add up to 0: nothing could be chosen; give one target a weight")
    if rule.sticky is not None:
        _one_key(f"{path}.sticky", header=rule.sticky.header, cookie=rule.sticky.cookie, claim=rule.sticky.claim)
        if len(rule.split) < 2:
            raise Fault(f"{path}.sticky", "without a split over two targets there is nothing to stick to")
    if rule.redirect is not None and rule.redirect.status not in (301, 302, 303, 307, 308):
        raise Fault(f"{path}.redirect.status", f"{rule.redirect.status}; a redirect is 301, 302, 303, 307 or 308")
    _check_texts(rule, path)


def _check_target(target: Target, path: str) -> None:
    if target.service:
        try:
            parse_service(target.service)
        except ValueError as error:
            raise Fault(f"{path}.service", str(error)) from None


def _check_texts(rule: Rule, path: str) -> None:
    """Nothing that a document says may break the framing of a message."""
    if rule.rewrite is not None:
        _check_rewrite(rule.rewrite, rule.match.path, f"{path}.rewrite")
    if rule.redirect is not None and not _printable(rule.redirect.location):
        raise Fault(f"{path}.redirect.location", "a character that cannot stand in a header; percent-encode it")
    edits: list[tuple[str, HeaderEdit]] = []
    if rule.headers is not None:
        if rule.headers.request is not None:
            edits.append((f"{path}.headers.request", rule.headers.request))
        if rule.headers.response is not None:
            edits.append((f"{path}.headers.response", rule.headers.response))
    if rule.respond is not None:
        edits.append((f"{path}.respond", HeaderEdit(set=rule.respond.headers)))
    for where, edit in edits:
        for name, value in (*edit.set.items(), *edit.add.items()):
            _check_header(where, name, value)
        for name in edit.remove:
            _check_header(where, name, "")


def _check_rewrite(rewrite: Rewrite, match: PathMatch | None, path: str) -> None:
    if not rewrite.path and not rewrite.host:
        raise Fault(path, "neither path nor host")
    if rewrite.host and not _HOST.match(rewrite.host):
        raise Fault(f"{path}.host", f"{rewrite.host[:60]!r} is no host name")
    if rewrite.path and (not _printable(rewrite.path) or " " in rewrite.path or "#" in rewrite.path):
        raise Fault(f"{path}.path", "a character that cannot stand in a path; percent-encode it")
    pattern = path_pattern(match) if match is not None else None
    for place in re.findall(r"\{([^}]*)\}", rewrite.path):
        known = pattern is not None and (
            place in pattern.groupindex or (place.isdigit() and 1 <= int(place) <= pattern.groups)
        )
        if not known:
            raise Fault(f"{path}.path", f"{{{place}}} stands for nothing that match.path names")


def _check_header(path: str, name: str, value: str) -> None:
    if not _NAME.match(name):
        raise Fault(path, f"{name[:60]!r} is no header name")
    if name.lower() in _PROTECTED or name.lower().startswith("x-shoal-"):
        hint = "; use rewrite.host" if name.lower() == "host" else ""
        raise Fault(path, f"{name} belongs to the proxy and cannot be edited{hint}")
    if not _printable(value):
        raise Fault(path, f"the value of {name} has a character that cannot stand in a header")


def _printable(value: str) -> bool:
    return all(" " <= c <= "~" or c == "\t" for c in value)


# The decision.


class Subset(NamedTuple):
    """Which of a service's instances; hashable."""

    version: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def selects(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint belongs to it."""
        if self.version is not None and endpoint.version != self.version:
            return False
        return all(endpoint.metadata.get(key) == value for key, value in self.labels)

    def __str__(self) -> str:
        parts = [f"version {self.version}"] if self.version is not None else []
        return ", ".join([*parts, *(f"{key}={value}" for key, value in self.labels)])


class Edits(msgspec.Struct, frozen=True):
    """Header edits, ready to apply."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: frozenset[str] = frozenset()
    """Lower case."""


class Forward(msgspec.Struct, frozen=True):
    """Send it on. None: as it is."""

    service: str | None = None
    subset: Subset | None = None
    target: str | None = None
    """Path and query that the instance sees."""
    host: str | None = None
    request_headers: Edits | None = None
    response_headers: Edits | None = None


class Redirect(msgspec.Struct, frozen=True):
    """Send the client elsewhere."""

    status: int
    location: str


class Respond(msgspec.Struct, frozen=True):
    """Answer by itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Decision(msgspec.Struct, frozen=True):
    """What a route says of a request."""

    rule: str
    reason: str
    action: Forward | Redirect | Respond


class Compiled:
    """A route, ready to be asked."""

    __slots__ = ("_default", "_preview", "_rules", "_standby")

    def __init__(self, document: Route, service: str) -> None:
        groups = {name: _member(name, group) for name, group in document.groups.items()}
        self._rules = [_CompiledRule(rule, n, service, groups) for n, rule in enumerate(document.rules)]
        active = Forward(subset=Subset(document.active)) if document.active else Forward()
        reason = f"version {document.active} is active" if document.active else "no rule matched"
        self._default = Decision("default", reason, active)
        self._preview = _preview(document.preview) if document.preview is not None else None
        standby = Forward(subset=Subset(document.standby or None))
        self._standby = Decision("preview", f"version {document.standby} is on standby", standby)

    def decide(self, request: RequestView, rng: random.Random) -> Decision:
        """The first rule that matches decides."""
        for rule in self._rules:
            if rule.matches is None or rule.matches(request):
                return rule.decide(request, rng)
        if self._preview is not None and self._preview(request):
            return self._standby
        return self._default


def compile(document: Route, service: str) -> Compiled:
    """A checked document, ready for requests to `service`."""
    return Compiled(document, service)


def decide(compiled: Compiled, request: RequestView, rng: random.Random) -> Decision:
    """Where a request goes."""
    return compiled.decide(request, rng)


class _CompiledRule:
    __slots__ = ("_fixed", "_key", "_location", "_name", "_pattern", "_rewrite", "_split", "_status", "matches")

    def __init__(self, rule: Rule, number: int, service: str, groups: dict[str, Predicate]) -> None:
        self._name = rule.name or f"rules[{number}]"
        self.matches = compile_match(rule.match, groups)
        self._key = _user(rule.sticky) if rule.sticky is not None else None
        self._pattern = path_pattern(rule.match.path) if rule.match.path is not None else None
        self._rewrite = rule.rewrite.path if rule.rewrite is not None and rule.rewrite.path else None
        if self._rewrite and rule.match.path is not None and rule.match.path.prefix is not None:
            self._rewrite = self._rewrite.rstrip("/") + "\0" + rule.match.path.prefix.rstrip("/")
        self._location = rule.redirect.location if rule.redirect is not None else None
        self._status = rule.redirect.status if rule.redirect is not None else 0
        self._fixed: Decision | None = None
        self._split: Split[Decision] | None = None
        if rule.respond is not None:
            answer = Respond(rule.respond.status, tuple(rule.respond.headers.items()), rule.respond.body.encode())
            self._fixed = Decision(self._name, "answers by itself", answer)
        elif rule.redirect is None:
            self._compile_split(rule, service)

    def _compile_split(self, rule: Rule, service: str) -> None:
        targets = rule.split or (Target(),)
        total = math.fsum(target.weight for target in targets)
        made = []
        for target in targets:
            forward = _forward(target, rule, service)
            share = (
                f"{100 * target.weight / total:.4g}% to {_describe(target)}" if len(targets) > 1 else _describe(target)
            )
            made.append((_describe(target), target.weight, Decision(self._name, share, forward)))
        self._split = Split(made)
        if len([m for m in made if m[1] > 0]) == 1:
            self._fixed = next(m[2] for m in made if m[1] > 0)

    def decide(self, request: RequestView, rng: random.Random) -> Decision:
        if self._location is not None:
            return Decision(self._name, "redirects", Redirect(self._status, _fill(self._location, request)))
        decision = self._fixed
        if decision is None:
            assert self._split is not None
            user = self._key(request) if self._key is not None else None
            decision = self._split.sticky(user) if user else self._split.at_random(rng)
        if self._rewrite is None or not isinstance(decision.action, Forward):
            return decision
        target = self._rewritten(request)
        forward = decision.action
        return Decision(
            decision.rule,
            decision.reason,
            Forward(
                forward.service, forward.subset, target, forward.host, forward.request_headers, forward.response_headers
            ),
        )

    def _rewritten(self, request: RequestView) -> str:
        assert self._rewrite is not None
        path, is_prefix, prefix = self._rewrite.partition("\0")
        if is_prefix:
            rest = request.path[len(prefix) :]
            path = (path + rest) or "/"
        elif self._pattern is not None:
            found = self._pattern.fullmatch(request.path)
            if found is not None:
                path = re.sub(r"\{([^}]*)\}", lambda place: _group(found, place[1]), path)
        if not path.startswith("/"):
            path = "/" + path
        return f"{path}?{request.query}" if request.query else path


def _group(found: Any, name: str) -> str:
    return str(found.group(int(name) if name.isdigit() else name) or "")


def _fill(location: str, request: RequestView) -> str:
    filled = location.replace("{path}", request.path).replace("{query}", request.query)
    return quote(filled, safe="!#$%&'()*+,/:;=?@[]~-._")


def _describe(target: Target) -> str:
    parts = [target.service] if target.service else []
    if target.version:
        parts.append(f"version {target.version}")
    parts += [f"{key}={value}" for key, value in sorted(target.labels.items())]
    return " ".join(parts) or "the service"


def _forward(target: Target, rule: Rule, service: str) -> Forward:
    labels = tuple(sorted(target.labels.items()))
    subset = Subset(target.version or None, labels) if target.version or labels else None
    other = parse_service(target.service) if target.service else service
    headers = rule.headers or Headers()
    return Forward(
        service=None if other == service else other,
        subset=subset,
        host=rule.rewrite.host if rule.rewrite is not None and rule.rewrite.host else None,
        request_headers=_edits(headers.request),
        response_headers=_edits(headers.response),
    )


def _edits(edit: HeaderEdit | None) -> Edits | None:
    if edit is None:
        return None
    removed = frozenset(name.lower() for name in edit.remove)
    return Edits(tuple(edit.set.items()), tuple(edit.add.items()), removed)


def _read(request: RequestView, header: str, cookie_name: str, claim: str) -> str | None:
    if header:
        return request.header(header.lower())
    if cookie_name:
        return cookie(request, cookie_name)
    return request.claim(claim)


def _user(sticky: Sticky) -> Callable[[RequestView], str | None]:
    return lambda request: _read(request, sticky.header, sticky.cookie, sticky.claim)


def _preview(preview: Preview) -> Predicate:
    where = Text(exact=preview.where) if isinstance(preview.where, str) else preview.where or Text(present=True)
    test = _compile_text(where)
    return lambda request: test(_read(request, preview.header, preview.cookie, ""))


def _member(name: str, group: Group) -> Predicate:
    if group.percent is not None:
        share = group.percent / 100

        def drawn(request: RequestView) -> bool:
            value = _read(request, group.header, group.cookie, group.claim)
            return bool(value) and draw(value or "", name) < share

        return drawn
    where = Text(exact=group.where) if isinstance(group.where, str) else group.where
    assert where is not None
    test = _compile_text(where)
    return lambda request: test(_read(request, group.header, group.cookie, group.claim))
