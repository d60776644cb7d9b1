"""Keys that are not understood, and why: for people. Pure.

Law: there is room for so many, and so long ones; of more it is said how many were met. An agent lists what a later
version writes without knowing what it is, and that may be every instance of the mesh.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 1000
MOST_OF_A_KEY: Final = 1024


class Notes(dict[str, str]):
    """Reasons, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.unlisted = 0
        """How often there was no room for one."""

    def note(self, key: str, reason: str | None) -> None:
        """What a key is not understood for; None: it is, or it is gone."""
        key = key[:MOST_OF_A_KEY]
        if reason is None:
            self.pop(key, None)
        elif len(self) < MOST or key in self:
            self[key] = reason
        else:
            self.unlisted += 1
