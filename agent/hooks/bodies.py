"""What each format sends: CloudEvents, Slack, PagerDuty, a template, a program; issues.py has the rest.

PagerDuty: Events API v2. Slack: incoming webhooks, with Block Kit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.events import STRUCTURED, binary, cut, structured
from agent.hooks import signing, statuspage, templates
from agent.hooks.github import GitHubIssue
from agent.hooks.issues import facts, mark
from agent.hooks.jira import JiraTicket
from agent.hooks.receivers import Receivers
from agent.hooks.steps import (
    Action,
    Answer,
    Done,
    Exited,
    Intend,
    Problem,
    Request,
    Run,
    Secrets,
    Steps,
    json_request,
)
from policies.kinds.webhook.document import PAGERDUTY, Hook, PagerDuty
from policies.kinds.webhook.event import Effect, Event
from policies.language.secret import Reference
from registry.records import Opened

__all__ = ["STRUCTURED", "steps"]

_MAX_REASON: Final = 500
_MAX_DEDUP: Final = 255
_MAX_SUMMARY: Final = 1024
_DOTS: Final = {Effect.OPENS: ":red_circle: ", Effect.CLOSES: ":large_green_circle: "}


def steps(
    event: Event,
    hook: Hook,
    secrets: Mapping[Reference, str],
    timestamp: int,
    receivers: Receivers | None = None,
    before: Opened | None = None,
) -> Steps:
    """The delivery of an event to a hook: `next()` begins it.

    `secrets` are those of `hook.references()` that could be read, `receivers` who may be sent them; `timestamp` is now,
    in seconds since 1970; `before` what is remembered of what the hook opened for this condition. Make new steps for
    each attempt. With the format template `next()` renders: call it in a thread, with a deadline.
    """
    return _Delivery(event, hook, Secrets(secrets, receivers or Receivers()), timestamp, before)


class _Delivery(Steps):
    """The way of most formats: one request, or one program. Issues are conversations of their own."""

    __slots__ = ("_before", "_event", "_hook", "_inner", "_resolve", "_secrets")

    def __init__(self, event: Event, hook: Hook, secrets: Secrets, timestamp: int, before: Opened | None) -> None:
        super().__init__(timestamp)
        self._event = event
        self._hook = hook
        self._before = before
        self._resolve: list[str] = []
        self._secrets = secrets
        self._inner: Steps | None = None

    def begin(self) -> Action:
        hook, event = self._hook, self._event
        kind = _kind(hook)
        if kind is not None:
            self._inner = kind(event, hook, self._secrets, self.timestamp, self._before)
            return self._onward(self._inner.next())
        if hook.keeps and event.effect is Effect.TELLS:
            return Done(f"{event.name} opens and closes nothing")
        if hook.exec is not None:
            return self.ask(_run(event, hook.exec.command), self._ran)
        if hook.pagerduty is not None:
            return self._page(hook.pagerduty)
        if hook.statuspage is not None:
            headers = statuspage.headers_of(hook, self._secrets)
            return self.ask(statuspage.component(event, hook.statuspage, headers), self._sent)
        return self.ask(self._posted(), self._sent)

    def _onward(self, action: Action) -> Action:
        return self.ask(action, self._answered) if isinstance(action, Request | Run | Intend) else action

    def _answered(self, answer: Answer) -> Action:
        assert self._inner is not None
        return self._onward(self._inner.next(answer))

    def _page(self, pagerduty: PagerDuty) -> Action:
        """What was opened is resolved by the key that the answer said; where that is not known, by those that it may
        have: versions that did not know of other meshes of this name had another one."""
        event, before = self._event, self._before
        known = before.id if before is not None and before.place == pagerduty.api else ""
        keys = [known or _dedup_key(event)]
        if event.effect is not Effect.OPENS and not known:
            keys.append(_dedup_key(event, f"{event.mesh}/{event.subject}"))
        self._resolve = keys[1:]
        return self.ask(_pagerduty(event, pagerduty, self._secrets, keys[0]), self._paged)

    def _paged(self, answer: Answer) -> Action:
        pagerduty = self._hook.pagerduty
        assert pagerduty is not None
        status = self.accepted(answer).status
        if self._resolve:
            return self.ask(_pagerduty(self._event, pagerduty, self._secrets, self._resolve.pop()), self._paged)
        known = self._before.id if self._before is not None and self._before.place == pagerduty.api else ""
        opens = self._event.effect is Effect.OPENS
        return Done(f"status {status}", pagerduty.api, (known or _dedup_key(self._event)) if opens else "")

    def _sent(self, answer: Answer) -> Action:
        return Done(f"status {self.accepted(answer).status}")

    def _ran(self, answer: Answer) -> Action:
        if not isinstance(answer, Exited):
            raise Problem("something else where an exit status was expected", again=True)
        if answer.status != 0:
            raise Problem(f"exit status {answer.status}", again=True)
        return Done("exit status 0")

    def _posted(self) -> Request:
        """To an address of one's own, with its headers, bearer token and signatures."""
        target = self._hook.target
        assert target is not None
        url = target.url if isinstance(target.url, str) else self._secrets.address(target.url)
        headers, body = self._body()
        for name, value in target.headers.items():
            headers[name.lower()] = value if isinstance(value, str) else self._secrets.find(value, url)
        if self._hook.secret is not None:
            headers["authorization"] = f"Bearer {self._secrets.find(self._hook.secret, url)}"
        if self._hook.sign:
            headers |= signing.sign(self._event.id, self.timestamp, body, self._keys(url))
        return Request(target.method, url, {"user-agent": "shoal", **headers}, body)

    def _body(self) -> tuple[dict[str, str], bytes]:
        hook, event = self._hook, self._event
        if hook.template is not None:
            try:
                return {"content-type": hook.template.content_type}, templates.render(hook.template, event)
            except templates.BadTemplate as error:
                raise Problem(f"template.body: {error}", again=False) from None
        if hook.format == "slack":
            made = json_request("POST", "", {}, _slack(event))
            return made.headers, made.body
        return binary(event) if hook.format == "cloudevents-binary" else structured(event)

    def _keys(self, url: str) -> list[bytes]:
        try:
            return [signing.decode(self._secrets.find(one, url)) for one in self._hook.sign]
        except ValueError as error:
            raise Problem(f"sign: {error}", again=True) from None


