"""What a document may ask of a request (`match`), compiled to predicates, for every kind that asks.

A predicate is a function of a RequestView. Everything that can be decided when the document is read is decided then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import re2
from msgspec import Meta

from policies.language.names import matches, parse_pattern
from policies.language.normal_path import normal, normal_encoding
from policies.language.plain import Flaw, below, read_at
from policies.language.user import check_claim
from policies.language.work import MAX_PATTERN, check_pattern
from policies.request import TOKEN, Method, RequestView, cookie, query_parameter

Predicate = Callable[[RequestView], bool]

_PLACE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH: Final = re.compile(r"(?:[!$&'()*+,./:;=@_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})*\Z")
_SLASH: Final = Meta(pattern="^/", extra={"right": "a path, which begins with /"})


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition on a value; all that are given have to hold."""

    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    regex: Annotated[str, Meta(max_length=512)] | None = None
    one_of: Annotated[tuple[str, ...] | None, Meta(description="One of these")] = msgspec.field(default=None, name="in")
    present: bool | None = None


class PathMatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition on the path; exactly one."""

    exact: Annotated[str, _SLASH] | None = None
    prefix: Annotated[str, _SLASH, Meta(description="/api matches /api and /api/x, not /apix")] | None = None
    template: Annotated[str, _SLASH, Meta(description="/pets/{id}: a place is one segment")] | None = None
    regex: Annotated[str, Meta(max_length=512, description="The whole path has to match")] | None = None


_SOME: Final = Meta(min_length=1, extra={"right": "one at least, or take it out"})
Values: TypeAlias = Annotated[dict[str, str | Text], _SOME]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Conditions; all that are given have to hold. One that is given and empty is none, and refused: whoever has a
    list made for him that came out empty does not mean everybody."""

    method: Annotated[tuple[Method, ...], _SOME, Meta(description="One of these")] = ()
    path: PathMatch | None = None
    headers: Values = msgspec.field(default_factory=dict)
    query: Values = msgspec.field(default_factory=dict)
    cookies: Values = msgspec.field(default_factory=dict)
    claims: Annotated[Values, Meta(description="Of a verified token")] = msgspec.field(default_factory=dict)
    caller: Annotated[
        tuple[str, ...], _SOME, Meta(description="Calling services, or patterns such as *.production")
    ] = ()
    groups: Annotated[
        tuple[str, ...], _SOME, Meta(description="Groups of the document that the request is in; one suffices")
    ] = ()


def linear_regex(path: str, pattern: str) -> Any:
    """A compiled pattern whose running time is linear in what it reads. Raises Flaw.

    RE2, not Python's `re`: a backtracking engine can be made to run for hours by a pattern that looks harmless, and
    this one runs on the request path.
    """
    check_pattern(pattern, path)
    try:
        return _re2(pattern)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise Flaw(path, f"no regular expression (RE2 syntax): {reason}") from None


_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


@lru_cache(maxsize=512)
def _re2(pattern: str) -> Any:
    """Once, for a document that a thousand services have."""
    return re2.compile(pattern, _OPTIONS)


def template_regex(path: str, template: str) -> Any:
    """`/pets/{id}` as a pattern with a named group for each place. Raises Flaw."""
    if len(template) > MAX_PATTERN:
        raise Flaw(path, f"{len(template)} characters; at most {MAX_PATTERN}")
    parts = _PLACE.split(template)
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise Flaw(path, "a place that stands twice")
    rest = "".join(parts[::2])
    if "{" in rest or "}" in rest:
        raise Flaw(path, "a brace that belongs to no {place}; a place is a name in braces")
    _check_characters(path, rest)
    pattern = "".join(f"(?P<{p}>[^/]+)" if n % 2 else _literal(p) for n, p in enumerate(parts))
    if any("/" not in between for between in parts[2:-1:2]):
        return linear_regex(path, pattern)
    # With one place a segment there is nothing to backtrack over, and `re` answers in a fifth of the time.
    return re.compile(pattern)


def _literal(text: str) -> str:
    """As it stands, or in its normal form."""
    other = normal_encoding(text.encode()).decode()
    return re.escape(text) if other == text else f"(?:{re.escape(text)}|{re.escape(other)})"


# Checking. Each raises Flaw.


def check_match(match: Match, path: str, groups: frozenset[str]) -> None:
    """What the types let pass; `groups` are those that may be named."""
    for key, condition in match.claims.items():
        check_claim(key, below(path, "claims", key))
        check_text(condition, below(path, "claims", key))
    if match.path is not None:
        check_path(match.path, below(path, "path"))
    for name, conditions in (("headers", match.headers), ("query", match.query), ("cookies", match.cookies)):
        for key, condition in conditions.items():
            where = below(path, name, key)
            if name != "query" and not TOKEN.match(key):
                raise Flaw(where, f"{key[:60]!r} is no {name[:-1]} name")
            check_text(condition, where)
    for n, caller in enumerate(match.caller):
        read_at(below(path, "caller", n), parse_pattern, caller)
    for n, group in enumerate(match.groups):
        if group not in groups:
            known = ", ".join(sorted(groups)) or "none"
            raise Flaw(below(path, "groups", n), f"no group {group[:60]!r} under $.groups; there are: {known}")


def check_ungrouped(match: Match, path: str) -> None:
    """As `check_match`, for documents that have no groups."""
    if match.groups:
        reason = "groups belong to a route; here a header, cookie, claim or caller can be named"
        raise Flaw(below(path, "groups"), reason)
    check_match(match, path, frozenset())


