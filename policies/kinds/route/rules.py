"""The rules of a `route` document: what they may say, and what is refused.

Nothing that a document says may break the framing of a message, and nothing that it says may be without effect.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.kinds.retry.document import RetryRule
from policies.language.answer import LINES, DirectResponse, check_bodiless, check_header, printable
from policies.language.duration import DAY_S, Duration, bounded, positive
from policies.language.matching import Match, PathMatch, Text, check_match, check_text, path_pattern
from policies.language.names import parse_service
from policies.language.plain import Flaw, below, read_at
from policies.language.user import Sticky, check_key, check_sticky

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?\Z")
_REWRITTEN: Final = re.compile(r"/(?:[!$&'()*+,./:;=@_~0-9A-Za-z-]|%[0-9A-Fa-f]{2}|\{[A-Za-z0-9_]+\})*\Z")
_LOCATION: Final = re.compile(r"/|\{path\}|[A-Za-z][A-Za-z0-9+.-]*:")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
MAX_TTL_S: Final = 366 * DAY_S


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a share of the traffic goes: instances of a version, with labels, or of another service."""

    service: Annotated[str, Meta(description="Another service; default this one")] = ""
    version: Annotated[str, Meta(max_length=128)] = ""
    labels: Annotated[dict[str, str], Meta(max_length=16, description="Metadata that an instance has to carry")] = (
        msgspec.field(default_factory=dict)
    )
    weight: Annotated[float, Meta(ge=0, le=1_000_000, description="Share, relative to the others")] = 1


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named group of users: by a value, or a share of them that only grows with `percent`."""

    header: str = ""
    cookie: str = ""
    claim: Annotated[str, Meta(description="Of a verified token")] = ""
    where: Annotated[str | Text | None, Meta(description="What the value has to be")] = None
    percent: Annotated[float, Meta(ge=0, le=100, description="Share of the values that are in")] | None = None


class Preview(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who sees the standby version before it is switched to."""

    header: str = ""
    cookie: str = ""
    claim: Annotated[str, Meta(description="Of a verified token")] = ""
    where: Annotated[str | Text | None, Meta(description="What the value has to be; default: present")] = None


class HeaderEdit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Edits of a head: removed, then set (replacing), then added."""

    set: Annotated[dict[str, str], LINES] = msgspec.field(default_factory=dict)
    add: Annotated[dict[str, str], LINES] = msgspec.field(default_factory=dict)
    remove: Annotated[tuple[str, ...], LINES] = ()


class Headers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Edits of the request on its way, and of the answer."""

    request: HeaderEdit | None = None
    response: HeaderEdit | None = None


class Rewrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the instance sees in place of what was asked."""

    path: Annotated[
        str,
        Meta(max_length=4096, description="With match.path.prefix: replaces the prefix. With template or regex: "
             "{place} or {1} stand for what was matched. Else: the whole path"),
    ] = ""  # fmt: skip
    host: str = ""


class RedirectTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Send the client elsewhere."""

    location: Annotated[str, Meta(max_length=4096, description="{path} and {query} stand for the request's")]
    status: Annotated[int, Meta(description="301, 302, 303, 307 or 308")] = 302


