"""Two ways to write one key: `route/pets/production` and `route/pets.production` are one policy.

Law: what is in force does not depend on who saw what first. The canonical spelling wins as long as it stands; without
it the other spelling that was written last.
"""

from __future__ import annotations

from registry.keys import Key
from registry.store import Change


class Aliases:
    """The keys that stand in another spelling than the canonical one; there are hardly ever any."""

    def __init__(self) -> None:
        self._others: dict[Key, dict[str, Change]] = {}
        self._canonical: dict[Key, bool] = {}
        """Of the keys in `_others` only: whether the canonical spelling stands too."""

    def effective(self, key: Key, canonical: str, change: Change, *, held: bool) -> Change | None:
        """What a change means for what it names: another change, or None when it does not matter.

        `held`: whether something stands under the key already.
        """
        others = self._others.get(key)
        if change.key == canonical:
            if others is None:
                return change
            self._canonical[key] = change.value is not None
            return change if change.value is not None else _last(others)
        if others is None:
            if change.value is None:
                return None
            others = self._others[key] = {}
            self._canonical[key] = held
        return self._other(key, others, change)

    def _other(self, key: Key, others: dict[str, Change], change: Change) -> Change | None:
        if change.value is None:
            others.pop(change.key, None)
        else:
            others[change.key] = change
        shadowed = self._canonical[key]
        if not others:
            del self._others[key], self._canonical[key]
        if shadowed:
            return None
        return _last(others) if others else change

    def shadowed(self) -> list[tuple[str, str]]:
        """Keys that are not in force because another spelling of them is, and why."""
        return [
            (raw, "another spelling of this key is in force")
            for key, others in self._others.items()
            for raw, change in others.items()
            if self._canonical[key] or change is not _last(others)
        ]


def _last(others: dict[str, Change]) -> Change:
    return max(others.values(), key=lambda change: (change.revision, change.key))
