# mypyc: compiled
"""`audit`: whether a request is recorded, and what of it.

Law: documents of every level count together, and the strongest word of any of them does: what one of them records, no
other takes back, neither a more specific nor a wider one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, Final

from policies.kind import ANYWHERE, Scope
from policies.kinds.audit.document import Audit
from policies.language.duration import age_s
from policies.language.matching import template_regex

TIGHTEST: Final = Audit(requests="all")
"""Nobody knows what it should say: then everything is recorded."""


def compile(document: Audit, scope: Scope = ANYWHERE) -> Compiled:
    """Of one level."""
    templates = [(text, template_regex("$.templates", text)) for text in document.templates]
    return Compiled(
        everything=document.requests == "all",
        share=document.share,
        claims=frozenset(document.claims),
        headers=frozenset([name.lower() for name in document.headers]),
        hidden=frozenset(document.redact),
        templates=tuple(templates),
        keep_s=age_s(document.keep) if document.keep is not None else 0.0,
        sync=document.durability == "sync",
        denies=document.durability == "sync" and document.on_failure == "deny",
        by_default=document.keep is None,
    )


class Compiled:
    """What is wanted."""

    __slots__ = (
        "_share",
        "by_default",
        "claims",
        "denies",
        "everything",
        "headers",
        "hidden",
        "keep_s",
        "sync",
        "templates",
    )

    def __init__(
        self,
        everything: bool,
        share: float,
        claims: frozenset[str],
        headers: frozenset[str],
        hidden: frozenset[str],
        templates: Sequence[tuple[str, Any]],
        keep_s: float,
        sync: bool,
        denies: bool,
        by_default: bool,
    ) -> None:
        self.everything = everything
        """Also what is let in, or refused for another reason than who asks."""
        self._share = share
        self.claims = claims
        self.headers = headers
        """Lower case."""
        self.hidden = hidden
        self.templates = tuple(templates)
        self.keep_s = keep_s
        """0: no document says how long it is kept."""
        self.by_default = by_default
        """Whether it is kept as long as the agent's settings say, at least."""
        self.sync = sync
        """Whether a request waits for its record."""
        self.denies = denies
        """Whether one that cannot be recorded is refused."""

    @property
    def share(self) -> float:
        """Of what is let in."""
        return self._share if self.everything else 0.0

    def takes(self, let_in: bool, rng: random.Random) -> bool:
        """Whether a request is recorded that nobody denied; `let_in`: it was handed on."""
        if not self.everything:
            return False
        return not let_in or self._share >= 1.0 or rng.random() < self._share

    def path(self, path: str) -> str:
        """As what a path is recorded."""
        for text, pattern in self.templates:
            if pattern.fullmatch(path):
                return text
        return path


def together(levels: Iterable[Compiled]) -> Compiled:
    """What any of them wants; there is one at least."""
    each = list(levels)
    first = each[0]
    if len(each) == 1:
        return first
    shares = [level.share for level in each if level.everything]
    hidden = first.hidden
    for level in each:
        hidden &= level.hidden
    templates: list[tuple[str, Any]] = []
    if all(level.templates for level in each):
        for level in each:
            templates += level.templates
    return Compiled(
        everything=bool(shares),
        share=max(shares) if shares else 1.0,
        claims=frozenset().union(*[level.claims for level in each]),
        headers=frozenset().union(*[level.headers for level in each]),
        hidden=hidden,
        templates=templates,
        keep_s=max([level.keep_s for level in each]),
        sync=any(level.sync for level in each),
        denies=any(level.denies for level in each),
        by_default=any(level.by_default for level in each),
    )
