# mypyc: interpreted, because it wraps a library, which rules with `when` alone ask
"""`when`: a condition in the Common Expression Language (github.com/google/cel-spec), by Google's own implementation.

Laws
- Types are checked when a document is read: what is no question of yes or no about what there is, is refused.
- What it costs follows from how it is written: there are no loops and no expressions that a request brings along, and
  a document has few of them.
- An error while a request is judged denies: the condition of a rule that denies holds then, and that of one that
  allows does not.

The library is an extra (`shoal-mesh[cel]`): who has it not refuses documents that need it, and says so.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Final

from policies.language.claims import CEL_TEXT, asks_claims, bare
from policies.language.plain import Flaw
from policies.request import TOKEN, RequestView, query_parameter

MAX_LENGTH: Final = 1000
MAX_CONDITIONS: Final = 50
"""Of a document: each costs a request that comes as far some ten microseconds."""
MOST_SHOWN: Final = 200
"""Characters of an error; what a request brought along may stand in it."""
_LIBRARY: Final = "cel_expr_python.cel"
_LOOP: Final = re.compile(r"\.\s*(all|exists|exists_one|existsOne|map|filter|transformList|transformMap)\s*\(")
_PATTERN: Final = re.compile(r"\bmatches\s*\(")
_FIELD: Final = re.compile(r"\brequest\.(?:headers|query)\.([A-Za-z_][A-Za-z0-9_]*)")
_HEADER: Final = re.compile(r"\brequest\.headers\s*\[\s*[\"']([^\"']*[A-Z][^\"']*)[\"']")
_ERROR: Final = re.compile(r"ERROR: <input>:\d+:(\d+): ([^\n]*)")


def parameters_in(text: str) -> list[str]:
    """The query parameters that a condition may look at."""
    asks = bare(text)
    if "request.query" not in asks:
        return []
    return [found[0].strip("rR")[1:-1] for found in CEL_TEXT.finditer(text)] + _FIELD.findall(text)


class Condition:
    """One, ready to be asked."""

    __slots__ = ("_claims", "_errors", "_expression", "_fails", "_headers", "_query", "_rule")

    def __init__(self, text: str, *, fails: bool, rule: str = "", errors: dict[str, str] | None = None) -> None:
        """`fails`: what it says where it cannot be evaluated; then `errors` has why, by `rule`. Raises Flaw, which
        `check` would have."""
        self._rule = rule
        self._errors = {} if errors is None else errors
        self._expression = _compiled(text)
        self._fails = fails
        names = [found[0].strip("rR")[1:-1] for found in CEL_TEXT.finditer(text)]
        names += _FIELD.findall(text)
        asks = bare(text)
        self._headers = [name for name in names if TOKEN.match(name)] if "request.headers" in asks else []
        self._query = parameters_in(text)
        self._claims = asks_claims(text)

    def __call__(self, request: RequestView) -> bool:
        """Whether it holds."""
        headers = {name: found for name in self._headers if (found := request.header(name)) is not None}
        query = {name: found for name in self._query if (found := query_parameter(request, name)) is not None}
        data = {
            "request.method": request.method,
            "request.path": request.path,
            "request.headers": headers,
            "request.query": query,
            "source.service": request.caller,
            "source.principal": request.principal,
            "source.address": request.vouched,
            "claims": request.claimed() if self._claims else {},
        }
        try:
            said = self._expression.eval(data=data).value()
        except Exception as error:  # whatever it is: the library's errors have no type of their own
            return self._failed(str(error))
        return said if isinstance(said, bool) else self._failed(str(said))

    def _failed(self, why: str) -> bool:
        """It cannot be judged: what it says then."""
        shown = "".join(each if each.isprintable() else " " for each in why[:MOST_SHOWN])
        self._errors[self._rule] = " ".join(shown.split()) or "an error without words"
        return self._fails


def check_condition(text: str, path: str) -> None:
    """Raises Flaw."""
    if len(text) > MAX_LENGTH:
        raise Flaw(path, f"{len(text)} characters; at most {MAX_LENGTH}")
    outside = bare(text)
    if not text.isprintable() or "//" in outside or '"""' in text or "'''" in text or "`" in outside:
        raise Flaw(path, "a condition is one line, without comments and without texts in three quotes")
    loop = _LOOP.search(outside)
    if loop is not None:
        raise Flaw(path, f"{loop[1]}() is a loop, and a condition has none")
    if _PATTERN.search(outside):
        raise Flaw(path, "matches(): regular expressions belong to match, where their cost is counted")
    header = _HEADER.search(text)
    if header is not None:
        raise Flaw(path, f"request.headers has names in lower case: {header[1].lower()!r}")
    try:
        _compiled(text)
    except Flaw as flaw:
        raise Flaw(path, flaw.reason) from None


@lru_cache(maxsize=512)
def _compiled(text: str) -> Any:
    try:
        found = _environment().compile(text)
    except ModuleNotFoundError:
        raise Flaw("$", "conditions in CEL need a package that is not here: pip install 'shoal-mesh[cel]'") from None
    except (RuntimeError, ValueError) as error:
        raise Flaw("$", _said(str(error))) from None
    if str(found.return_type()) != "BOOL":
        raise Flaw("$", f"says {str(found.return_type()).lower()}, and a condition is true or false")
    return found


@cache
def _environment() -> Any:
    cel = import_module(_LIBRARY)
    text, texts = cel.Type.STRING, cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
    names = {"request.headers": texts, "request.query": texts, "claims": texts}
    asked = ("request.method", "request.path", "source.service", "source.principal", "source.address")
    names |= dict.fromkeys(asked, text)
    return cel.NewEnv(variables=names)


def _said(error: str) -> str:
    found = _ERROR.search(error)
    if found is None:
        return f"no CEL: {error.partition(':')[2].strip()[:200] or error[:200]}"
    what = found[2].replace(" (in container '')", "")
    return f"no CEL at character {found[1]}: {what[:200]}"
