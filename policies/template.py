"""Templates of request bodies: Jinja's language, as much of it as cannot harm.

Laws
- Whoever may write a policy does not get to run code: what is not on the lists below is refused when the document is
  put. There are no calls, no attributes of Python's objects, no assignments, no loops in loops.
- So the work and the memory are bounded by the template's size times the event's, and the output is cut off at a limit
  by an error. A thread with a deadline around it is a second belt.
- Names are known beforehand: a misspelt one is refused, with the line.

Jinja is imported when the first template is read, so that processes without one do not pay for it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from policies.event import COMMON, TYPES, Event, Value, sample

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes

MAX_SOURCE: Final = 16 * 1024
MAX_OUTPUT: Final = 64 * 1024
_MAX_DEPTH: Final = 40
_MAX_FILTERS: Final = 4
"""In a row: some of them double what they are given."""
NAMES: Final = ("id", "type", "name", "title", "effect", "subject", "time", "mesh", "service", "key", "link", "data")
FIELDS: Final = frozenset((*COMMON, *(field for kind in TYPES for field in kind.data)))
LOOP: Final = ("first", "last", "index", "index0")
_WITH_ARGUMENTS: Final = ("d", "default", "truncate")
"""An indent of tojson, or a precision of round, could be a thousand million."""
_WITHOUT: Final = ("e", "escape", "first", "items", "last", "length", "lower", "string", "tojson", "trim", "upper")
FILTERS: Final = (*_WITH_ARGUMENTS, *_WITHOUT, "urlencode")
TESTS: Final = ("defined", "eq", "equalto", "false", "ge", "gt", "in", "le", "lt", "ne", "none", "number", "string")
_STATEMENTS: Final = ("Template", "Output", "TemplateData", "If", "For")
_LOOKING_UP: Final = ("Name", "Getattr", "Getitem", "Filter", "Test", "Keyword", "Const", "List", "Tuple")
_DECIDING: Final = ("Compare", "Operand", "And", "Or", "Not", "CondExpr")
_TAGS: Final = frozenset((*_STATEMENTS, *_LOOKING_UP, *_DECIDING))
_NASTY: Final = ' "quoted" back\\slash <&>\' {brace} \n line é 💥'
"""What a program might say, for the trial of a template that claims to make JSON."""


class BadTemplate(ValueError):
    """What is wrong with a template, and on which line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line
        self.what = what


class Template:
    """A compiled one."""

    __slots__ = ("_compiled",)

    def __init__(self, source: str) -> None:
        """Raises BadTemplate."""
        if len(source) > MAX_SOURCE:
            raise BadTemplate(1, f"{len(source)} characters; a template has at most {MAX_SOURCE}")
        import jinja2

        try:
            tree = _environment().parse(source)
            _check(tree, 0, frozenset(), False)
            self._compiled = _environment().from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise BadTemplate(error.lineno, error.message or "not understood") from None
        except BadTemplate:
            raise
        except ValueError as error:
            raise BadTemplate(1, str(error)) from None
        except (RecursionError, MemoryError, SyntaxError):
            raise BadTemplate(1, "nested too deeply") from None

    def render(self, event: Event) -> str:
        """The text for an event. Raises BadTemplate when it does not work for this one, or becomes too long."""
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._compiled.generate(_context(event)):
                length += len(piece)
                if length > MAX_OUTPUT:
                    raise BadTemplate(1, f"makes more than {MAX_OUTPUT} characters")
                pieces.append(piece)
        except BadTemplate:
            raise
        except Exception as error:  # whatever its filters and comparisons raise is the template's fault
            raise BadTemplate(_line(error), f"{type(error).__name__}: {error}"[:300]) from None
        return "".join(pieces)


