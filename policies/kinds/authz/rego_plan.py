"""What a compiled policy does, by its plan (the intermediate representation of Open Policy Agent,
openpolicyagent.org/docs/ir): what it reads of a request, and what OPA would refuse and our compiler lets pass. Pure.

Laws
- What is compiled says the same each time that it is asked the same: nothing of chance, of the network or of the host
  is called. What calls the clock is told, since what it answers does not count for long.
- A name that nobody defines is refused. Our compiler takes it for undefined, and `not` of it for true.
- Nothing calls itself. A plan that says anything that is not known here is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from policies.kinds.authz.input import as_read
from policies.language.plain import Flaw, below

TIMED: Final = frozenset({"time.now_ns", "io.jwt.decode_verify"})
_HOST: Final = "tells what this host is, or says something else each time"
_REFUSED: Final = {
    "opa.runtime": _HOST,
    "rand.intn": _HOST,
    "uuid.rfc4122": _HOST,
    "io.jwt.encode_sign": _HOST,
    "io.jwt.encode_sign_raw": _HOST,
    "http.send": "asks the network; ask an OPA of your own (opa)",
    "net.lookup_ip_addr": "asks the network; ask an OPA of your own (opa)",
}

# By the kind of a statement: locals and operands that it looks at, and locals that it gives a value.
_STATEMENTS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "ArrayAppendStmt": (("value", "array"), ()),
    "AssignIntStmt": ((), ("target",)),
    "AssignVarOnceStmt": (("source",), ("target",)),
    "AssignVarStmt": (("source",), ("target",)),
    "BlockStmt": ((), ()),
    "BreakStmt": ((), ()),
    "CallStmt": (("args",), ("result",)),
    "DotStmt": (("source", "key"), ("target",)),
    "EqualStmt": (("a", "b"), ()),
    "IsArrayStmt": (("source",), ()),
    "IsDefinedStmt": (("source",), ()),
    "IsObjectStmt": (("source",), ()),
    "IsSetStmt": (("source",), ()),
    "IsUndefinedStmt": (("source",), ()),
    "LenStmt": (("source",), ("target",)),
    "MakeArrayStmt": ((), ("target",)),
    "MakeNullStmt": ((), ("target",)),
    "MakeNumberIntStmt": ((), ("target",)),
    "MakeNumberRefStmt": ((), ("target",)),
    "MakeObjectStmt": ((), ("target",)),
    "MakeSetStmt": ((), ("target",)),
    "NopStmt": ((), ()),
    "NotEqualStmt": (("a", "b"), ()),
    "NotStmt": ((), ()),
    "ObjectInsertOnceStmt": (("key", "value", "object"), ()),
    "ObjectInsertStmt": (("key", "value", "object"), ()),
    "ObjectMergeStmt": (("a", "b"), ("target",)),
    "ResetLocalStmt": ((), ("target",)),
    "ResultSetAddStmt": (("value",), ()),
    "ReturnLocalStmt": (("source",), ()),
    "ScanStmt": (("source",), ("key", "value")),
    "SetAddStmt": (("value", "set"), ()),
    "WithStmt": (("local", "value"), ()),
}
_MOST_STEPS: Final = 2
"""Into `input`: what is told of a request is no deeper."""


class Analysis(NamedTuple):
    """Of a plan that may be used."""

    reads: tuple[str, ...]
    """As `policies.kinds.authz.input` has them."""
    timed: bool
    """Whether it looks at the clock."""


class _Statement(NamedTuple):
    kind: str
    said: dict[str, Any]
    place: str


def analyse(plan: Any, query: str, data: Any, path: str) -> Analysis:
    """`data`: what the modules see besides themselves; `path`: of `rego` in its document. Raises Flaw, which tells
    where (`$.rego.modules["x.rego"]:3:5`)."""
    functions = {each["name"]: each for each in plan["funcs"]["funcs"]}
    wanted = f"g0.{query}"
    if wanted not in functions:
        raise Flaw(below(path, "query"), f"no module defines {query}")
    for each in functions.values():
        _check_data(each["path"], data, path)
    known = {each["name"] for each in plan["static"]["builtin_funcs"]}
    names = [each["value"] for each in plan["static"]["strings"]]
    files = [each["value"] for each in plan["static"]["files"]]
    found: set[str] = set()
    calls: dict[str, dict[str, str]] = {}
    for name, function in functions.items():
        statements = list(_statements(function["blocks"], files, below(path, "modules"), below(path, "modules")))
        calls[name] = _calls(statements, functions, known)
        _check_assigned(statements, function["params"])
        found |= _reads(statements, function["params"], functions, names)
    _check_circles(calls)
    return Analysis(as_read(found), bool(TIMED & {callee for each in calls.values() for callee in each}))


def _check_data(steps: list[str], data: Any, path: str) -> None:
    place, found = below(path, "data"), data
    for step in steps[1:]:
        if not isinstance(found, dict):
            break
        if step not in found:
            return
        place, found = below(place, step), found[step]
    raise Flaw(place, f"the modules define data.{'.'.join(steps[1:])}; data has to stand elsewhere")


def _statements(blocks: Any, files: list[str], modules: str, place: str) -> Iterator[_Statement]:
    for block in blocks:
        for each in block["stmts"]:
            kind, said = each["type"], each["stmt"]
            if "row" in said and said.get("file", -1) < len(files):
                place = f"{below(modules, files[said['file']])}:{said['row'] + 1}:{said['col'] + 1}"
            if kind not in _STATEMENTS:
                raise Flaw(place, f"it comes to {kind[:40]}, which is not evaluated here: name the rule itself")
            yield _Statement(kind, said, place)
            inner = said.get("blocks") or ([said["block"]] if "block" in said else [])
            yield from _statements(inner, files, modules, place)


def _locals(said: dict[str, Any], fields: tuple[str, ...]) -> Iterator[int]:
    for name in fields:
        for operand in said[name] if isinstance(said[name], list) else [said[name]]:
            if isinstance(operand, dict):
                if operand["type"] == "local":
                    yield operand["value"]
            elif isinstance(operand, int):
                yield operand


def _calls(statements: list[_Statement], functions: dict[str, Any], known: set[str]) -> dict[str, str]:
    """Whom it calls, and where."""
    found: dict[str, str] = {}
    for kind, said, place in statements:
        if kind == "CallStmt":
            name = said["func"]
            if name in _REFUSED:
                raise Flaw(place, f"{name}() {_REFUSED[name]}")
            if name not in functions and name not in known:
                raise Flaw(place, f"{name}() is defined nowhere, and is no function that is known here")
            found.setdefault(name, place)
    return found


def _check_assigned(statements: list[_Statement], parameters: list[int]) -> None:
    given = {0, 1, *parameters}
    for kind, said, _ in statements:
        given.update(_locals(said, _STATEMENTS[kind][1]))
    for kind, said, place in statements:
        for local in _locals(said, _STATEMENTS[kind][0]):
            if local not in given:
                raise Flaw(place, "a variable that has no value there (unsafe), so that it would say nothing")


def _check_circles(calls: dict[str, dict[str, str]]) -> None:
    done: set[str] = set()
    for name in calls:
        way: list[str] = []
        waiting: list[tuple[str, bool]] = [(name, False)]
        while waiting:
            current, over = waiting.pop()
            if over:
                way.pop()
                done.add(current)
                continue
            if current in done:
                continue
            way.append(current)
            waiting.append((current, True))
            for callee, place in calls.get(current, {}).items():
                if callee in way:
                    raise Flaw(place, f"{callee.removeprefix('g0.')} calls itself")
                if callee in calls and callee not in done:
                    waiting.append((callee, False))


def _reads(
    statements: list[_Statement], parameters: list[int], functions: dict[str, Any], names: list[str]
) -> set[str]:
    """Places in `input`, with dots between their steps; empty: all of it."""
    places: dict[int, set[tuple[str, ...]]] = {parameters[0] if parameters else 0: {()}}
    found: set[tuple[str, ...]] = set()
    before = -1
    while before != sum(map(len, places.values())):  # what is assigned below may be looked at above, in a loop
        before = sum(map(len, places.values()))
        for kind, said, _ in statements:
            _follow(kind, said, places, found, functions, names)
    return {".".join(place) for place in found}


def _follow(
    kind: str,
    said: dict[str, Any],
    places: dict[int, set[tuple[str, ...]]],
    found: set[tuple[str, ...]],
    functions: dict[str, Any],
    names: list[str],
) -> None:
    looked = list(_locals(said, _STATEMENTS[kind][0]))
    if kind in ("AssignVarStmt", "AssignVarOnceStmt"):
        for local in looked:
            places.setdefault(said["target"], set()).update(places.get(local, set()))
        return
    if kind == "WithStmt":
        looked = looked[1:]  # what is put in place of input is none of it
    if kind == "CallStmt" and said["func"] in functions:
        looked = looked[1:]  # each of ours is handed input, of which it is told itself what it reads
    if kind == "DotStmt" and said["source"].get("type") == "local":
        key = said["key"]
        for place in places.get(said["source"]["value"], set()):
            if key["type"] == "string_index" and len(place) < _MOST_STEPS:
                places.setdefault(said["target"], set()).add((*place, names[key["value"]]))
            else:
                found.add(place)
        looked = [key["value"]] if key["type"] == "local" else []
    for local in looked:
        found |= places.get(local, set())
