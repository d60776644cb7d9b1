"""jira: REST API 2, Cloud and Data Center.

Its search lags behind what was done, by seconds to minutes; what is read by a ticket's key does not. Workflows are made
by people: where there is no transition of the name that was given, any to a status of the category "done" will do.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from agent.hooks.issues import MAX_TITLE, Keeping, lines, listed, marks
from agent.hooks.steps import Action, Answer, Done, Problem, Request, Response, Secrets, decoded
from policies.kinds.webhook.document import Hook, Jira
from policies.kinds.webhook.event import Event
from registry.records import Opened

DONE: Final = "done"
_TICKET: Final = re.compile(r"[A-Z][A-Z0-9_]{0,99}-[0-9]{1,12}\Z")
_TRANSITION: Final = re.compile(r"[0-9]{1,12}\Z")


class JiraTicket(Keeping):
    """One."""

    __slots__ = ("_base", "_jira", "_old_search", "_status")

    lag_s = 300.0
    what = "ticket"

    def __init__(
        self, event: Event, hook: Hook, secrets: Secrets, timestamp: int, before: Opened | None = None
    ) -> None:
        assert hook.jira is not None
        self._jira: Jira = hook.jira
        self._base = f"{self._jira.api}/rest/api/2"
        self._old_search = False
        self._status = ""
        token = secrets.find(hook.secret, self._base)
        basic = base64.b64encode(f"{self._jira.user}:{token}".encode()).decode()
        authorization = f"Basic {basic}" if self._jira.user else f"Bearer {token}"
        headers = {"authorization": authorization, "user-agent": "shoal"}
        place = f"{self._jira.api}/projects/{self._jira.project}"
        super().__init__(event, before, place, headers, timestamp, hook.reopen_s)

    # Finding it.

    def look(self) -> Action:
        return self.ask(self.get(f"{self._base}/issue/{self.id}?fields=status,description"), self._seen)

    def _seen(self, answer: Answer) -> Action:
        if self.is_gone(answer):
            return self.gone()
        issue = decoded(self.accepted(answer), dict)
        self.id = _ticket(issue)
        if _category(_fields(issue).get("status")) == DONE:
            before = self.before
            again = before is not None and before.state == "closed" and before.id == self.id and not self.closing
            return self._transitions() if again else self.was_closed()
        if self._said() in lines(_fields(issue).get("description")):
            return Done(f"ticket {self.id} was opened already", self.place, self.id)
        return self._comment()

    def search(self) -> Action:
        self._old_search = False
        return self._search()

    def _search(self) -> Action:
        """Cloud has /search/jql, and took /search away in 2025; Data Center has only that."""
        labels = ", ".join(f'"{_label(mark)}"' for mark in marks(self.event))
        jql = f'project = "{self._jira.project}" AND labels in ({labels}) AND statusCategory != Done'
        query = urlencode({"jql": jql, "fields": "status", "maxResults": 10})
        path = "search" if self._old_search else "search/jql"
        return self.ask(self.get(f"{self._base}/{path}?{query}"), self._found)

    def _found(self, answer: Answer) -> Action:
        if isinstance(answer, Response) and answer.status in (404, 405, 410) and not self._old_search:
            self._old_search = True
            return self._search()
        issues = decoded(self.accepted(answer), dict).get("issues")
        return self.searched([_ticket(one) for one in _objects(issues)])

    # Opening, commenting, closing.

    def create(self) -> Request:
        priority = {"priority": {"name": self._jira.priority}} if self._jira.priority else {}
        fields = {
            **self._jira.fields,
            **priority,
            "project": {"key": self._jira.project},
            "issuetype": {"name": self._jira.issuetype},
            "summary": self.event.title[:MAX_TITLE],
            "description": self._text(),
            "labels": [*self._jira.labels, _label(marks(self.event)[0])],
        }
        return self.send("POST", f"{self._base}/issue", {"fields": fields})

    def created(self, answer: Answer) -> Action:
        if isinstance(answer, Response) and answer.status == 400:
            raise _refused(answer, "jira.fields")
        self.id = _ticket(decoded(self.accepted(answer), dict))
        return Done(f"opened ticket {self.id}", self.place, self.id)

    def _comment(self) -> Action:
        query = urlencode({"orderBy": "-created", "maxResults": 50})
        return self.ask(self.get(f"{self._base}/issue/{self.id}/comment?{query}"), self._commented_before)

    def _commented_before(self, answer: Answer) -> Action:
        comments = _objects(decoded(self.accepted(answer), dict).get("comments"))
        if any(self._said() in lines(one.get("body")) for one in comments):
            return self._after_comment()
        url = f"{self._base}/issue/{self.id}/comment"
        return self.ask(self.send("POST", url, {"body": self._text()}), self._commented)

    def _commented(self, answer: Answer) -> Action:
        self.accepted(answer)
        return self._after_comment()

    def _after_comment(self) -> Action:
        if not self.closing:
            return Done(f"ticket {self.id} was open; commented on it", self.place, self.id)
        if not self._jira.transition:
            return Done(f"ticket {self.id} was open; commented on it")
        return self._transitions()

    def _transitions(self) -> Action:
        url = f"{self._base}/issue/{self.id}/transitions"
        return self.ask(self.get(url), self._choose if self.closing else self._choose_again)

    def _choose(self, answer: Answer) -> Action:
        known = _objects(decoded(self.accepted(answer), dict).get("transitions"))
        wanted = self._jira.transition.casefold()
        named = [one for one in known if wanted in [name.casefold() for name in _names(one)]]
        chosen = next(iter(named + [one for one in known if _category(one.get("to")) == DONE]), None)
        if chosen is None:
            said = ", ".join(_names(one)[0] for one in known)[:200] or "none"
            what = f"ticket {self.id} has no transition {self._jira.transition!r}, nor one to a status that is done"
            raise Problem(f"{what}; there are: {said}", again=True)
        resolution = {"fields": {"resolution": {"name": self._jira.resolution}}} if self._jira.resolution else {}
        return self._move(chosen, resolution, self._moved)

    def _choose_again(self, answer: Answer) -> Action:
        """Where it was closed a moment ago: to any status that is not done, one of those to be begun first."""
        known = _objects(decoded(self.accepted(answer), dict).get("transitions"))
        there = [one for one in known if _category(one.get("to")) in ("new", "indeterminate")]
        if not there:
            return self.not_found()
        there.sort(key=lambda one: _category(one.get("to")) != "new")
        return self._move(there[0], {}, self._reopened)

    def _move(self, transition: dict[str, Any], more: dict[str, Any], then: Any) -> Action:
        url = f"{self._base}/issue/{self.id}/transitions"
        return self.ask(self.send("POST", url, {"transition": {"id": _id(transition)}, **more}), then)

    def _moved(self, answer: Answer) -> Action:
        if isinstance(answer, Response) and answer.status == 400:
            raise _refused(answer, "jira.resolution, or the workflow's screen")
        self.accepted(answer)
        return self.closed()

    def _reopened(self, answer: Answer) -> Action:
        self.accepted(answer)
        return self._comment()

    def _said(self) -> str:
        return f"shoal event {self.event.id}"

    def _text(self) -> str:
        facts = listed(self.event, "  ").replace("{noformat}", "(noformat)")
        link = [self.event.link] if self.event.link else []
        return "\n".join(["{noformat}", facts, "{noformat}", *link, self._said()])


def _refused(answer: Response, where: str) -> Problem:
    """Jira names the fields that it misses. People mend that, in the document or in Jira."""
    try:
        errors = msgspec.json.decode(answer.body)
        found = errors.get("errors") if isinstance(errors, dict) else None
        said = "; ".join(f"{name}: {text}" for name, text in found.items()) if isinstance(found, dict) else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = ""
    said = "".join(c if c.isprintable() else " " for c in said or answer.body[:200].decode("utf-8", "replace"))
    return Problem(f"status 400: {said[:300]}; see {where}", again=True)


def _label(mark: str) -> str:
    """Labels have no spaces."""
    return f"shoal-{mark}"


def _objects(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _fields(issue: dict[str, Any]) -> dict[str, Any]:
    fields = issue.get("fields")
    return fields if isinstance(fields, dict) else {}


def _category(status: object) -> str:
    """`new`, `indeterminate` or `done`, whatever a status is called."""
    category = status.get("statusCategory") if isinstance(status, dict) else None
    return str(category.get("key", "")) if isinstance(category, dict) else ""


def _names(transition: dict[str, Any]) -> list[str]:
    to = transition.get("to")
    return [str(transition.get("name", "")), *([str(to.get("name", ""))] if isinstance(to, dict) else [])]


def _id(transition: dict[str, Any]) -> str:
    id = str(transition.get("id", ""))
    if not _TRANSITION.match(id):
        raise Problem("a transition without an id", again=True)
    return id


def _ticket(issue: dict[str, Any]) -> str:
    key = issue.get("key")
    if not isinstance(key, str) or not _TICKET.match(key):
        raise Problem("a ticket without a key", again=True)
    return quote(key)
