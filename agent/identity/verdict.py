# mypyc: interpreted, because it is made once for a handshake
"""What comes of looking at who somebody is. Without libraries: workers load it also where nothing is proven."""

from __future__ import annotations

from typing import Final, NamedTuple

from agent.identity.revocations import Shown
from agent.identity.spiffe import SpiffeId

BY_TOKEN: Final = "oidc:"  # noqa: S105 - a name begins so
"""What the names of people begin with whom a provider vouches for."""


class Identity(NamedTuple):
    """Whom a chain proves."""

    id: SpiffeId
    host: str
    """The host that its certificate was made for; empty where it does not say."""
    serial: int
    ends_s: float
    """When its chain ends: a connection ends then, too."""
    shown: tuple[Shown, ...]
    """Each of its certificates, for revocations that come later."""


class Visitor(NamedTuple):
    """A person who asks an agent over the network."""

    person: str
    operates: bool
    """Else he may look, and change nothing."""
    more: str = ""
    """What would give him more, with `{role}` in it; empty: his role in the mesh."""
    taps: bool = False
    """Whether he may look into live requests, as who operates may."""

    @property
    def role(self) -> str:
        """What he is."""
        return "operate" if self.operates else "tap" if self.taps else "view"


class Refused(NamedTuple):
    """Why somebody is not believed, or gets nothing, in words that may be told to him."""

    reason: str
