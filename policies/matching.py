"""What a rule may ask of a request, compiled to predicates. Used by routes; other kinds may use it too.

A predicate is a function of a RequestView. Everything that can be decided when the document is read is decided then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import re2
from msgspec import Meta

from policies.document import Fault
from policies.names import matches, parse_pattern
from policies.request import RequestView, cookie, query_parameter

Predicate = Callable[[RequestView], bool]

_PLACE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
MATCHED_BYTES: Final = 8192
"""A pattern is run over no more than this much of a value."""


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

    exact: Annotated[str, Meta(pattern="^/")] | None = None
    prefix: Annotated[str, Meta(pattern="^/", description="/api matches /api and /api/x, not /apix")] | None = None
    template: Annotated[str, Meta(pattern="^/", description="/pets/{id}: a place is one segment")] | None = None
    regex: Annotated[str, Meta(max_length=512, description="The whole path has to match")] | None = None


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions; all that are given have to hold."""

    method: Annotated[tuple[Annotated[str, Meta(pattern=r"^[A-Z]{1,32}$")], ...], Meta(description="One of these")] = ()
    path: PathMatch | None = None
    headers: dict[str, str | Text] = msgspec.field(default_factory=dict)
    query: dict[str, str | Text] = msgspec.field(default_factory=dict)
    cookies: dict[str, str | Text] = msgspec.field(default_factory=dict)
    caller: Annotated[tuple[str, ...], Meta(description="Calling services, or patterns such as *.production")] = ()
    groups: Annotated[
        tuple[str, ...], Meta(description="Groups of the document that the request is in; one suffices")
    ] = ()


def linear_regex(path: str, pattern: str) -> Any:
    """A compiled pattern whose running time is linear in what it reads. Raises Fault.

    RE2, not Python's `re`: a backtracking engine can be made to run for hours by a pattern that looks harmless, and
    this one runs on the request path.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise Fault(path, f"no regular expression (RE2 syntax): {reason}") from None


def template_regex(path: str, template: str) -> Any:
    """`/pets/{id}` as a pattern with a named group for each place. Raises Fault."""
    names = _PLACE.findall(template)
    if len(set(names)) != len(names):
        raise Fault(path, "a place that stands twice")
    rest = _PLACE.sub("", template)
    if "{" in rest or "}" in rest:
        raise Fault(path, "a brace that belongs to no {place}; a place is a name in braces")
    parts = _PLACE.split(template)
    pattern = "".join(f"(?P<{p}>[^/]+)" if n % 2 else re.escape(p) for n, p in enumerate(parts))
    return linear_regex(path, pattern)


# Checking.


def check_match(match: Match, path: str, groups: frozenset[str]) -> None:
    """Raises Fault for what the types let pass."""
    if match.path is not None:
        check_path(match.path, f"{path}.path")
    for name, conditions in (("headers", match.headers), ("query", match.query), ("cookies", match.cookies)):
        for key, condition in conditions.items():
            where = f"{path}.{name}.{key[:60]}"
            if name == "headers" and not _HEADER_NAME.match(key):
                raise Fault(where, "no header name")
            check_text(condition, where)
    for n, caller in enumerate(match.caller):
        try:
            parse_pattern(caller)
        except ValueError as error:
            raise Fault(f"{path}.caller[{n}]", str(error)) from None
    for n, group in enumerate(match.groups):
        if group not in groups:
            known = ", ".join(sorted(groups)) or "none"
            raise Fault(f"{path}.groups[{n}]", f"no group {group[:60]!r} under $.groups; there are: {known}")


def check_path(match: PathMatch, path: str) -> None:
    """Raises Fault."""
    given = [n for n in ("exact", "prefix", "template", "regex") if getattr(match, n) is not None]
    if len(given) != 1:
        raise Fault(path, f"exactly one of exact, prefix, template and regex; here: {' and '.join(given) or 'none'}")
    if match.regex is not None:
        linear_regex(f"{path}.regex", match.regex)
    if match.template is not None:
        template_regex(f"{path}.template", match.template)


def check_text(condition: str | Text, path: str) -> None:
    """Raises Fault."""
    if isinstance(condition, str):
        return
    given = [condition.exact, condition.prefix, condition.suffix, condition.regex, condition.one_of, condition.present]
    if all(value is None for value in given):
        raise Fault(path, "no condition; one of exact, prefix, suffix, regex, in and present")
    if condition.present is False and sum(value is not None for value in given) > 1:
        raise Fault(path, "present: false together with a condition on the value can never hold")
    if condition.regex is not None:
        linear_regex(f"{path}.regex", condition.regex)


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
        exact = match.exact
        return lambda request: request.path == exact
    if match.prefix is not None:
        prefix = match.prefix.rstrip("/")
        below = prefix + "/"
        return lambda request: request.path == prefix or request.path.startswith(below)
    pattern = path_pattern(match)
    assert pattern is not None
    fullmatch = pattern.fullmatch
    return lambda request: fullmatch(request.path[:MATCHED_BYTES]) is not None


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
            and (pattern is None or pattern.fullmatch(value[:MATCHED_BYTES]) is not None)
        )

    return test