def is_json(content_type: str) -> bool:
    """Whether a body of that type has to be JSON."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def check(source: str, content_type: str, names: Iterable[str]) -> None:
    """Try it on events of these types. Raises BadTemplate; JSON has to come out as JSON whatever a program said."""
    template = Template(source)
    for name in sorted(names):
        for text in ("", _NASTY):
            made = template.render(sample(name, text))
            if is_json(content_type):
                _check_json(made, name)


def _check_json(made: str, name: str) -> None:
    try:
        json.loads(made)
    except ValueError as error:
        at = getattr(error, "lineno", 1)
        raise BadTemplate(
            at, f"makes no JSON of {name} ({error}); write values as {{{{ title | tojson }}}}, without quotes around"
        ) from None


def _context(event: Event) -> Mapping[str, Value | dict[str, Value]]:
    return {
        **{name: getattr(event, name) for name in NAMES if name not in ("effect", "data")},
        "effect": event.effect.value,
        "data": event.data,
    }


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        """Only what stands in a dict can be reached, and what does not stand there is empty."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, LoopContext):
                return getattr(obj, attribute) if attribute in LOOP else ""
            return obj.get(attribute, "") if isinstance(obj, dict) else ""

        def getitem(self, obj: Any, argument: Any) -> Any:
            return obj.get(argument, "") if isinstance(obj, dict) else ""

    environment = Environment(finalize=_shown, keep_trailing_newline=False)
    environment.globals.clear()
    environment.filters = {name: made for name, made in environment.filters.items() if name in FILTERS}
    environment.tests = {name: made for name, made in environment.tests.items() if name in TESTS}
    return environment


def _shown(value: object) -> object:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _check(node: nodes.Node, depth: int, local: frozenset[str], looped: bool) -> None:
    """That a node, and all below it, is on the lists."""
    from jinja2 import nodes

    if type(node).__name__ not in _TAGS:
        raise BadTemplate(
            node.lineno or 1, f"{_called(node)} is nothing for a template here; it has {{{{ }}}}, if and for"
        )
    if depth > _MAX_DEPTH:
        raise BadTemplate(node.lineno, "nested too deeply")
    if isinstance(node, nodes.Name) and node.ctx == "load" and node.name not in local:
        _check_known(node.name, NAMES, "no name", node.lineno)
    elif isinstance(node, nodes.Getattr | nodes.Getitem):
        _check_field(node)
    elif isinstance(node, nodes.Filter):
        _check_filters(node)
    elif isinstance(node, nodes.Test) and node.name not in TESTS:
        raise BadTemplate(node.lineno, f"no test {node.name[:60]!r}; there are: {', '.join(TESTS)}")
    elif isinstance(node, nodes.For):
        if looped or node.recursive:
            raise BadTemplate(node.lineno, "a loop in a loop")
        _check(node.iter, depth + 1, local, False)
        local, looped = local | set(_targets(node.target)) | {"loop"}, True
    for child in node.iter_child_nodes(exclude=("iter",) if isinstance(node, nodes.For) else None):
        _check(child, depth + 1, local, looped)


def _check_field(node: nodes.Getattr | nodes.Getitem) -> None:
    from jinja2 import nodes

    field = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
    if not isinstance(node.node, nodes.Name) or not isinstance(field, str):
        raise BadTemplate(node.lineno, "only data has fields, such as data.reason")
    if node.node.name == "loop":
        return _check_known(field, LOOP, "no field of a loop", node.lineno)
    if node.node.name != "data":
        raise BadTemplate(node.lineno, f"{node.node.name} has no fields; only data has, such as data.reason")
    _check_known(field, sorted(FIELDS), "no data field", node.lineno)


def _check_filters(node: nodes.Filter) -> None:
    from jinja2 import nodes

    if node.name not in FILTERS:
        raise BadTemplate(node.lineno, f"no filter {node.name[:60]!r}; there are: {', '.join(FILTERS)}")
    if (node.args or node.kwargs) and node.name not in _WITH_ARGUMENTS:
        raise BadTemplate(node.lineno, f"{node.name} takes nothing in brackets here")
    below: Any = node
    for _ in range(_MAX_FILTERS + 1):
        if not isinstance(below, nodes.Filter):
            return
        below = below.node
    raise BadTemplate(node.lineno, f"more than {_MAX_FILTERS} filters in a row")


def _check_known(name: str, known: Iterable[str], what: str, line: int) -> None:
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(name[:60], known, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise BadTemplate(line, f"{what} {name[:60]!r}{meant}; there are: {', '.join(known)}")


def _targets(node: Any) -> Iterator[str]:
    from jinja2 import nodes

    for found in [node, *node.find_all(nodes.Name)]:
        if isinstance(found, nodes.Name):
            yield found.name


def _called(node: nodes.Node) -> str:
    words = {"Call": "a call", "Assign": "set", "AssignBlock": "set", "Concat": "~", "CallBlock": "call"}
    name = type(node).__name__
    return words.get(name, name.lower())


def _line(error: BaseException) -> int:
    line, frame = 1, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