def check_path(match: PathMatch, path: str) -> None:
    """Exactly one condition, which a path as it is sent can meet."""
    given = [n for n in ("exact", "prefix", "template", "regex") if getattr(match, n) is not None]
    if len(given) != 1:
        raise Flaw(path, f"exactly one of exact, prefix, template and regex; here: {' and '.join(given) or 'none'}")
    where = below(path, given[0])
    if match.regex is not None:
        linear_regex(where, match.regex)
    elif match.template is not None:
        template_regex(where, match.template)
    else:
        _check_characters(where, match.exact or match.prefix or "")


def _check_characters(path: str, text: str) -> None:
    if "?" in text:
        raise Flaw(path, "a path without its query; use match.query")
    if not _PATH.match(text):
        raise Flaw(path, f"{text[:60]!r} can be no part of a path as it is sent; percent-encode it")


def check_text(condition: str | Text, path: str) -> None:
    """Conditions that can hold."""
    if isinstance(condition, str):
        return
    given = [condition.exact, condition.prefix, condition.suffix, condition.regex, condition.one_of, condition.present]
    if all(value is None for value in given):
        raise Flaw(path, "no condition; one of exact, prefix, suffix, regex, in and present")
    if condition.present is False and sum(value is not None for value in given) > 1:
        raise Flaw(path, "present: false together with a condition on the value can never hold")
    if condition.one_of is not None and not condition.one_of:
        raise Flaw(below(path, "in"), "an empty list, in which nothing can be")
    if condition.regex is not None:
        linear_regex(below(path, "regex"), condition.regex)


# Compiling.


def compile_match(match: Match, groups: dict[str, Predicate]) -> Predicate | None:
    """One predicate for all conditions; None when there are none."""
    found: list[Predicate] = []
    if match.method:
        found.append(_method(frozenset(match.method)))
    if match.path is not None:
        found.append(compile_path(match.path))
    for name, condition in match.headers.items():
        found.append(_value(_header(name.lower()), condition))
    for name, condition in match.query.items():
        found.append(_value(_query(name), condition))
    for name, condition in match.cookies.items():
        found.append(_value(_cookie(name), condition))
    for name, condition in match.claims.items():
        found.append(_value(_claim(name), condition))
    if match.caller:
        found.append(_caller(tuple(parse_pattern(c) for c in match.caller)))
    if match.groups:
        members = [groups[name] for name in match.groups]
        found.append(lambda request: any(member(request) for member in members))
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    return lambda request: all(predicate(request) for predicate in found)


def compile_path(match: PathMatch) -> Predicate:
    """A predicate on the path."""
    if match.exact is not None:
        return _exactly(match.exact)
    if match.prefix is not None:
        prefix = match.prefix.rstrip("/")
        other = _spelt_normally(match.prefix).rstrip("/")
        return _under(prefix) if other == prefix else _any(_under(prefix), _under(other))
    pattern = path_pattern(match)
    assert pattern is not None
    fullmatch = pattern.fullmatch
    return lambda request: fullmatch(request.path) is not None


def _exactly(path: str) -> Predicate:
    other = _spelt_normally(path)
    if other == path:
        return lambda request: request.path == path
    return lambda request: request.path in (path, other)


def _under(prefix: str) -> Predicate:
    below = prefix + "/"
    return lambda request: request.path == prefix or request.path.startswith(below)


def _any(one: Predicate, other: Predicate) -> Predicate:
    return lambda request: one(request) or other(request)


def _spelt_normally(path: str) -> str:
    """What a document writes is what its author saw somewhere; requests come by in the normal form, but for a service
    that keeps every spelling."""
    return normal(path.encode()).target.decode()


def path_pattern(match: PathMatch) -> Any:
    """The pattern behind a template or regex."""
    if match.template is not None:
        return template_regex("$", match.template)
    if match.regex is not None:
        return linear_regex("$", match.regex)
    return None


def _method(methods: frozenset[str]) -> Predicate:
    return lambda request: request.method in methods


def _caller(patterns: tuple[str, ...]) -> Predicate:
    return lambda request: bool(request.caller) and any(matches(pattern, request.caller) for pattern in patterns)


Getter = Callable[[RequestView], str | None]


def _header(name: str) -> Getter:
    return lambda request: request.header(name)


def _query(name: str) -> Getter:
    return lambda request: query_parameter(request, name)


def _cookie(name: str) -> Getter:
    return lambda request: cookie(request, name)


def _claim(name: str) -> Getter:
    return lambda request: request.claim(name)


def _value(get: Getter, condition: str | Text) -> Predicate:
    if isinstance(condition, str):
        return lambda request: get(request) == condition
    test = compile_text(condition)

    def holds(request: RequestView) -> bool:
        return test(get(request))

    return holds


def compile_text(condition: Text) -> Callable[[str | None], bool]:
    """A test of a value, or of its absence."""
    if condition.present is False:
        return lambda value: value is None
    pattern = linear_regex("$", condition.regex) if condition.regex is not None else None
    members = frozenset(condition.one_of) if condition.one_of is not None else None
    exact, prefix, suffix = condition.exact, condition.prefix or "", condition.suffix or ""

    def test(value: str | None) -> bool:
        return (
            value is not None
            and (exact is None or value == exact)
            and value.startswith(prefix)
            and value.endswith(suffix)
            and (members is None or value in members)
            and (pattern is None or pattern.fullmatch(value) is not None)
        )

    return test
