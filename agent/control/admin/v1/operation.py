"""One thing that the API does: its path, what it takes and gives, each by its type, and who does it.

    Operation("GET", "/services", "listServices", "The services …", ServicesQuery, Services, handler)

Laws
- What an operation takes is read into its types before it begins, and what is not understood is refused with its place:
  a misspelt filter would else show everything.
- What it gives is a typed struct, and the document of the API is made of the same types.
- Of an operation that is `fanned` another agent can be asked too: it changes nothing, and shows what the role view may
  see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.door import Answer, Door, Refuse, TooMuch, read_json, refusal
from agent.control.admin.v1.problem import ROOT, problem
from agent.control.host.rights import Right
from agent.visible import visible_json
from policies.language.document import convert
from policies.language.plain import Flaw

JSON: Final = "application/json"
D = TypeVar("D", bound=msgspec.Struct)


class Trouble(Exception):
    """Why an operation is not done."""

    def __init__(self, status: int, detail: str, path: str = "$") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.path = path


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing may be asked for."""


class Asked(NamedTuple):
    """What an operation is given."""

    path: Mapping[str, str]
    """What stands in its path, by name."""
    query: Any
    body: Any = None
    request: Request | None = None
    """As it came: by whom it is asked."""


class Operation(NamedTuple):
    """Of this version of the API."""

    method: str
    path: str
    """Below ROOT: /services/{service}."""
    name: str
    summary: str
    query: type[msgspec.Struct]
    gives: Any
    """A type of structs, or a list of such."""
    handle: Callable[[Asked], Awaitable[msgspec.Struct | Sequence[msgspec.Struct]]]
    takes: type[msgspec.Struct] | None = None
    """What the body is; None: there is none."""
    fanned: bool = False
    right: Right = Right.LOOK
    """Who may."""
    wide: bool = False
    """Whether all agents are asked, whatever its query says."""
    bulk: bool = False
    """Whether its answers may be so long that they are written in a thread; they have no tag."""
    watched: bool = True
    """Whether it may be watched (`admin/live`): it answers the same whoever looks."""
    made_of: Callable[[], Hashable] | None = None
    """Of what its answer is made, where that is cheap to tell: while it is the same, so is the answer. None: it has to
    be asked."""
    refuses: tuple[tuple[int, str], ...] = ()
    """Statuses that not every operation has, and what they say."""

    def door(self) -> Door:
        """For who may."""
        return Door(self.method, f"{ROOT}{self.path}", partial(self._answer, problem), self.right, problem)

    def door_before(self) -> Door:
        """The same as it was asked for before there was an API: without its root, by a body that does not say that it
        is JSON, and refused as all that is not of the API is."""
        return Door(self.method, self.path, partial(self._answer, _refused_before), self.right, _refused_before)

    async def _answer(self, refuse: Refuse, request: Request) -> Response:
        try:
            query = _query(request, self.query)
            body = await self._body(request, has_to_say_so=refuse is problem)
            told = await self.handle(Asked(request.path_params, query, body, request))
        except Flaw as flaw:
            return refuse(413 if isinstance(flaw, TooMuch) else 400, flaw.reason, flaw.path)
        except Trouble as trouble:
            return refuse(trouble.status, trouble.detail, trouble.path)
        if self.bulk:
            return Response(await trio.to_thread.run_sync(_written, told), media_type=JSON)
        return _answered(request, told)

    async def _body(self, request: Request, *, has_to_say_so: bool) -> Any:
        if self.takes is None:
            return None
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_to_say_so and kind != JSON:
            raise Trouble(415, f"the body is JSON, and has to say so: content-type: {JSON}")
        return convert(await read_json(request), self.takes)


def _refused_before(status: int, reason: str, path: str = "$", /) -> Response:
    """With the place in the words: they are all that a `shoal` of that time shows."""
    return refusal(status, reason if path == "$" else f"{path}: {reason}", path)


def read_query(told: Mapping[str, str], wanted: type[D]) -> D:
    """A query by its type, from text. Raises Flaw."""
    types = {field.name: field.type for field in msgspec.structs.fields(wanted)}
    return convert({name: _read(types.get(name), text) for name, text in told.items()}, wanted)


def _query(request: Request, wanted: type[D]) -> D:
    items = request.query_params.multi_items()
    told = dict(items)
    for name in told:
        if sum(other == name for other, _ in items) > 1:
            raise Flaw(f"$.{name}", "it stands there twice")
        if not wanted.__struct_fields__:
            raise Flaw(f"$.{name}", "nothing may be asked for here")
    return read_query(told, wanted)


def _read(kind: Any, text: str) -> Any:
    """A number, or yes and no, where one is wanted and stands there; else the text, which is refused by its type."""
    kind = getattr(kind, "__origin__", kind)
    if kind in (int, float):
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return text
    if kind is bool and text in ("true", "false"):
        return text == "true"
    return text


def _written(told: msgspec.Struct | Sequence[msgspec.Struct]) -> bytes:
    """In a thread."""
    return visible_json(msgspec.json.encode(told).decode("utf-8", "replace")).encode() + b"\n"


def _answered(request: Request, told: msgspec.Struct | Sequence[msgspec.Struct]) -> Response:
    """With a tag of what it says: who has it already is told so (RFC 9110, section 13.1.2)."""
    answer = Answer(msgspec.to_builtins(told))
    if request.method not in ("GET", "HEAD"):
        return answer
    tag = f'"{blake2b(bytes(answer.body), digest_size=12).hexdigest()}"'
    held = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in held or "*" in held:
        return Response(status_code=304, headers={"etag": tag})
    answer.headers["etag"] = tag
    answer.headers["cache-control"] = "no-cache"
    return answer
