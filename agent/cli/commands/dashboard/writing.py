"""Documents in etcd, as `shoal policy get`, `put` and `rm` have them: written by the person, with his rights at etcd.

Laws
- What is put was checked as the commands check it, and is put in one transaction, which compares the revision that the
  person saw: who was overtaken is told so, and has changed nothing.
- `by` and `reason` are those of this change. What the document before said of itself is not said again of this one.
- etcd judges who may. What it refuses is refused, in its words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
import trio
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from agent.cli.commands.apply import Breaking, Meanwhile, applied
from agent.cli.commands.dashboard.answers import body_of, problem, told
from agent.cli.commands.policy import MAX_REASON, named_by
from agent.cli.documents import Problem, Source, check, read_text
from agent.cli.etcd_client import settings_of
from agent.cli.failure import Failure
from agent.cli.options import Options, who
from agent.cli.people.authorship import Author, anew, with_author
from policies.language.document import convert
from policies.language.names import parse_pattern
from policies.language.plain import Flaw
from registry.census import OtherMesh, around
from registry.etcd.store import EtcdStore
from registry.keys import Keys
from registry.store import Compare, Delete, KeyValue, Put, Refused, Store, StoreError

MAX_BYTES: Final = 1024 * 1024
TRIED_S: Final = 15.0
"""For which it is believed whether somebody may write."""
MOST_NAMED: Final = 8
"""Of other meshes."""
_NEVER: Final = 2**63 - 1
"""A revision that no key is of."""
T = TypeVar("T")
Mode = Literal["enforce", "audit"]


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes with a document that is removed, and with one that is put."""

    replaces: Annotated[int, Meta(ge=0)]
    """The revision that the person saw; 0: there was none."""
    mode: Mode = "enforce"
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""
    force: bool = False


