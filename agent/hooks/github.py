"""github-issue: docs.github.com/rest/issues (version 2022-11-28).

GitHub drops labels without a word from whose token may not set them, and answers for a repository that was renamed with
a redirect to the same API, by the repository's number. Both are met here. Its limits are met where hooks are run.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from agent.hooks.issues import MAX_TITLE, Keeping, lines, listed, marks
from agent.hooks.steps import Action, Answer, Done, Problem, Request, Response, Secrets, decoded
from policies.kinds.webhook.document import GITHUB, GitHub, Hook
from policies.kinds.webhook.event import Event
from registry.records import Opened

PER_PAGE: Final = 100
_PAGES: Final = 10
_PAGES_WITHOUT_LABEL: Final = 3
_MOVED: Final = (301, 302, 307, 308)
_REPOSITORY: Final = re.compile(r"/repositories/([0-9]{1,20})(?:/|\Z)")
_LOCKED: Final = (403, 410, 422)


class GitHubIssue(Keeping):
    """One."""

    __slots__ = ("_asked", "_base", "_github", "_labelled", "_page")

    lag_s = 60.0
    what = "issue"

    def __init__(
        self, event: Event, hook: Hook, secrets: Secrets, timestamp: int, before: Opened | None = None
    ) -> None:
        assert hook.github is not None
        self._github: GitHub = hook.github
        self._base = f"{self._github.api}/repos/{self._github.repo}/issues"
        self._page = 1
        self._labelled = True
        self._asked: Request | None = None
        """The request that is under way, when it was not sent elsewhere yet."""
        headers = {
            "authorization": f"Bearer {secrets.find(hook.secret, self._base, fixed=GITHUB)}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": "shoal",
        }
        super().__init__(event, before, self._base, headers, timestamp, hook.reopen_s)

    def next(self, answer: Answer | None = None) -> Action:
        if isinstance(answer, Response) and answer.status in _MOVED and self._asked is not None:
            moved = self._moved(answer, self._asked)
            if moved is not None:
                self._asked = None
                return moved
        action = super().next(answer)
        self._asked = action if isinstance(action, Request) else None
        return action

    def _moved(self, answer: Response, asked: Request) -> Request | None:
        """The same request, to the repository's number at the same API; None where it leads elsewhere."""
        location = answer.headers.get("location", "")
        found = _REPOSITORY.match(location.removeprefix(self._github.api))
        if found is None or not location.startswith(self._github.api):
            return None
        base = f"{self._github.api}/repositories/{found[1]}/issues"
        moved = msgspec.structs.replace(asked, url=base + asked.url.removeprefix(self._base))
        self._base = base
        return moved

    # Finding it.

    def look(self) -> Action:
        return self.ask(self.get(f"{self._base}/{self.id}"), self._seen)

    def _seen(self, answer: Answer) -> Action:
        if self.is_gone(answer):
            return self.gone()
        issue = decoded(self.accepted(answer), dict)
        self.id = _number(issue)
        if issue.get("state") == "closed":
            return self._reopen() if self._may_reopen() else self.was_closed()
        return self._go_on(issue)

    def _may_reopen(self) -> bool:
        before = self.before
        return not self.closing and before is not None and before.state == "closed" and before.id == self.id

    def _reopen(self) -> Action:
        return self.ask(self.send("PATCH", f"{self._base}/{self.id}", {"state": "open"}), self._reopened)

    def _reopened(self, answer: Answer) -> Action:
        return self._go_on(decoded(self.accepted(answer), dict))

    def search(self) -> Action:
        self._page = 1
        self._labelled = True
        return self._list()

    def _list(self) -> Action:
        label = {"labels": self._github.labels[0]} if self._labelled else {}
        query = urlencode({"state": "open", **label, "per_page": PER_PAGE, "page": self._page})
        return self.ask(self.get(f"{self._base}?{query}"), self._found)

    def _found(self, answer: Answer) -> Action:
        issues = decoded(self.accepted(answer), list)
        ours = {_mark_line(each) for each in marks(self.event)}
        found = [one for one in issues if isinstance(one, dict) and "pull_request" not in one]
        numbers = [_number(one) for one in found if ours.intersection(lines(one.get("body")))]
        if numbers:
            return self.searched(numbers)
        if len(issues) >= PER_PAGE and self._page < (_PAGES if self._labelled else _PAGES_WITHOUT_LABEL):
            self._page += 1
            return self._list()
        if self._labelled and self.before is not None:  # it was opened once: somebody may have taken the label off
            self._labelled, self._page = False, 1
            return self._list()
        return self.searched([])

    # Opening, commenting, closing.

    def create(self) -> Request:
        body = {"title": self.event.title[:MAX_TITLE], "body": self._text(_mark_line(marks(self.event)[0])),
                "labels": list(self._github.labels)}  # fmt: skip
        return self.send("POST", self._base, body)

    def created(self, answer: Answer) -> Action:
        issue = decoded(self.accepted(answer), dict)
        self.id = _number(issue)
        labels = issue.get("labels")
        missing = self._github.labels[0] not in _names(labels) if isinstance(labels, list) else False
        said = "; GitHub did not set its labels: the token may not" if missing else ""
        return Done(f"opened issue {self.id}{said}", self.place, self.id)

    def _go_on(self, issue: dict[str, Any]) -> Action:
        if self._said() in lines(issue.get("body")):
            return Done(f"issue {self.id} was opened already", self.place, self.id)
        url = f"{self._base}/{self.id}/comments?{urlencode({'per_page': PER_PAGE, **self._since()})}"
        return self.ask(self.get(url), self._commented_before)

    def _commented_before(self, answer: Answer) -> Action:
        comments = decoded(self.accepted(answer), list)
        if any(isinstance(one, dict) and self._said() in lines(one.get("body")) for one in comments):
            return self._commented(answer)
        url = f"{self._base}/{self.id}/comments"
        return self.ask(self.send("POST", url, {"body": self._text()}), self._commented)

    def _commented(self, answer: Answer) -> Action:
        locked = isinstance(answer, Response) and answer.status in _LOCKED and b"lock" in answer.body[:500].lower()
        if not locked:  # who may not comment may still close
            self.accepted(answer)
        if not self.closing:
            return Done(f"issue {self.id} was open; commented on it", self.place, self.id)
        body = {"state": "closed", "state_reason": "completed"}
        return self.ask(self.send("PATCH", f"{self._base}/{self.id}", body), self._closed)

    def _closed(self, answer: Answer) -> Action:
        self.accepted(answer)
        return self.closed()

    def _said(self) -> str:
        return f"<!-- shoal event {self.event.id} -->"

    def _since(self) -> dict[str, str]:
        """Comments of the time since the event, with an hour for clocks that differ."""
        try:
            happened = datetime.fromisoformat(self.event.time) - timedelta(hours=1)
        except (ValueError, OverflowError):
            return {}
        return {"since": happened.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _text(self, *marked: str) -> str:
        link = [f"<{self.event.link}>", ""] if re.match(r"https?://[^\s<>]+\Z", self.event.link) else []
        facts = listed(self.event, "    ")
        return "\n".join([f"**{self.event.title}**", "", facts, "", *link, *marked, self._said()])


def _mark_line(mark: str) -> str:
    return f"<!-- shoal {mark} -->"


def _names(labels: list[Any]) -> set[str]:
    return {str(one.get("name")) if isinstance(one, dict) else str(one) for one in labels}


def _number(issue: dict[str, Any]) -> str:
    number = issue.get("number")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise Problem("an issue without a number", again=True)
    return str(number)
