"""Policy documents in files: which kind and service each is for, and its text just as it will stand in etcd.

A JSON file holds one document. A YAML file holds one or several: a line that begins with `---` separates them, and
nothing else can (YAML 1.2 section 9.1.2: not even a block scalar may contain such a line), so a document is cut out
whole, with its comments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.cli.failure import Exit, Failure
from agent.cli.printing import Printer

SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_SEPARATOR = re.compile(r"^---(?=\s|\Z)[^\S\n]*", re.MULTILINE)


class Source(msgspec.Struct, frozen=True):
    """One document as it stands in a file."""

    place: str
    """Where a person finds it: `pets.yaml`, or `pets.yaml[2]` for the second of several."""
    kind: str
    service: str
    """The pattern: `pets.production`, `*.production`, `*`; canonical."""
    text: bytes
    watched: bool = False
    """Whether it stands under `audits/`, where it takes nothing out of force: its mode says so, or who puts it."""


class Problem(msgspec.Struct, frozen=True):
    """Why a document cannot be used. Prints as `place:path: reason`; of a file, without a path."""

    place: str
    path: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, [f"{self.place}:{self.path}" if self.path else self.place, self.reason]))


def files_under(directory: Path) -> list[Path]:
    """Every policy file below a directory, hidden ones left out, in a stable order. Raises Failure."""
    if not directory.is_dir():
        raise Failure(f"{directory} is no directory; for single files there is `shoal policy put`", Exit.USAGE)
    found = [
        path
        for path in sorted(directory.rglob("*"))
        if path.suffix in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    ]
    if not found:
        raise Failure(f"{directory} holds no .yaml, .yml or .json file", Exit.USAGE)
    return found


def siblings(paths: Iterable[Path]) -> list[Path]:
    """Policy files that stand beside some, and are none of them, in a stable order; hidden ones are left out."""
    files = [path for path in paths if str(path) != "-"]
    given = {path.resolve() for path in files}
    found: list[Path] = []
    for directory in dict.fromkeys(path.parent for path in files):
        try:
            inside = sorted(directory.iterdir())
        except OSError:
            continue
        found += [each for each in inside if each.suffix in SUFFIXES and not each.name.startswith(".")]
    return [each for each in found if each.is_file() and each.resolve() not in given]


def read(paths: Iterable[Path], kind: str = "", service: str = "") -> tuple[list[Source], list[Problem]]:
    """Every document in the files, `-` being stdin, and what is wrong with the files themselves.

    `kind` and `service` stand in where a document does not name its own. Whether a document is valid is not asked here.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        except OSError as error:
            problems.append(Problem(str(path), "", error.strerror or str(error)))
            continue
        except UnicodeDecodeError as error:
            problems.append(Problem(str(path), "", f"not UTF-8: byte {error.start} is {error.object[error.start]:#x}"))
            continue
        found, wrong = read_text(str(path), text, kind, service)
        sources += found
        problems += wrong
    return sources, [*problems, *_repeated(sources)]


def read_text(place: str, text: str, kind: str = "", service: str = "") -> tuple[list[Source], list[Problem]]:
    """The same of a text that stands somewhere."""
    sources: list[Source] = []
    problems: list[Problem] = []
    for at, piece in _pieces(place, text):
        found = _identify(at, piece, kind, service)
        (problems if isinstance(found, Problem) else sources).append(found)  # type: ignore[arg-type]
    return sources, problems


def check(sources: Iterable[Source]) -> list[Problem]:
    """What an agent would say against the documents: nothing, or why each would be refused."""
    from agent.rego.proving import prove
    from policies.catalogue import parse
    from policies.language.document import Invalid

    parsed = [
        (source, prove(source.kind, source.service, parse(source.kind, source.service, source.text)))
        for source in sources
    ]
    return [Problem(source.place, found.path, found.reason) for source, found in parsed if isinstance(found, Invalid)]


def key(source: Source) -> str:
    """How people name it: `route/pets.production`; `audits/route/pets.production` where it is only watched."""
    return f"{'audits/' * source.watched}{source.kind}/{source.service}"


def _pieces(place: str, text: str) -> Iterator[tuple[str, str]]:
    if place.endswith(".json"):
        yield place, text
        return
    pieces = [piece for piece in _SEPARATOR.split(text) if _says_something(piece)]
    for number, piece in enumerate(pieces, start=1):
        yield (place if len(pieces) == 1 else f"{place}[{number}]"), piece.lstrip("\n")
    if not pieces:
        yield place, text


def _says_something(piece: str) -> bool:
    lines = (line.strip() for line in piece.splitlines())
    return any(line and not line.startswith(("#", "%", "...")) for line in lines)


def _identify(place: str, text: str, kind: str, service: str) -> Source | Problem:
    from policies.language.names import parse_pattern

    content = _content(place, text)
    if isinstance(content, Problem):
        return content
    kind = str(content.get("kind") or kind)
    service = str(content.get("service") or service)
    if not kind:
        return Problem(place, "$.kind", "missing: say which kind of policy it is, such as kind: route")
    if not service:
        return Problem(place, "$.service", "missing: say whom it is for, such as service: pets.production")
    try:
        pattern = parse_pattern(service)
    except ValueError as error:
        return Problem(place, "$.service", str(error))
    return Source(place, kind, pattern, text.encode(), content.get("mode") == "audit")


def _content(place: str, text: str) -> dict[str, Any] | Problem:
    """The mapping in a document, read just as an agent reads it, to learn whom it is for."""
    from policies.language.plain import Flaw, load

    try:
        content = load(text.encode())
    except Flaw as fault:
        return Problem(place, fault.path, fault.reason)
    if not isinstance(content, dict):
        return Problem(place, "$", "a policy is a mapping of fields, such as kind: route")
    return content


def _repeated(sources: Iterable[Source]) -> Iterator[Problem]:
    """One policy is one key: two documents for one would silently be decided by their order. One that is enforced and
    one that is only watched are two."""
    first: dict[str, Source] = {}
    for source in sources:
        earlier = first.setdefault(key(source), source)
        if earlier is not source:
            yield Problem(source.place, "$", f"{key(source)} stands in {earlier.place} already; one policy is one key")


def checked(
    printer: Printer, files: Sequence[Path], kind: str = "", service: str = "", *, watched: bool = False
) -> list[Source]:
    """The documents in the files, every one of them valid. `watched`: all of them are only watched, whatever they say.
    Raises Failure after saying what is wrong with which."""
    sources, problems = read(files, kind, service)
    if watched:
        sources = [msgspec.structs.replace(source, watched=True) for source in sources]
        problems += _repeated(sources)
    problems += check(sources)
    if problems:
        report(printer, problems)
        raise Failure(f"nothing was changed: {len(problems)} of the documents cannot be used")
    return sources


def report(printer: Printer, problems: Sequence[Problem]) -> None:
    """Say what is wrong with which."""
    for problem in problems:
        printer.note(str(problem))
