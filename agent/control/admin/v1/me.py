"""Who asks, as this agent sees it, and what he may: by what a page shows what can be done, and what says why not."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from agent.control.admin.door import BY_COOKIE, STRANGER, peer_of, visitor_of
from agent.control.admin.login import LOGIN, LOGOUT
from agent.control.admin.v1.operation import Asked, NoQuery, Operation
from agent.control.admin.v1.types import Base
from agent.control.host.rights import Rights
from agent.identity.verdict import BY_TOKEN, Visitor
from agent.settings.document import Settings

WRITE: Final = "agents write no documents: `shoal dashboard` and `shoal policy put` do, with your own rights at etcd"


class May(Base, frozen=True, kw_only=True):
    """What who asks may do."""

    read: Annotated[bool, Meta(description="What requests said")]
    tap: Annotated[bool, Meta(description="Look into live requests")]
    operate: Annotated[bool, Meta(description="Have the agent do something")]
    write: Annotated[bool, Meta(description="Put and remove documents, here")]


class Me(Base, frozen=True, kw_only=True):
    """Who asks."""

    who: Annotated[str, Meta(description="`person ann`, or `user ann (uid 1000)`; empty: nobody knows")]
    by_way_of: Annotated[Literal["socket", "people", "admin", "oidc"], Meta(description="oidc: by a token")]
    role: Annotated[
        Literal["none", "look", "view", "tap", "operate"],
        Meta(description="look: what is had on the admin port; none: not even that, before a login"),
    ]
    may: May
    write: Annotated[str, Meta(description="How documents are written from here, or why not")]
    mesh: str
    host: str
    ui: Annotated[bool, Meta(description="Whether the page is served here")] = True
    login: Annotated[str, Meta(description="Where a browser logs in; empty: nowhere, or it has")] = ""
    logout: Annotated[str, Meta(description="What a page posts to for its login to be forgotten; empty: nothing")] = ""


def operation(settings: Settings, rights: Rights) -> Operation:
    """For whoever may look."""

    async def me(asked: Asked) -> Me:
        assert asked.request is not None
        peer, visitor = peer_of(asked.request), visitor_of(asked.request)
        may = May(read=False, tap=False, operate=False, write=False)
        told = Me(who="", by_way_of="admin", role="look", may=may, write=WRITE, mesh=settings.mesh, host=settings.host)
        by_cookie = asked.request.scope.get(BY_COOKIE, False)
        told = replace(told, logout=LOGOUT if by_cookie else "")
        stranger = asked.request.scope.get(STRANGER)
        if stranger is not None:
            return replace(told, by_way_of="people", role="none", write=stranger, login=LOGIN)
        if visitor is not None:
            who, way, role = f"person {visitor.person}", _way(visitor), visitor.role
            may = May(read=True, tap=visitor.operates or visitor.taps, operate=visitor.operates, write=False)
            return replace(told, who=who, by_way_of=way, role=role, may=may)
        if peer is not None:
            operates, taps = rights.may_operate(peer), rights.may_tap(peer)
            may = May(read=taps, tap=taps, operate=operates, write=False)
            role = "operate" if operates else "tap" if taps else "look"
            return replace(told, who=str(peer), by_way_of="socket", role=role, may=may)
        return told

    summary = "Who asks, as this agent sees it, and what he may"
    return Operation("GET", "/me", "getMe", summary, NoQuery, Me, me, watched=False)


def _way(visitor: Visitor) -> str:
    return "oidc" if visitor.person.startswith(BY_TOKEN) else "people"
