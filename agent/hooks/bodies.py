"""What each format sends: CloudEvents, Slack, PagerDuty, Statuspage, a template, a program; issues.py has the rest.

PagerDuty: Events API v2. Statuspage: REST API v1. Slack: incoming webhooks, with Block Kit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.events import STRUCTURED, binary, cut, structured
from agent.hooks import signing, templates
from agent.hooks.issues import GitHubIssue, JiraTicket, facts, mark
from agent.hooks.receivers import Receivers
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
    json_request,
)
from policies.kinds.webhook.document import PAGERDUTY, STATUSPAGE, Hook, PagerDuty, Statuspage
from policies.kinds.webhook.event import Effect, Event
from policies.language.secret import Reference

__all__ = ["STRUCTURED", "steps"]

_MAX_REASON: Final = 500
_MAX_DEDUP: Final = 255
_MAX_SUMMARY: Final = 1024
_DOTS: Final = {Effect.OPENS: ":red_circle: ", Effect.CLOSES: ":large_green_circle: "}


def steps(
    event: Event, hook: Hook, secrets: Mapping[Reference, str], timestamp: int, receivers: Receivers | None = None
) -> Steps:
    """The delivery of an event to a hook: `next()` begins it.

    `secrets` are those of `hook.references()` that could be read, `receivers` who may be sent them; `timestamp` is now,
    in seconds since 1970. Make new steps for each attempt. With the format template `next()` renders: call it in a
    thread, with a deadline.
    """
    return _Delivery(event, hook, Secrets(secrets, receivers or Receivers()), timestamp)


class _Delivery(Steps):
    """The way of most formats: one request, or one program. Issues are conversations of their own."""

    __slots__ = ("_event", "_hook", "_inner", "_secrets")

    def __init__(self, event: Event, hook: Hook, secrets: Secrets, timestamp: int) -> None:
        super().__init__(timestamp)
        self._event = event
        self._hook = hook
        self._secrets = secrets
        self._inner: Steps | None = None

    def begin(self) -> Action:
        hook, event = self._hook, self._event
        if hook.format == "github-issue" or hook.format == "jira":
            kind = GitHubIssue if hook.format == "github-issue" else JiraTicket
            self._inner = kind(event, hook, self._secrets, self.timestamp)
            return self._onward(self._inner.next())
        if hook.keeps and event.effect is Effect.TELLS:
            return Done(f"{event.name} opens and closes nothing")
        if hook.exec is not None:
            return self.ask(_run(event, hook.exec.command), self._ran)
        if hook.pagerduty is not None:
            return self.ask(_pagerduty(event, hook.pagerduty, self._secrets), self._sent)
        if hook.statuspage is not None:
            return self.ask(_statuspage(event, hook.statuspage, hook.secret, self._secrets), self._sent)
        return self.ask(self._posted(), self._sent)

    def _onward(self, action: Action) -> Action:
        return self.ask(action, self._answered) if isinstance(action, Request | Run) else action

    def _answered(self, answer: Answer) -> Action:
        assert self._inner is not None
        return self._onward(self._inner.next(answer))

    def _sent(self, answer: Answer) -> Action:
        return Done(f"status {self.accepted(answer).status}")

    def _ran(self, answer: Answer) -> Action:
        if isinstance(answer, Response):
            raise Problem("a response where an exit status was expected", again=True)
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


def _pagerduty(event: Event, pagerduty: PagerDuty, secrets: Secrets) -> Request:
    closing = event.effect is not Effect.OPENS
    url = f"{pagerduty.api}/v2/enqueue"
    body: dict[str, Any] = {
        "routing_key": secrets.find(pagerduty.routing_key, url, fixed=PAGERDUTY),
        "event_action": "resolve" if closing else "trigger",
        "dedup_key": event.key if len(event.key) <= _MAX_DEDUP else f"{event.mesh}/{mark(event.key)}",
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


def _statuspage(event: Event, statuspage: Statuspage, secret: Reference | str | None, secrets: Secrets) -> Request:
    url = f"{statuspage.api}/v1/pages/{statuspage.page}/components/{statuspage.component}"
    status = statuspage.down if event.effect is Effect.OPENS else statuspage.up
    token = secrets.find(secret, url, fixed=STATUSPAGE)
    headers = {"authorization": f"OAuth {token}", "user-agent": "shoal"}
    return json_request("PATCH", url, headers, {"component": {"status": status}})


def _slack(event: Event) -> dict[str, Any]:
    """`text` is what notifications show; mrkdwn has three characters to escape."""
    title, reason = _escaped(event.title), _escaped(cut(event.reason, _MAX_REASON))
    dot = _DOTS.get(event.effect, "")
    section = f"{dot}*{title}*" + (f"\n{reason}" if reason else "")
    link = f" · <{_escaped(event.link)}|shoal>" if event.link and "|" not in event.link else ""
    context = f"{_escaped(event.name)} · {_escaped(event.subject)} · {_escaped(event.time)}{link}"
    return {
        "text": f"{dot}{title}" + (f": {reason}" if reason else ""),
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": section}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": context}]},
        ],
    }


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
