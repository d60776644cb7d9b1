"""Issues and tickets: one for each condition, found again by a mark, commented on, and closed with the condition.

What is looked for is made from the event's key. What was already said about an event is found by its id, so that a
delivery that is begun again does not say it twice.

GitHub: docs.github.com/rest/issues (version 2022-11-28). Jira: REST API 2, Cloud and Data Center.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

from agent.hooks.steps import (
    Action,
    Answer,
    Done,
    Problem,
    Request,
    Response,
    Run,
    Secrets,
    Steps,
    decoded,
    json_request,
)
from policies.kinds.webhook.document import GITHUB, GitHub, Hook, Jira
from policies.kinds.webhook.event import Effect, Event

_PAGES: Final = 10
_PER_PAGE: Final = 100
_MAX_TITLE: Final = 250
_TICKET: Final = re.compile(r"[A-Z][A-Z0-9_]{0,99}-[0-9]{1,12}\Z")
_TRANSITION: Final = re.compile(r"[0-9]{1,12}\Z")


def mark(key: str) -> str:
    """What a condition is looked for by."""
    return hashlib.sha256(key.encode()).hexdigest()[:20]


def facts(event: Event) -> list[tuple[str, str]]:
    """What there is to say, in order."""
    first = [("event", event.name), ("subject", event.subject), ("mesh", event.mesh), ("time", event.time)]
    rest = [(name, str(value)) for name, value in event.data.items() if value not in (None, "")]
    return first + rest


def _listed(event: Event, indent: str) -> str:
    """Indented: within a block of code nothing is markup, mentions somebody, or looks like one of our marks."""
    lines = [f"{name}: {value}" for name, value in facts(event)]
    return "\n".join(indent + line for text in lines for line in text.splitlines())


class _Keeping(Steps):
    """What both have in common: find it, then open, comment, close."""

    __slots__ = ("closing", "event", "headers")

    def __init__(self, event: Event, headers: Mapping[str, str], timestamp: int) -> None:
        super().__init__(timestamp)
        self.event = event
        self.headers = dict(headers)
        self.closing = event.effect in (Effect.CLOSES, Effect.ENDS)

    def begin(self) -> Action:
        if self.event.effect is Effect.TELLS:
            return Done(f"{self.event.name} opens and closes nothing")
        return self.search()

    def search(self) -> Action:
        """The first request."""
        raise NotImplementedError

    def get(self, url: str) -> Request:
        return json_request("GET", url, self.headers)

    def send(self, method: str, url: str, body: Any) -> Request:
        return json_request(method, url, self.headers, body)


class GitHubIssue(_Keeping):
    """github-issue."""

    __slots__ = ("_base", "_github", "_number", "_page")

    def __init__(self, event: Event, hook: Hook, secrets: Secrets, timestamp: int) -> None:
        assert hook.github is not None
        self._github: GitHub = hook.github
        self._base = f"{self._github.api}/repos/{self._github.repo}/issues"
        self._page = 1
        self._number = 0
        headers = {
            "authorization": f"Bearer {secrets.find(hook.secret, self._base, fixed=GITHUB)}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": "shoal",
        }
        super().__init__(event, headers, timestamp)

    def search(self) -> Action:
        self._page = 1
        return self._list()

    def _list(self) -> Request | Run:
        query = urlencode(
            {"state": "open", "labels": self._github.labels[0], "per_page": _PER_PAGE, "page": self._page}
        )
        return self.ask(self.get(f"{self._base}?{query}"), self._found)

    def _found(self, answer: Answer) -> Action:
        issues = decoded(self.accepted(answer), list)
        ours = f"<!-- shoal {mark(self.event.key)} -->"
        for issue in issues:
            if isinstance(issue, dict) and "pull_request" not in issue and ours in _lines(issue.get("body")):
                return self._go_on(issue)
        if len(issues) >= _PER_PAGE and self._page < _PAGES:
            self._page += 1
            return self._list()
        if self.closing:
            return Done("no issue was open")
        body = {"title": self.event.title[:_MAX_TITLE], "body": self._text(ours), "labels": list(self._github.labels)}
        return self.ask(self.send("POST", self._base, body), self._opened)

    def _go_on(self, issue: dict[str, Any]) -> Action:
        self._number = _number(issue)
        if self._said() in _lines(issue.get("body")):
            return Done(f"issue {self._number} was opened already")
        url = f"{self._base}/{self._number}/comments?{urlencode({'per_page': _PER_PAGE, **self._since()})}"
        return self.ask(self.get(url), self._commented_before)

    def _commented_before(self, answer: Answer) -> Action:
        comments = decoded(self.accepted(answer), list)
        if any(isinstance(one, dict) and self._said() in _lines(one.get("body")) for one in comments):
            return self._commented(answer)
        url = f"{self._base}/{self._number}/comments"
        return self.ask(self.send("POST", url, {"body": self._text()}), self._commented)

    def _commented(self, answer: Answer) -> Action:
        self.accepted(answer)
        if not self.closing:
            return Done(f"issue {self._number} was open; commented on it")
        body = {"state": "closed", "state_reason": "completed"}
        return self.ask(self.send("PATCH", f"{self._base}/{self._number}", body), self._closed)

    def _opened(self, answer: Answer) -> Action:
        return Done(f"opened issue {_number(decoded(self.accepted(answer), dict))}")

    def _closed(self, answer: Answer) -> Action:
        self.accepted(answer)
        return Done(f"closed issue {self._number}")

    def _said(self) -> str:
        return f"<!-- shoal event {self.event.id} -->"

    def _since(self) -> dict[str, str]:
        """Comments of the time since the event, with an hour for clocks that differ."""
        try:
            happened = datetime.fromisoformat(self.event.time) - timedelta(hours=1)
        except (ValueError, OverflowError):
            return {}
        return {"since": happened.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _text(self, *marks: str) -> str:
        link = [f"<{self.event.link}>", ""] if re.match(r"https?://[^\s<>]+\Z", self.event.link) else []
        listed = _listed(self.event, "    ")
        return "\n".join([f"**{self.event.title}**", "", listed, "", *link, *marks, self._said()])


class JiraTicket(_Keeping):
    """jira."""

    __slots__ = ("_base", "_hook", "_jira", "_old_search", "_ticket")

    def __init__(self, event: Event, hook: Hook, secrets: Secrets, timestamp: int) -> None:
        assert hook.jira is not None
        self._jira: Jira = hook.jira
        self._base = f"{self._jira.api}/rest/api/2"
        self._old_search = False
        self._ticket = ""
        token = secrets.find(hook.secret, self._base)
        basic = base64.b64encode(f"{self._jira.user}:{token}".encode()).decode()
        authorization = f"Basic {basic}" if self._jira.user else f"Bearer {token}"
        super().__init__(event, {"authorization": authorization, "user-agent": "shoal"}, timestamp)

    @property
    def label(self) -> str:
        """Labels have no spaces."""
        return f"shoal-{mark(self.event.key)}"

    def search(self) -> Action:
        self._old_search = False
        return self._search()

    def _search(self) -> Request | Run:
        """Cloud has /search/jql, and took /search away in 2025; Data Center has only that."""
        jql = f'project = "{self._jira.project}" AND labels = "{self.label}" AND statusCategory != Done'
        query = urlencode({"jql": jql, "fields": "description,comment", "maxResults": 10})
        path = "search" if self._old_search else "search/jql"
        return self.ask(self.get(f"{self._base}/{path}?{query}"), self._found)

    def _found(self, answer: Answer) -> Action:
        if isinstance(answer, Response) and answer.status in (404, 405, 410) and not self._old_search:
            self._old_search = True
            return self._search()
        issues = decoded(self.accepted(answer), dict).get("issues")
        issue = next((one for one in issues or () if isinstance(one, dict)), None) if isinstance(issues, list) else None
        if issue is not None:
            return self._go_on(issue)
        if self.closing:
            return Done("no ticket was open")
        fields = {
            "project": {"key": self._jira.project},
            "issuetype": {"name": self._jira.issuetype},
            "summary": self.event.title[:_MAX_TITLE],
            "description": self._text(),
            "labels": ["shoal", self.label],
        }
        return self.ask(self.send("POST", f"{self._base}/issue", {"fields": fields}), self._opened)

    def _go_on(self, issue: dict[str, Any]) -> Action:
        self._ticket = _ticket(issue)
        fields = issue.get("fields")
        fields = fields if isinstance(fields, dict) else {}
        if self._said() in _lines(fields.get("description")):
            return Done(f"{self._ticket} was opened already")
        comment = fields.get("comment")
        comments = comment.get("comments") if isinstance(comment, dict) else None
        if any(self._said() in _lines(one.get("body")) for one in comments or () if isinstance(one, dict)):
            return self._after_comment()
        url = f"{self._base}/issue/{self._ticket}/comment"
        return self.ask(self.send("POST", url, {"body": self._text()}), self._commented)

    def _commented(self, answer: Answer) -> Action:
        self.accepted(answer)
        return self._after_comment()

    def _after_comment(self) -> Action:
        if not self.closing or not self._jira.transition:
            return Done(f"{self._ticket} was open; commented on it")
        return self.ask(self.get(f"{self._base}/issue/{self._ticket}/transitions"), self._choose)

    def _choose(self, answer: Answer) -> Action:
        found = decoded(self.accepted(answer), dict).get("transitions")
        wanted, names = self._jira.transition.casefold(), []
        for one in found if isinstance(found, list) else ():
            to = one.get("to") if isinstance(one, dict) else None
            own = [str(one.get("name", ""))] if isinstance(one, dict) else []
            both = own + ([str(to.get("name", ""))] if isinstance(to, dict) else [])
            id = str(one.get("id", "")) if isinstance(one, dict) else ""
            if wanted in [name.casefold() for name in both] and _TRANSITION.match(id):
                url = f"{self._base}/issue/{self._ticket}/transitions"
                return self.ask(self.send("POST", url, {"transition": {"id": id}}), self._moved)
            names += own
        listed = ", ".join(names)[:200] or "none"
        raise Problem(f"{self._ticket} has no transition {self._jira.transition!r}; there are: {listed}", again=True)

    def _opened(self, answer: Answer) -> Action:
        return Done(f"opened {_ticket(decoded(self.accepted(answer), dict))}")

    def _moved(self, answer: Answer) -> Action:
        self.accepted(answer)
        return Done(f"closed {self._ticket}")

    def _said(self) -> str:
        return f"shoal event {self.event.id}"

    def _text(self) -> str:
        listed = _listed(self.event, "  ").replace("{noformat}", "(noformat)")
        return "\n".join(
            ["{noformat}", listed, "{noformat}", *([self.event.link] if self.event.link else []), self._said()]
        )


def _lines(text: object) -> list[str]:
    return text.splitlines() if isinstance(text, str) else []


def _number(issue: dict[str, Any]) -> int:
    number = issue.get("number")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise Problem("an issue without a number", again=True)
    return number


def _ticket(issue: dict[str, Any]) -> str:
    key = issue.get("key")
    if not isinstance(key, str) or not _TICKET.match(key):
        raise Problem("a ticket without a key", again=True)
    return quote(key)
