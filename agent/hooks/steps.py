"""A delivery as a conversation: what to send next, given what came back. No I/O here.

Laws
- A delivery may be begun again at any point, by another agent: what it did before is found, not done twice.
- What comes from elsewhere is text to be read, never an address to call: nothing in an answer becomes part of a URL
  but what is a number or a key of the expected form.
- Requests do not show their addresses and headers when they are printed: there may be secrets in them.
- A secret is had for the address that it is sent to, and for no other (agent.hooks.receivers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from agent.hooks.receivers import Receivers
from policies.language.secret import Reference
from policies.language.url import check_url

MAX_WAIT_S: Final = 3600.0
_SAID: Final = 200
MAX_LIMIT_BYTES: Final = 2000


class Request(msgspec.Struct, frozen=True):
    """To be sent; redirects are not to be followed."""

    method: str
    url: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<{self.method} {urlsplit(self.url).hostname}, {len(self.body)} bytes>"

    def __rich_repr__(self) -> Any:
        yield repr(self)


class Response(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: dict[str, str] = {}
    """Names in lower case."""
    body: bytes = b""


class Run(msgspec.Struct, frozen=True):
    """A program to be run, without a shell."""

    argv: tuple[str, ...]
    stdin: bytes
    environ: dict[str, str]


class Exited(msgspec.Struct, frozen=True):
    """How it ended."""

    status: int


class Intend(msgspec.Struct, frozen=True):
    """Something is about to be opened at a place: to be remembered before, since the answer may be lost."""

    place: str


class Noted(msgspec.Struct, frozen=True):
    """It is remembered."""


class Done(msgspec.Struct, frozen=True):
    """Delivered, or found delivered. `id`: what that which is open now is called at its `place`, if it has a name."""

    what: str
    place: str = ""
    id: str = ""


class Failed(msgspec.Struct, frozen=True):
    """Not delivered. `again`: whether another try could help, after `after_s` if that was said. `limited`: the service
    named a limit, which is not only this delivery's. `asked`: whether anybody was asked; else it was no try."""

    reason: str
    again: bool
    after_s: float | None = None
    limited: bool = False
    asked: bool = True


Answer: TypeAlias = Response | Exited | Noted
Action: TypeAlias = Request | Run | Intend | Done | Failed


class Problem(Exception):
    """Ends a conversation with Failed."""

    def __init__(self, reason: str, *, again: bool, after_s: float | None = None, limited: bool = False) -> None:
        super().__init__(reason)
        self.failed = Failed(reason, again, after_s, limited)


class Secrets:
    """What the references of a hook stand for, as read by the caller, and who may be sent it."""

    __slots__ = ("_addresses", "_receivers", "_values")

    def __init__(self, values: Mapping[Reference, str], receivers: Receivers) -> None:
        self._values = values
        self._receivers = receivers
        self._addresses: set[str] = set()

    def find(self, reference: Reference | str | None, to: str, *, fixed: str = "") -> str:
        """For the URL that it is sent to; `fixed` is the API that the format is for.

        Raises Problem when it may not be sent there, was not found, or is of several lines.
        """
        if not isinstance(reference, Reference):
            raise Problem("a secret that is no reference", again=False)
        refused = self._receivers.refused(reference, to, fixed=fixed, hidden=to in self._addresses)
        if refused:
            raise Problem(refused, again=True)
        return self._value(reference)

    def address(self, reference: Reference) -> str:
        """A secret that is itself a URL, and goes nowhere else. Raises Problem, which tells nothing of it."""
        value = self._value(reference)
        try:
            check_url(value)
        except ValueError:
            raise Problem(f"the secret in the {_where(reference)} is no URL", again=True) from None
        self._addresses.add(value)
        return value

    def _value(self, reference: Reference) -> str:
        value = self._values.get(reference, "").strip()
        where = _where(reference)
        if not value:
            raise Problem(f"no secret in the {where}", again=True)
        if not value.isascii() or not value.isprintable():
            raise Problem(f"the secret in the {where} is not one line of printable ASCII", again=True)
        return value