class WantedText(Wanted, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A document."""

    text: str
    dry_run: bool = False
    """Whether nothing is put: it is only judged, and said what would be wrong with the mesh then."""


class Place(NamedTuple):
    """Of a document."""

    kind: str
    pattern: str
    mode: Mode
    key: str
    """In etcd."""


class Documents:
    """Of a mesh."""

    def __init__(self, options: Options, note: Callable[[str], None]) -> None:
        """`note`: told what was changed."""
        self._options = options
        self._note = note
        self._keys = Keys(options.mesh)
        self._tried: tuple[float, tuple[bool, str]] | None = None
        self._trying = trio.Lock()

    # Who may.

    async def may_write(self) -> tuple[bool, str]:
        """Whether etcd lets this person write documents, and how, or why not, in words. Nothing is written for it:
        etcd judges a transaction's rights before it looks whether its condition holds, and that never does."""
        async with self._trying:
            if self._tried is None or trio.current_time() - self._tried[0] > TRIED_S:
                self._tried = trio.current_time(), await self._try()
            return self._tried[1]

    async def _try(self) -> tuple[bool, str]:
        key, where = self._keys.policy("route", "*"), ", ".join(self._options.etcd)

        async def attempt(store: Store) -> None:
            await store.transact([Compare(key, mod_revision=_NEVER)], [Put(key, b"")])

        try:
            await self._asked(attempt)
        except Refused as error:
            return False, f"etcd at {where} does not let you write: {error}"
        except (StoreError, Failure, OSError, ValueError) as error:
            return False, f"etcd cannot be asked at {where}: {error}; `--etcd` says where it is"
        return True, f"with your own rights at etcd, {where}, in the mesh {self._options.mesh}"

    async def of_no_other_mesh(self) -> str:
        """Why it is not known that agents of etcd are of this mesh: they have written in it, and live in no other.
        Empty: it is known."""
        mesh, where = self._options.mesh, ", ".join(self._options.etcd)
        say = f"no agent was heard since this was started, and of which mesh it is etcd at {where} cannot say"

        async def look(store: Store) -> tuple[bool, dict[str, OtherMesh], str]:
            return await store.get(self._keys.layout) is not None, *(await around(store, mesh))[1:]

        try:
            begun, others, not_seen = await self._asked(look)
        except (StoreError, Failure, OSError, ValueError) as error:
            not_seen, begun, others = str(error), False, {}
        living = sorted(name for name, each in others.items() if each.agents)
        if not_seen:
            why = not_seen
        elif living:
            why = f"agents live in {', '.join(living[:MOST_NAMED])}, too"
        elif not begun:
            why = f"no agent was ever in {mesh}"
        else:
            return ""
        return f"{say}: {why}. `shoal --mesh {mesh} policy put` takes your word for it"

    # What is asked.

    async def get(self, request: Request) -> Response:
        """As it stands."""
        return await self._answered(request, self._get)

    async def put(self, request: Request) -> Response:
        """A document in another's place, or a new one."""
        return await self._answered(request, self._put)

    async def remove(self, request: Request) -> Response:
        """Away with it."""
        return await self._answered(request, self._remove)

    async def _answered(self, request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await handle(request)
        except Flaw as flaw:
            return problem(400, flaw.reason, flaw.path)
        except Meanwhile as failure:
            return problem(409, failure.message)
        except Breaking as failure:
            return problem(400, failure.message, "$.force")
        except Failure as failure:
            return problem(400, failure.message)
        except Refused as error:
            return problem(403, f"etcd refused: {error}")
        except (StoreError, OSError, ValueError) as error:
            return problem(503, f"etcd cannot be asked at {', '.join(self._options.etcd)}: {error}")

    async def _get(self, request: Request) -> Response:
        place = self._place(request, request.query_params.get("mode", "enforce"))
        found = await self._asked(lambda store: store.get(place.key))
        if found is None:
            return problem(404, f"no {_named(place)} in the mesh {self._options.mesh}")
        said = {"kind": place.kind, "pattern": place.pattern, "mode": place.mode}
        return told({"text": found.value.decode("utf-8", "replace"), "revision": found.mod_revision, **said})

    async def _put(self, request: Request) -> Response:
        wanted = await _body(request, WantedText)
        place = self._place(request, wanted.mode)
        source = await trio.to_thread.run_sync(_checked, place, wanted.text)
        notes: list[str] = []

        async def put(store: Store) -> tuple[int, list[str]]:
            stands = await _as_seen(store, place, wanted.replaces)
            text = anew(source.text, stands.value) if stands is not None else source.text
            done, revision, warned = await applied(
                store,
                self._options.mesh,
                [msgspec.structs.replace(source, text=text)],
                False,
                wanted.dry_run,
                wanted.force,
                author=Author(who(self._options.mesh), wanted.reason),
                note=notes.append,
                warn=None,
                seen={place.key: wanted.replaces},
            )
            unchanged = done.unchanged and stands is not None
            return (stands.mod_revision if unchanged and stands is not None else revision), [*notes, *warned.lines]

        revision, warnings = await self._asked(put)
        if not wanted.dry_run:
            self._note(f"put {_named(place)} at revision {revision}")
        return told({"revision": revision, "warnings": warnings})

    async def _remove(self, request: Request) -> Response:
        wanted = await _body(request, Wanted)
        place = self._place(request, wanted.mode)
        author = Author(who(self._options.mesh), wanted.reason)

        async def remove(store: Store) -> int:
            stands = await _as_seen(store, place, wanted.replaces)
            if stands is None:
                raise Flaw("$.replaces", f"there is no {_named(place)}")
            if place.kind == "rego" and place.mode == "enforce" and not wanted.force:
                named = await named_by(store, self._options.mesh, place.pattern)
                if named:
                    raise Breaking(f"{_named(place)} is named by {named}, which agents would refuse without it")
            revision = stands.mod_revision
            if wanted.reason:
                # The audit log has the words of who removes it from the document itself, which says them first.
                text = with_author(anew(stands.value, stands.value), author)
                revision = await _compared(store, place.key, revision, Put(place.key, text))
            return await _compared(store, place.key, revision, Delete(place.key))

        revision = await self._asked(remove)
        self._note(f"removed {_named(place)} at revision {revision}")
        return told({"revision": revision})

    # How.

    def _place(self, request: Request, mode: str) -> Place:
        """Raises Flaw."""
        kind, pattern = request.path_params["kind"], request.path_params["pattern"]
        if mode not in ("enforce", "audit"):
            raise Flaw("$.mode", "enforce or audit")
        try:
            pattern = parse_pattern(pattern)
            key = self._keys.audit(kind, pattern) if mode == "audit" else self._keys.policy(kind, pattern)
        except ValueError as error:
            raise Flaw("$", str(error)) from None
        return Place(kind, pattern, "audit" if mode == "audit" else "enforce", key)

    async def _asked(self, question: Callable[[Store], Awaitable[T]]) -> T:
        """With the rights of now: a login may have been renewed. Raises StoreError, Failure, OSError, ValueError."""
        settings = await trio.to_thread.run_sync(settings_of, self._options)
        async with EtcdStore.open(settings) as store:
            return await question(store)


def _named(place: Place) -> str:
    return f"{'audits/' * (place.mode == 'audit')}{place.kind}/{place.pattern}"


def _checked(place: Place, text: str) -> Source:
    """One document, for that place, as agents take it. Raises Flaw."""
    sources, problems = read_text(_named(place), text, place.kind, place.pattern)
    if not problems and len(sources) != 1:
        raise Flaw("$.text", f"{len(sources)} documents; one is put at a time")
    if not problems:
        (source,) = sources
        for field, said, wanted in (("kind", source.kind, place.kind), ("service", source.service, place.pattern)):
            if said != wanted:
                raise Flaw(f"$.text.{field}", f"it says {said}, and is put for {wanted}")
        if source.watched and place.mode == "enforce":
            raise Flaw("$.text.mode", "it says audit: put it as such, beside the one that is in force")
        source = msgspec.structs.replace(source, watched=place.mode == "audit")
        problems = check([source])
    if problems:
        raise _flaw(problems[0])
    return source


def _flaw(problem: Problem) -> Flaw:
    return Flaw(f"$.text{problem.path.removeprefix('$')}", problem.reason)


async def _as_seen(store: Store, place: Place, replaces: int) -> KeyValue | None:
    """What stands there, which is what the person saw. Raises Meanwhile."""
    stands = await store.get(place.key)
    revision = stands.mod_revision if stands is not None else 0
    if revision != replaces:
        now = f"revision {revision} stands there" if revision else "there is none any more"
        raise Meanwhile(f"{_named(place)}: somebody has changed it meanwhile: {now}, and you saw {replaces or 'none'}")
    return stands


async def _compared(store: Store, key: str, revision: int, what: Put | Delete) -> int:
    outcome = await store.transact([Compare(key, mod_revision=revision)], [what])
    if not outcome.succeeded:
        raise Meanwhile("somebody has changed it meanwhile; look, and do it again")
    return outcome.revision


D = TypeVar("D", bound=Wanted)


async def _body(request: Request, wanted: type[D]) -> D:
    """Raises Flaw."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Flaw("$", "the body is JSON, and has to say so: content-type: application/json")
    body = await body_of(request, MAX_BYTES)
    if body is None:
        raise Flaw("$", f"more than {MAX_BYTES} bytes")
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Flaw("$", f"not JSON: {error}") from None
    return convert(value, wanted)