class StickySplit(Sticky, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What keeps a user on a side of a split; one without the cookie is given it."""

    issue: Annotated[bool, Meta(description="With cookie: the answer to a client without it sets it")] = True
    ttl: Annotated[Duration, Meta(description="With cookie: its Max-Age; 0 is until the browser closes")] = 0


class TimeoutRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For the requests of one rule, in place of the service's timeout policy; the rest stays the service's."""

    request: Annotated[Duration | None, Meta(description="For the whole request, retries and bodies included")] = None
    try_: Annotated[Duration | None, Meta(description="For one try, up to its answer's head")] = msgspec.field(
        default=None, name="try"
    )


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to do with the requests that match."""

    name: Annotated[str, Meta(max_length=128, description="For people: shown by explain; default rules[n]")] = ""
    match: Match = Match()
    split: Annotated[tuple[Target, ...], Meta(max_length=64)] = ()
    empty: Annotated[
        Literal["fail", "others"],
        Meta(description="What becomes of the share of a target that has no healthy instance"),
    ] = "fail"
    sticky: StickySplit | None = None
    rewrite: Rewrite | None = None
    headers: Headers | None = None
    retry: Annotated[RetryRule | None, Meta(description="In place of the service's retry policy")] = None
    timeout: Annotated[TimeoutRule | None, Meta(description="In place of the service's timeout policy")] = None
    redirect: RedirectTo | None = None
    respond: DirectResponse | None = None


# Checking. Each raises Flaw.


def check_group(group: Group, path: str) -> None:
    """One key, and one way to say who is in."""
    check_key(path, header=group.header, cookie=group.cookie, claim=group.claim)
    if (group.where is None) == (group.percent is None):
        raise Flaw(path, "exactly one of where and percent says who is in")
    if group.where is not None:
        check_text(group.where, below(path, "where"))


def check_preview(preview: Preview, path: str) -> None:
    """One key, and a condition that can hold."""
    check_key(path, header=preview.header, cookie=preview.cookie, claim=preview.claim)
    if preview.where is not None:
        check_text(preview.where, below(path, "where"))


def check_rule(rule: Rule, path: str, groups: frozenset[str]) -> None:
    """All of a rule; `groups` are those that it may name."""
    check_match(rule.match, below(path, "match"), groups)
    _check_answer(rule, path)
    _check_split(rule, path)
    if rule.retry is not None:
        rule.retry.check(below(path, "retry"))
    if rule.timeout is not None:
        _check_timeout(rule.timeout, below(path, "timeout"))
    if rule.rewrite is not None:
        _check_rewrite(rule.rewrite, rule.match.path, below(path, "rewrite"))
    for where, name, value in _header_lines(rule, path):
        check_header(where, name, value)


def _check_timeout(timeout: TimeoutRule, path: str) -> None:
    found = {
        name: positive(below(path, name), value, DAY_S)
        for name, value in (("request", timeout.request), ("try", timeout.try_))
        if value is not None
    }
    if not found:
        raise Flaw(path, "does nothing; one or both of request and try")
    if len(found) == 2 and found["try"] > found["request"]:
        raise Flaw(
            below(path, "try"),
            f"{found['try']:g} s is longer than the whole request may take ({found['request']:g} s)",
        )


def _check_answer(rule: Rule, path: str) -> None:
    answers = [name for name in ("redirect", "respond") if getattr(rule, name) is not None]
    beside = [name for name in ("split", "sticky", "rewrite", "headers", "retry", "timeout") if getattr(rule, name)]
    if len(answers) == 2 or (answers and beside):
        other = (answers[1:] + beside)[0]
        raise Flaw(below(path, other), f"does nothing beside {answers[0]}, which answers by itself; take one out")
    if rule.redirect is not None:
        _check_redirect(rule.redirect, below(path, "redirect"))
    if rule.respond is not None:
        check_bodiless(rule.respond, below(path, "respond"))


def _check_redirect(redirect: RedirectTo, path: str) -> None:
    location = redirect.location
    if not printable(location):
        raise Flaw(below(path, "location"), "a character that cannot stand in a header; percent-encode it")
    if not _LOCATION.match(location):
        raise Flaw(below(path, "location"), f"{location[:60]!r} is no place; begin with / or https:// or {{path}}")
    for place in re.findall(r"\{[^}]*\}?|\}", location):
        if place not in ("{path}", "{query}"):
            raise Flaw(below(path, "location"), f"{place[:60]} stands for nothing; there are {{path}} and {{query}}")
    if redirect.status not in _REDIRECTS:
        raise Flaw(below(path, "status"), f"{redirect.status}; a redirect is 301, 302, 303, 307 or 308")


def _check_split(rule: Rule, path: str) -> None:
    seen: list[tuple[str, str, dict[str, str]]] = []
    for n, target in enumerate(rule.split):
        where = below(path, "split", n)
        if target.service:
            read_at(below(where, "service"), parse_service, target.service)
        what = (target.service.lower().replace("/", "."), target.version, target.labels)
        if what in seen:
            raise Flaw(where, f"the same as split[{seen.index(what)}]; add the weights up")
        seen.append(what)
    if rule.split and math.fsum(target.weight for target in rule.split) <= 0:
        raise Flaw(below(path, "split"), "the weights add up to 0: nothing could be chosen; give one target a weight")
    if rule.empty == "others" and sum(target.weight > 0 for target in rule.split) < 2:
        raise Flaw(below(path, "empty"), "without a split over two targets there are no others")
    if rule.sticky is not None:
        _check_sticky(rule.sticky, below(path, "sticky"))
        if len(rule.split) < 2:
            raise Flaw(below(path, "sticky"), "without a split over two targets there is nothing to stick to")


def _check_sticky(sticky: StickySplit, path: str) -> None:
    check_sticky(sticky, path)
    age_s = bounded(below(path, "ttl"), sticky.ttl, 0, MAX_TTL_S)
    if not sticky.issue and not sticky.cookie:
        raise Flaw(below(path, "issue"), "does nothing without cookie: a client sends headers by itself")
    if age_s and not (sticky.cookie and sticky.issue):
        raise Flaw(below(path, "ttl"), "does nothing where no cookie is set; it goes with cookie, and issue true")
    if 0 < age_s < 1:
        raise Flaw(below(path, "ttl"), "less than a second; at least 1s, or 0 for until the browser closes")


def _check_rewrite(rewrite: Rewrite, match: PathMatch | None, path: str) -> None:
    if not rewrite.path and not rewrite.host:
        raise Flaw(path, "neither path nor host")
    if rewrite.host and not _HOST.match(rewrite.host):
        raise Flaw(below(path, "host"), f"{rewrite.host[:60]!r} is no host name")
    if not rewrite.path:
        return
    if "?" in rewrite.path:
        raise Flaw(below(path, "path"), "a path without its query, which stays as it is")
    if not _REWRITTEN.match(rewrite.path):
        raise Flaw(below(path, "path"), f"{rewrite.path[:60]!r} is no path; begin with / and percent-encode the rest")
    pattern = path_pattern(match) if match is not None else None
    for place in re.findall(r"\{([^}]*)\}", rewrite.path):
        known = pattern is not None and (
            place in pattern.groupindex or (place.isdigit() and 1 <= int(place) <= pattern.groups)
        )
        if not known:
            raise Flaw(below(path, "path"), f"{{{place[:60]}}} stands for nothing that match.path names")


def _header_lines(rule: Rule, path: str) -> Iterator[tuple[str, str, str]]:
    """Every header that a rule writes or removes, with its path and value."""
    edits: list[tuple[str, HeaderEdit]] = []
    if rule.headers is not None:
        both = (("request", rule.headers.request), ("response", rule.headers.response))
        edits = [(below(path, "headers", side), edit) for side, edit in both if edit is not None]
    for where, edit in edits:
        for verb, lines in (("set", edit.set), ("add", edit.add)):
            yield from ((below(where, verb, name), name, value) for name, value in lines.items())
        yield from ((below(where, "remove", n), name, "") for n, name in enumerate(edit.remove))
    if rule.respond is not None:
        where = below(path, "respond", "headers")
        yield from ((below(where, name), name, value) for name, value in rule.respond.headers.items())