def _where(reference: Reference) -> str:
    return f"file {reference.file}" if reference.file else f"variable {reference.env}"


class Steps:
    """One delivery: `next()` begins it, `next(answer)` goes on, until Done or Failed."""

    __slots__ = ("_then", "timestamp")

    def __init__(self, timestamp: int) -> None:
        self.timestamp = timestamp
        """Seconds since 1970."""
        self._then: Callable[[Answer], Action] | None = None

    def next(self, answer: Answer | None = None) -> Action:
        """What to do now. A new conversation begins without an answer, whatever went before."""
        try:
            if answer is None:
                return self.begin()
            if self._then is None:
                raise Problem("an answer to nothing", again=True)
            return self._then(answer)
        except Problem as problem:
            return problem.failed

    def begin(self) -> Action:
        """The first step."""
        raise NotImplementedError

    def ask(self, action: Request | Run | Intend, then: Callable[[Answer], Action]) -> Action:
        """Have it done, and go on there."""
        self._then = then
        return action

    def accepted(self, answer: Answer) -> Response:
        """A response with a 2xx status; any other ends the conversation."""
        if not isinstance(answer, Response):
            raise Problem("something else where a response was expected", again=True)
        if 200 <= answer.status < 300:
            return answer
        raise problem_of(answer, self.timestamp)


_FINAL: Final = frozenset((400, 405, 406, 410, 411, 413, 414, 415, 422, 501))
"""The request itself is wrong. With 401, 403 and 404 it may be the token or the permission, which people mend."""


def problem_of(response: Response, timestamp: int) -> Problem:
    """What a status that is no success means."""
    if 300 <= response.status < 400:
        return Problem(
            f"status {response.status}: redirects are not followed; put the address it leads to", again=False
        )
    again = response.status not in _FINAL
    said = "".join(c if c.isprintable() else " " for c in response.body[:_SAID].decode("utf-8", "replace")).strip()
    reason = f"status {response.status}" + (f": {said}" if said else "")
    after_s = _after_s(response.headers, timestamp) if again else None
    return Problem(reason, again=again, after_s=after_s, limited=again and _is_limit(response, after_s))


def _is_limit(response: Response, after_s: float | None) -> bool:
    """Whether it is more than this request that the service has enough of. GitHub tells its secondary limits with 403,
    and not always when to come again."""
    if response.status == 429 or after_s is not None:
        return True
    return response.status == 403 and b"rate limit" in response.body[:MAX_LIMIT_BYTES].lower()


def _after_s(headers: Mapping[str, str], timestamp: int) -> float | None:
    """Retry-After (RFC 9110 section 10.2.3), or when GitHub's limit ends."""
    text = headers.get("retry-after", "").strip()
    after: float | None = None
    if text.isascii() and text.isdigit():
        after = float(text[:10])
    elif text:
        try:
            after = parsedate_to_datetime(text).timestamp() - timestamp
        except (ValueError, OverflowError):
            after = None
    elif headers.get("x-ratelimit-remaining") == "0" and headers.get("x-ratelimit-reset", "")[:11].isdigit():
        after = float(headers["x-ratelimit-reset"][:11]) - timestamp
    return None if after is None else min(max(after, 0.0), MAX_WAIT_S)


def decoded(response: Response, kind: type[Any]) -> Any:
    """JSON of an answer, a list or an object as asked. Raises Problem."""
    try:
        found = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(f"status {response.status} with a body that is no JSON", again=True) from None
    if not isinstance(found, kind):
        raise Problem(f"status {response.status} with JSON of another form than documented", again=True)
    return found


def json_request(method: str, url: str, headers: Mapping[str, str], body: Any = None) -> Request:
    """A request with a JSON body, or with none."""
    if body is None:
        return Request(method, url, {"accept": "application/json", **headers})
    kind = {"accept": "application/json", "content-type": "application/json", **headers}
    return Request(method, url, kind, msgspec.json.encode(body))
