"""Who puts a document, and why, written into it: `by` and `reason`, which every kind has.

Laws
- What a document says itself stays as it is. What is added is two lines, and comments and order stay.
- Nothing is added that a live agent does not know: it would refuse the whole document.
- It is what somebody says of himself. Nobody has proven it (docs/audit.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from agent.cli.documents import Source
from agent.findings.of_mesh.enforcing import Text, silent, unable

if TYPE_CHECKING:
    from registry.census import Census

FIELDS = ("by", "reason")


class Author(msgspec.Struct, frozen=True):
    """Of a change."""

    by: str
    """Empty: nobody knows."""
    reason: str = ""


def signed(census: Census, sources: Sequence[Source], author: Author) -> tuple[list[Source], str]:
    """The documents with who puts them; and why not with it, where that is so."""
    made = [msgspec.structs.replace(source, text=with_author(source.text, author)) for source in sources]
    texts = [Text(each.kind, each.service, each.text, each.watched) for each in made]
    old = {host for each in unable(census, texts) if set(_PATHS) & set(each.unknown) for host in each.hosts}
    old |= set(silent(census))
    if not old:
        return made, ""
    hosts = ", ".join(sorted(old)[:5])
    return list(sources), f"by and reason are left out of the documents: agents that do not know them live ({hosts})"


def anew(text: bytes, before: bytes) -> bytes:
    """A document without what the one before it said of who has put that, and why: another says it of this one. As it
    is where it says something else itself. JSON, where nothing can be taken out of it as it is written."""
    from policies.language.plain import Flaw, load

    try:
        now, then = load(text), load(before)
    except Flaw:
        return text
    if not isinstance(now, dict) or not isinstance(then, dict):
        return text
    old = [name for name in FIELDS if name in now and now[name] == then.get(name)]
    if not old:
        return text
    left = {name: value for name, value in now.items() if name not in old}
    shown = text.decode("utf-8", "replace")
    if shown.lstrip().startswith("{"):
        made = json.dumps(left, indent=2, ensure_ascii=False) + "\n"
    else:
        made = re.sub(rf"^([\"']?)(?:{'|'.join(old)})\1\s*:.*\n?(?:[ \t]+.*\n?)*", "", shown, flags=re.MULTILINE)
    try:
        same: Any = load(made.encode()) == left
        return made.encode() if same else json.dumps(left, indent=2).encode()
    except (Flaw, UnicodeEncodeError):
        return json.dumps(left, indent=2).encode()


_PATHS = tuple(f"$.{field}" for field in FIELDS)


def with_author(text: bytes, author: Author) -> bytes:
    """A document that says who puts it; as it is where it says that itself, or where nothing can be added to it."""
    from policies.language.plain import Flaw, load

    try:
        before = load(text)
    except Flaw:
        return text
    if not isinstance(before, dict):
        return text
    said = {"by": author.by[:256], "reason": author.reason}
    added = {name: value for name, value in said.items() if value and name not in before}
    if not added:
        return text
    made = _with(text.decode("utf-8", "replace"), added).encode()
    try:
        same: Any = load(made) == {**before, **added}
    except Flaw:
        same = False
    return made if same else text


def _with(text: str, added: dict[str, str]) -> str:
    """JSON within braces; YAML by lines of its own."""
    begins = text.lstrip()
    if begins.startswith("{"):
        fields = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in added.items())
        rest = begins[1:]
        comma = "" if rest.lstrip().startswith("}") else ", "
        return f"{text[: len(text) - len(begins)]}{{{fields}{comma}{rest}"
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in added.items())
    return f"{text.rstrip()}\n{lines}"