def _run(event: Event, command: tuple[str, ...]) -> Run:
    names = ("id", "name", "subject", "time", "mesh", "service", "key")
    environ = {f"SHOAL_EVENT_{name.upper()}": str(getattr(event, name)) for name in names}
    return Run(command, structured(event)[1], {**environ, "SHOAL_EVENT_EFFECT": event.effect.value})


def _kind(hook: Hook) -> type[GitHubIssue | JiraTicket | statuspage.StatuspageIncident] | None:
    """Those that are conversations of their own."""
    if hook.github is not None:
        return GitHubIssue
    if hook.jira is not None:
        return JiraTicket
    return statuspage.StatuspageIncident if hook.statuspage is not None and hook.statuspage.incident else None


def _dedup_key(event: Event, key: str = "") -> str:
    key = key or event.key
    return key if len(key) <= _MAX_DEDUP else f"{event.mesh}/{mark(key)}"


def _pagerduty(event: Event, pagerduty: PagerDuty, secrets: Secrets, dedup_key: str) -> Request:
    closing = event.effect is not Effect.OPENS
    url = f"{pagerduty.api}/v2/enqueue"
    body: dict[str, Any] = {
        "routing_key": secrets.find(pagerduty.routing_key, url, fixed=PAGERDUTY),
        "event_action": "resolve" if closing else "trigger",
        "dedup_key": dedup_key,
    }
    if not closing:
        said = f": {event.reason}" if event.reason else ""
        body["client"] = "shoal"
        body["payload"] = {
            "summary": cut(event.title + said, _MAX_SUMMARY),
            "source": event.subject,
            "severity": pagerduty.severity,
            "timestamp": event.time,
            "component": event.service or event.subject,
            "group": event.mesh,
            "class": event.name,
            "custom_details": dict(facts(event)),
        }
        if event.link:
            body["links"] = [{"href": event.link, "text": "shoal"}]
    return json_request("POST", url, {"user-agent": "shoal"}, body)


def _slack(event: Event) -> dict[str, Any]:
    """`text` is what notifications show; mrkdwn has three characters to escape. What a program said is plain text."""
    title, reason = _escaped(event.title), _escaped(cut(event.reason, _MAX_REASON))
    dot = _DOTS.get(event.effect, "")
    said = [{"type": "section", "text": {"type": "plain_text", "text": cut(event.reason, _MAX_REASON), "emoji": False}}]
    link = f" · <{_escaped(event.link)}|shoal>" if event.link and "|" not in event.link else ""
    context = f"{_escaped(event.name)} · {_escaped(event.subject)} · {_escaped(event.time)}{link}"
    return {
        "text": f"{dot}{title}" + (f": {reason}" if reason else ""),
        "mrkdwn": False,
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"{dot}*{title}*"}},
            *(said if event.reason else []),
            {"type": "context", "elements": [{"type": "mrkdwn", "text": context}]},
        ],
    }


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
