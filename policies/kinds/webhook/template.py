# mypyc: interpreted, because its classes are of Jinja, and no request waits for it
"""Templates of request bodies: Jinja's language, as much of it as cannot harm.

Laws
- Whoever may write a policy does not get to run code: what is not on the lists below is refused when the document is
  put. There are no calls, no attributes of Python's objects, no assignments, no loops in loops.
- The work and the memory of a rendering are counted while it goes on, in characters that filters read and write, in
  those that are put out, and in parts of a loop's body; beyond a limit it ends with an error, the same on every host. A
  list is as large as what stands in it. A thread with a deadline around it is a second belt.
- The parts of all templates of a document are bounded together: reading them, and trying each on each type of event,
  takes the longest of all that a document may ask for.
- Names are known beforehand: a misspelt one is refused, with the line.

Jinja is imported when the first template is read, so that processes without one do not pay for it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from policies.kinds.webhook.event import COMMON, TYPES, Event, Value, sample

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes

MAX_SOURCE: Final = 16 * 1024
MAX_OUTPUT: Final = 64 * 1024
MAX_WORK: Final = 512 * 1024
"""Of one rendering."""
MAX_PARTS: Final = 2500
"""Of a template's source: what stands between braces, and within it. A document has as many in all."""
_MAX_DEPTH: Final = 40
_MAX_FILTERS: Final = 4
"""In one expression, at most so many around each other: some of them double what they are given."""
_WORK: Final = "work()"
"""The name in a template's context of what is left of its work. No template can say it."""
_PART: Final = 4
"""What a part costs, in characters."""
_COUNTED: Final = "counted()"
"""The name of the filter that counts a loop's turns."""
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


class _Work:
    """What is left of a rendering's work."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, units: int) -> None:
        """Raises BadTemplate."""
        self.left -= units
        if self.left < 0:
            raise BadTemplate(1, f"more work than {MAX_WORK} characters for one event")


class Template:
    """A compiled one."""

    __slots__ = ("_compiled", "parts")

    def __init__(self, source: str) -> None:
        """Raises BadTemplate."""
        if len(source) > MAX_SOURCE:
            raise BadTemplate(1, f"{len(source)} characters; a template has at most {MAX_SOURCE}")
        import jinja2

        try:
            tree = _environment().parse(source)
            self.parts = _count(tree)
            """How much there is to it."""
            if self.parts > MAX_PARTS:
                raise BadTemplate(1, f"{self.parts} parts (texts, values, filters and conditions); at most {MAX_PARTS}")
            _check(tree, 0, frozenset(), False)
            _count_turns(tree)
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


def check(source: str, content_type: str, names: Iterable[str], most: int = MAX_PARTS) -> int:
    """Try it on events of these types; returns its parts, of which there may be `most`. Raises BadTemplate; JSON has to
    come out as JSON whatever a program said."""
    template = Template(source)
    if template.parts > most:
        raise BadTemplate(
            1, f"{template.parts} parts, where the templates before it left {most} of {MAX_PARTS}; "
            "divide the hooks between documents, or say it in fewer"
        )  # fmt: skip
    for name in sorted(names):
        for text in ("", _NASTY):
            made = template.render(sample(name, text))
            if is_json(content_type):
                _check_json(made, name)
    return template.parts


def _check_json(made: str, name: str) -> None:
    try:
        json.loads(made)
    except ValueError as error:
        at = getattr(error, "lineno", 1)
        raise BadTemplate(
            at, f"makes no JSON of {name} ({error}); write values as {{{{ title | tojson }}}}, without quotes around"
        ) from None


def _context(event: Event) -> Mapping[str, Value | dict[str, Value] | _Work]:
    return {
        **{name: getattr(event, name) for name in NAMES if name not in ("effect", "data")},
        "effect": event.effect.value,
        "data": event.data,
        _WORK: _Work(),
    }


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    from jinja2 import pass_context
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

    environment = Environment(finalize=pass_context(_shown), keep_trailing_newline=False)
    environment.globals.clear()
    filters = {name: _metered(made) for name, made in environment.filters.items() if name in FILTERS}
    environment.filters = {**filters, _COUNTED: pass_context(_counted)}
    environment.tests = {name: made for name, made in environment.tests.items() if name in TESTS}
    return environment


def _shown(context: Any, value: object) -> object:
    context[_WORK].spend(_size(value))
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _metered(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it reads before it does, and for what it made."""
    from jinja2 import pass_context
    from jinja2.utils import _PassArg

    passed = _PassArg.from_obj(filter_)

    @pass_context
    def metered(context: Any, value: Any, *args: Any) -> Any:
        work = context[_WORK]
        work.spend(1 + _size(value) + sum(map(_size, args)))
        first = {None: (), _PassArg.context: (context,), _PassArg.eval_context: (context.eval_ctx,)}
        made = filter_(*first.get(passed, (context.environment,)), value, *args)
        work.spend(_size(made) if isinstance(made, str) else 0)
        return made

    return metered


def _size(value: object) -> int:
    """Of what a value is as text, about. Values come from JSON, and from lists in a template, which has few parts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + 4 + _size(inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return sum(2 + _size(inner) for inner in value)
    return 8


def _counted(context: Any, values: Iterable[Any], parts: int) -> Iterator[Any]:
    work = context[_WORK]
    for value in values:
        work.spend(parts)
        yield value


def _count(tree: nodes.Node) -> int:
    """All that is below a node; its lists have no list with more in it than stands there."""
    waiting, number = [tree], 0
    while waiting:
        number += 1
        waiting.extend(waiting.pop().iter_child_nodes())
    return number


def _count_turns(tree: nodes.Node) -> None:
    """Have each loop pay for each of its turns as much as there is in its body."""
    from jinja2 import nodes

    for loop in list(tree.find_all(nodes.For)):
        parts = nodes.Const(_PART * sum(map(_count, loop.body)), lineno=loop.lineno)
        loop.iter = nodes.Filter(loop.iter, _COUNTED, [parts], [], None, None, lineno=loop.lineno)


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

    if node.name not in FILTERS:
        raise BadTemplate(node.lineno, f"no filter {node.name[:60]!r}; there are: {', '.join(FILTERS)}")
    if (node.args or node.kwargs) and node.name not in _WITH_ARGUMENTS:
        raise BadTemplate(node.lineno, f"{node.name} takes nothing in brackets here")
    if _around(node) > _MAX_FILTERS:
        raise BadTemplate(node.lineno, f"more than {_MAX_FILTERS} filters around each other")


def _around(node: nodes.Node) -> int:
    """How many filters stand around each other in an expression, whatever lists and conditions are in between."""
    from jinja2 import nodes

    inner = max((_around(child) for child in node.iter_child_nodes()), default=0)
    return inner + isinstance(node, nodes.Filter)


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
