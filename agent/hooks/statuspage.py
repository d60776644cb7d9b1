"""statuspage: REST API v1. The status of a component, and an incident beside it where the document asks for one.

A page is read by everybody: of an event it gets the title, and nothing that a program said.
"""

from __future__ import annotations

import re
from typing import Any, Final

from agent.hooks.issues import MAX_TITLE, Keeping, mark, marks
from agent.hooks.steps import Action, Answer, Done, Problem, Request, Secrets, decoded, json_request
from policies.kinds.webhook.document import STATUSPAGE, Hook, Statuspage
from policies.kinds.webhook.event import Effect, Event
from registry.records import Opened

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_OVER: Final = ("resolved", "completed", "postmortem")


def component(event: Event, statuspage: Statuspage, headers: dict[str, str]) -> Request:
    """Sets its status."""
    url = f"{statuspage.api}/v1/pages/{statuspage.page}/components/{statuspage.component}"
    status = statuspage.down if event.effect is Effect.OPENS else statuspage.up
    return json_request("PATCH", url, headers, {"component": {"status": status}})


def headers_of(hook: Hook, secrets: Secrets) -> dict[str, str]:
    """With the token. Raises Problem."""
    assert hook.statuspage is not None
    token = secrets.find(hook.secret, f"{hook.statuspage.api}/v1/pages/{hook.statuspage.page}", fixed=STATUSPAGE)
    return {"authorization": f"OAuth {token}", "user-agent": "shoal"}


class StatuspageIncident(Keeping):
    """One incident a condition, which sets the component too."""

    __slots__ = ("_base", "_page")

    lag_s = 60.0
    what = "incident"

    def __init__(
        self, event: Event, hook: Hook, secrets: Secrets, timestamp: int, before: Opened | None = None
    ) -> None:
        assert hook.statuspage is not None
        self._page = hook.statuspage
        self._base = f"{self._page.api}/v1/pages/{self._page.page}/incidents"
        super().__init__(event, before, self._base, headers_of(hook, secrets), timestamp, 0.0)

    def look(self) -> Action:
        return self.ask(self.get(f"{self._base}/{self.id}"), self._seen)

    def _seen(self, answer: Answer) -> Action:
        if self.is_gone(answer):
            return self.gone()
        incident = decoded(self.accepted(answer), dict)
        self.id = _id(incident)
        if incident.get("status") in _OVER:
            return self._component() if self.closing else self.was_closed()
        if not self.closing:
            return Done(f"incident {self.id} is open already", self.place, self.id)
        body = {"incident": {"status": "resolved", "body": self.event.title, **self._components(self._page.up)}}
        return self.ask(self.send("PATCH", f"{self._base}/{self.id}", body), self._resolved)

    def _resolved(self, answer: Answer) -> Action:
        self.accepted(answer)
        return self.closed()

    def search(self) -> Action:
        return self.ask(self.get(f"{self._base}/unresolved"), self._found)

    def _found(self, answer: Answer) -> Action:
        incidents = [one for one in decoded(self.accepted(answer), list) if isinstance(one, dict)]
        return self.searched([_id(one) for one in incidents if _mark(one) in marks(self.event)])

    def not_found(self) -> Action:
        return self._component() if self.closing else super().not_found()

    def _component(self) -> Action:
        """Nobody's incident is open; the component may still be down."""
        return self.ask(component(self.event, self._page, self.headers), self._set)

    def _set(self, answer: Answer) -> Action:
        self.accepted(answer)
        return Done("no incident was open; the component is set")

    def create(self) -> Request:
        body = {
            "name": self.event.title[:MAX_TITLE],
            "status": "investigating",
            "body": self.event.title,
            "metadata": {"shoal": {"mark": mark(self.event.key)}},
            **self._components(self._page.down),
        }
        return self.send("POST", self._base, {"incident": body})

    def created(self, answer: Answer) -> Action:
        self.id = _id(decoded(self.accepted(answer), dict))
        return Done(f"opened incident {self.id}", self.place, self.id)

    def _components(self, status: str) -> dict[str, Any]:
        return {"component_ids": [self._page.component], "components": {self._page.component: status}}


def _mark(incident: dict[str, Any]) -> str:
    metadata = incident.get("metadata")
    ours = metadata.get("shoal") if isinstance(metadata, dict) else None
    return str(ours.get("mark", "")) if isinstance(ours, dict) else ""


def _id(incident: dict[str, Any]) -> str:
    id = incident.get("id")
    if not isinstance(id, str) or not _ID.match(id):
        raise Problem("an incident without an id", again=True)
    return id
