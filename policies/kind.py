"""What a kind of policy is to everybody else: its name, where requests meet it, its document and what that compiles to.

A kind is the folder `policies/kinds/<name>/`: `document.py` has the one Document, `decide.py` has `compile` where a
document is all that is needed. Both are imported when first asked for: nobody pays for a kind that he never meets.
What outlives a document (buckets, circuits, limiters) takes another one by its `configure`, and goes on counting.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from importlib import import_module
from keyword import iskeyword
from typing import Any, Final, NamedTuple

import msgspec

from policies.language.document import Document

KINDS_ROOM: Final = "policies.kinds"


class Side(Enum):
    """Which agent asks a policy."""

    CALLER = "caller"
    """The one beside the caller, about each request that leaves."""
    CALLEE = "callee"
    """The one beside the instance, about each request that arrives."""
    LEAVING = "leaving"
    """The one beside the caller, about each request that leaves the mesh; its documents are the caller's."""
    BOTH = "both"
    """Either: whether there is such a service for whoever calls, before all else; what is recorded, behind it."""
    ASIDE = "aside"
    """Control, beside all requests."""


class Scope(NamedTuple):
    """For what a document is compiled."""

    service: str = ""
    share: float = 1.0
    """This worker's part of what its agent may let pass, 0 to 1."""
    key: str = ""
    """The pattern that the document was put for."""


ANYWHERE: Final = Scope()


class Kind(msgspec.Struct, frozen=True):
    """One kind of policy."""

    name: str
    summary: str
    side: Side
    fails_closed: bool = False
    """Whether a refused document with no good one before it has to refuse requests rather than count as absent."""
    every_level: bool = False
    """Whether the documents of all levels (service, namespaces, mesh) apply together, so that a more specific one can
    only narrow; of any other kind the most specific one wins whole."""

    @property
    def folder(self) -> str:
        """Of its modules, under `policies/kinds/`: `import` could not be imported from."""
        return f"{self.name}_" if iskeyword(self.name) else self.name

    @property
    def document(self) -> type[Document]:
        """The type of its documents."""
        module = import_module(f"{KINDS_ROOM}.{self.folder}.document")
        found: type[Document]
        (found,) = (value for value in vars(module).values() if _is_its_document(value, module.__name__))
        return found

    @property
    def compile(self) -> Callable[[Any, Scope], Any] | None:
        """Makes a checked document ready to be asked; None where a document alone does not suffice."""
        return getattr(import_module(f"{KINDS_ROOM}.{self.folder}.decide"), "compile", None)

    @property
    def tightest(self) -> Document | None:
        """What counts for a document that nobody knows the content of: no document could let less pass. None: there is
        none, and no request passes."""
        made: Document | None = getattr(import_module(f"{KINDS_ROOM}.{self.folder}.decide"), "TIGHTEST", None)
        return made


def _is_its_document(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Document) and value.__module__ == module
