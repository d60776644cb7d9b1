# mypyc: interpreted, because it reads keys and documents, and no request waits for that
"""Service names and the patterns that policy keys use.

A service is one to five DNS labels: ``pets.production``. ``pets/production`` is accepted wherever a person types a
name, and means the same. A pattern is an exact name, ``*.production`` (a namespace) or ``*`` (the mesh).

The one precedence rule of the mesh lives here: of the patterns that match a service the most specific one wins whole;
for kinds that guard all of them count (`policies.kind.Kind.every_level`).
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_LABELS = 5
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


def parse_service(text: str) -> str:
    """The canonical dotted form of a service name. Raises ValueError that says what would be right."""
    name = text.lower().replace("/", ".")
    labels = name.split(".")
    if not 1 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"{text!r} has {len(labels)} labels; a service has 1 to {MAX_LABELS}, such as pets.production")
    for label in labels:
        if not _LABEL.match(label):
            raise ValueError(
                f"{label!r} in {text[:80]!r} is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', "
                "beginning and ending with a letter or digit"
            )
    return name


def parse_pattern(text: str) -> str:
    """The canonical form of an exact name, ``*.namespace`` or ``*``. Raises ValueError."""
    if text == "*":
        return text
    if text.startswith(("*.", "*/")):
        return "*." + parse_service(text[2:])
    return parse_service(text)


@lru_cache(maxsize=16384)
def candidates(service: str) -> tuple[str, ...]:
    """Every pattern that matches a canonical service name, most specific first.

    >>> candidates("pets.production")
    ('pets.production', '*.production', '*')
    """
    labels = service.split(".")
    wild = ("*." + ".".join(labels[i:]) for i in range(1, len(labels)))
    return (service, *wild, "*")


def matches(pattern: str, service: str) -> bool:
    """Whether a canonical pattern covers a canonical service name."""
    return pattern == service or pattern == "*" or (pattern[:2] == "*." and service.endswith(pattern[1:]))
