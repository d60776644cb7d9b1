"""Where a secret is found: never in a document, but on the hosts of the agents, in places that are kept for it."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.language.plain import Flaw

_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_ENV: Final = re.compile(r"SHOAL_HOOK_[A-Z0-9_]{1,100}\Z")


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the agents find a secret; exactly one field."""

    file: Annotated[str, Meta(description="Name of a file in the agents' directory of secrets")] = ""
    env: Annotated[str, Meta(description="Name of a variable in the agents' environment, SHOAL_HOOK_...")] = ""

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if bool(self.file) == bool(self.env):
            raise Flaw(path, "exactly one of file and env")
        if self.file and not _FILE.match(self.file):
            raise Flaw(f"{path}.file", "a name without slashes; it is looked for in the agents' directory of secrets")
        if self.env and not _ENV.match(self.env):
            raise Flaw(f"{path}.env", f"{self.env[:60]!r} is none that hooks may read; those begin with SHOAL_HOOK_")
