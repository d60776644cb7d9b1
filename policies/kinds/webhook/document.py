"""`webhook`: who is told of what happens to a service, how, and how often.

Laws
- A document holds several hooks, by name: a chat, a status page and an issue tracker are one service's. The name is
  what a hook's deliveries, counts and state go by, through every edit.
- No secret stands in a document: everybody who reads etcd would read it. What stands there says where the agents find
  it, and only in places that agents keep for this, because whoever writes policies must not read their other files.
- An option that the hook's format has no use for is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from policies.kinds.webhook.event import BY_NAME, HEALTH, Effect, Event, closing, selected
from policies.kinds.webhook.template import MAX_PARTS, BadTemplate
from policies.kinds.webhook.template import check as check_template
from policies.language.document import Document
from policies.language.duration import Duration, bounded, seconds
from policies.language.plain import Flaw, below, read_at
from policies.language.secret import Reference
from policies.language.url import check_url
from policies.request import TOKEN

Format = Literal[
    "cloudevents",
    "cloudevents-binary",
    "slack",
    "pagerduty",
    "statuspage",
    "github-issue",
    "jira",
    "template",
    "exec",
]
GITHUB: Final = "https://api.github.com"
PAGERDUTY: Final = "https://events.pagerduty.com"
STATUSPAGE: Final = "https://api.statuspage.io"
KEEPS: Final = frozenset(("pagerduty", "statuspage", "github-issue", "jira"))
"""Formats that keep a condition elsewhere, opened and closed, rather than tell of each event."""
_POSTED: Final = frozenset(("cloudevents", "cloudevents-binary", "slack", "template"))
_OWN: Final = frozenset(("cloudevents", "cloudevents-binary", "template"))
"""Formats whose receiver is of one's own making: a method, a bearer token and signatures are for these."""
_NEEDS: Final = {
    "github": "github-issue",
    "jira": "jira",
    "pagerduty": "pagerduty",
    "statuspage": "statuspage",
    "template": "template",
    "exec": "exec",
}
_TOKENED: Final = frozenset(("github-issue", "jira", "statuspage"))

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}/[A-Za-z0-9._-]{1,100}\Z")
_PROJECT: Final = re.compile(r"[A-Z][A-Z0-9_]{0,99}\Z")
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}\Z")
_OWN_FIELDS: Final = ("project", "issuetype", "summary", "description", "labels", "priority")
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
"""Labels between single dots: of an empty one no name can be looked up."""
_OURS: Final = re.compile(r"(?:host|connection|content-length|content-type|transfer-encoding|webhook-.*|ce-.*)\Z")
_SECRET: Final = re.compile(r"authorization|cookie|token|secret|password|api-?key")
_MEDIA: Final = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+(?:; ?[A-Za-z0-9_-]+=[A-Za-z0-9._-]+)*\Z")
_MAX_HOOKS: Final = 32
_LITERAL: Final = (
    "a secret does not stand in a policy, which everybody who reads etcd can read; put it into a file on the agents' "
    'hosts and say {"file": "its-name"}'
)


Secret: TypeAlias = Annotated[Reference | str, Meta(description="A reference; a value itself is refused")]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to."""

    url: Annotated[Reference | str, Meta(description="A reference where the URL itself is a secret, as with Slack's")]
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: dict[str, Annotated[Reference | str, Meta(description="Headers to add")]] = msgspec.field(
        default_factory=dict
    )


class GitHub(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """github-issue: one issue a condition."""

    repo: Annotated[str, Meta(description="owner/name")]
    labels: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=50)], ...],
        Meta(min_length=1, max_length=10, description="Issues are looked for by the first"),
    ] = ("shoal",)
    reopen: Annotated[Duration, Meta(description="So long after it was closed it is opened again; 0s: never")] = "1h"
    api: str = GITHUB


class Jira(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """jira: one ticket a condition."""

    api: Annotated[str, Meta(description="https://<site>.atlassian.net, or a Data Center's address")]
    project: Annotated[str, Meta(description="Its key, such as OPS")]
    issuetype: Annotated[str, Meta(min_length=1, max_length=100)] = "Task"
    priority: Annotated[str, Meta(max_length=100, description="Its name, of a new ticket")] = ""
    labels: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^\S+$")], ...], Meta(max_length=10)
    ] = ("shoal",)
    fields: Annotated[
        dict[str, Any], Meta(max_length=50, description="Other fields of a new ticket, as Jira's API has them")
    ] = msgspec.field(default_factory=dict)
    transition: Annotated[
        str, Meta(max_length=100, description="On recovery: a transition's or a status's name; empty: a comment only")
    ] = "Done"
    resolution: Annotated[str, Meta(max_length=100, description="Its name, which the transition sets")] = ""
    reopen: Annotated[Duration, Meta(description="So long after it was closed it is opened again; 0s: never")] = "1h"
    user: Annotated[str, Meta(max_length=255, description="Whose token it is (Cloud); empty: a bearer token")] = ""


class PagerDuty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """pagerduty: Events API v2; triggers and resolves."""

    routing_key: Secret
    severity: Literal["critical", "error", "warning", "info"] = "critical"
    api: str = PAGERDUTY


ComponentStatus = Literal["operational", "degraded_performance", "partial_outage", "major_outage"]


class Statuspage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """statuspage: sets the status of one component, and opens an incident beside it."""

    page: str
    component: str
    down: ComponentStatus = "major_outage"
    up: ComponentStatus = "operational"
    incident: Annotated[bool, Meta(description="Open an incident too, and resolve it")] = False
    api: str = STATUSPAGE


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """template: a body of one's own."""

    body: Annotated[str, Meta(max_length=16 * 1024)]
    content_type: str = "application/json"


class Exec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """exec: a program on the agent's host, with the event on its standard input; no shell."""

    command: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]


class Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One hook."""

    events: Annotated[tuple[str, ...], Meta(max_length=64, description="Types, or patterns such as instance.*")] = ()
    format: Format = "cloudevents"
    target: Target | None = None
    github: GitHub | None = None
    jira: Jira | None = None
    pagerduty: PagerDuty | None = None
    statuspage: Statuspage | None = None
    template: Body | None = None
    exec: Exec | None = None
    secret: Secret | None = None
    sign: Annotated[tuple[Secret, ...], Meta(max_length=4, description="Secrets, several while one rotates")] = ()
    for_: Annotated[Duration, Meta(description="Only when the condition has lasted so long")] = msgspec.field(
        default="0s", name="for"
    )
    debounce: Annotated[Duration, Meta(description="The least time between two events of one condition")] = "0s"
    max_per_hour: Annotated[int, Meta(ge=0, le=100_000, description="0: no limit")] = 100
    timeout: Annotated[Duration, Meta(description="For one request, or for the program")] = "10s"
    attempts: Annotated[int, Meta(ge=1, le=1000)] = 20
    give_up_after: Annotated[Duration, Meta(description="How old an event may be that is still tried")] = "24h"

    @property
    def keeps(self) -> bool:
        """Whether it keeps a condition elsewhere, opened and closed."""
        return self.format in KEEPS

    def names(self) -> frozenset[str]:
        """The types of events that it is for."""
        found = selected(self.events or (HEALTH[2:] if self.format == "statuspage" else HEALTH))
        return frozenset(n for n in found if BY_NAME[n].effect is not Effect.TELLS) if self.keeps else found

    def closers(self) -> frozenset[str]:
        """The types of events that it is told besides, when what they end was told: all that end it, for a format that
        keeps a condition, and for who chose no events."""
        return closing(self.names()) - self.names() if self.keeps or not self.events else frozenset()

    def remembers(self, event: Event) -> bool:
        """Whether the hook is to be told of the end of what an event begins."""
        return event.effect is Effect.OPENS and bool(closing((event.name,)) & (self.names() | self.closers()))

    @property
    def reopen_s(self) -> float:
        """For so long what was closed is opened again, instead of another one; 0: never."""
        kept = self.github or self.jira
        return seconds(kept.reopen) if kept is not None else 0.0

    def references(self) -> tuple[Reference, ...]:
        """Every secret that it needs."""
        return tuple(value for _, value in self._secrets("") if isinstance(value, Reference))

    def check(self, path: str, most: int = MAX_PARTS) -> int:
        """Raises Flaw. `most` is what its template may have in parts; returns what it has."""
        self._check_options(path)
        self._check_secrets(path)
        self._check_parts(path)
        self._check_events(path)
        self._check_times(path)
        if self.template is None:
            return 0
        try:
            return check_template(self.template.body, self.template.content_type, self.names(), most)
        except BadTemplate as error:
            raise Flaw(f"{path}.template.body", str(error)) from None

    def _secrets(self, path: str) -> Iterator[tuple[str, Reference | str]]:
        """With their paths. What may be plain too (URLs, headers) is left out when it is."""
        if self.secret is not None:
            yield f"{path}.secret", self.secret
        yield from ((f"{path}.sign[{n}]", value) for n, value in enumerate(self.sign))
        if self.pagerduty is not None:
            yield f"{path}.pagerduty.routing_key", self.pagerduty.routing_key
        if self.target is not None:
            if isinstance(self.target.url, Reference):
                yield f"{path}.target.url", self.target.url
            for name, value in self.target.headers.items():
                if isinstance(value, Reference) or _SECRET.search(name.lower()):
                    yield below(f"{path}.target.headers", name), value

    def _check_options(self, path: str) -> None:
        for option, format in _NEEDS.items():
            given = getattr(self, option) is not None
            if given and self.format != format:
                raise Flaw(f"{path}.{option}", f"an option of {format}; the format here is {self.format}")
            if not given and self.format == format:
                raise Flaw(f"{path}.{option}", f"missing: the format {format} needs it")
        if (self.target is None) is (self.format in _POSTED):
            what = "missing: where to" if self.target is None else f"{self.format} has an address of its own"
            raise Flaw(f"{path}.target", what)
        if self.target is not None and self.target.method != "POST" and self.format not in _OWN:
            raise Flaw(f"{path}.target.method", f"{self.format} is always POST")
        if self.secret is None and self.format in _TOKENED:
            raise Flaw(f"{path}.secret", f'missing: {self.format} needs a token, such as {{"file": "{self.format}"}}')
        if self.secret is not None and self.format not in _TOKENED | _OWN:
            raise Flaw(f"{path}.secret", f"{self.format} has no use for it")
        if self.sign and self.format not in _OWN:
            raise Flaw(f"{path}.sign", f"{self.format} does not look at signatures")

    def _check_secrets(self, path: str) -> None:
        for place, value in self._secrets(path):
            if isinstance(value, str):
                raise Flaw(place, _LITERAL)
            value.check(place)
        if len(set(self.sign)) != len(self.sign):
            raise Flaw(f"{path}.sign", "the same secret twice")

    def _check_parts(self, path: str) -> None:
        if self.target is not None:
            _check_target(self.target, f"{path}.target", secret=self.secret is not None)
            if self.secret is not None and any(name.lower() == "authorization" for name in self.target.headers):
                raise Flaw(f"{path}.secret", "it is sent as authorization, which target.headers has too")
        for option in ("github", "jira", "pagerduty", "statuspage"):
            part = getattr(self, option)
            if part is not None:
                _check_url(part.api, f"{path}.{option}.api", secret=True)
        if self.github is not None and not _REPO.match(self.github.repo):
            raise Flaw(f"{path}.github.repo", f"{self.github.repo[:80]!r} is no repository; owner/name")
        if self.github is not None and any("," in label for label in self.github.labels):
            raise Flaw(f"{path}.github.labels", "a label with a comma cannot be looked for")
        if self.jira is not None and not _PROJECT.match(self.jira.project):
            raise Flaw(f"{path}.jira.project", f"{self.jira.project[:80]!r} is no project's key, such as OPS")
        if self.jira is not None:
            for name in self.jira.fields:
                if not _FIELD.match(name) or name in _OWN_FIELDS:
                    what = "set by this hook" if name in _OWN_FIELDS else "no field's id, such as customfield_10010"
                    raise Flaw(below(f"{path}.jira.fields", name), what)
        if self.jira is not None and (":" in self.jira.user or not self.jira.user.isprintable()):
            raise Flaw(f"{path}.jira.user", "no account's e-mail address")
        if self.statuspage is not None:
            for field in ("page", "component"):
                if not _WORD.match(getattr(self.statuspage, field)):
                    raise Flaw(f"{path}.statuspage.{field}", "an id of letters and digits, from its address")
            if self.statuspage.up == self.statuspage.down:
                raise Flaw(f"{path}.statuspage.up", "the same as down: nothing would ever change")
        if self.template is not None and not _MEDIA.match(self.template.content_type):
            raise Flaw(f"{path}.template.content_type", "no media type, such as application/json")
        if self.exec is not None:
            for n, word in enumerate(self.exec.command):
                if "\0" in word or (n == 0 and not word.startswith("/")):
                    what = "the whole path of a program" if n == 0 else "a NUL character, which no argument can have"
                    raise Flaw(f"{path}.exec.command[{n}]", what)

    def _check_events(self, path: str) -> None:
        for n, pattern in enumerate(self.events):
            place = f"{path}.events[{n}]"
            names = selected((pattern,))
            if not names:
                raise Flaw(place, f"{pattern[:60]!r} is no event; there are: {', '.join(sorted(selected(('*',))))}")
            if self.keeps and all(BY_NAME[name].effect is Effect.TELLS for name in names):
                raise Flaw(place, f"{pattern} opens and closes nothing that {self.format} could keep")
            if self.format == "statuspage" and not all(name.startswith("service.") for name in names):
                raise Flaw(place, "a component has one status, so only service.down and service.recovered can set it")
        if not any(BY_NAME[name].effect is Effect.OPENS for name in self.names()):
            if self.keeps:
                raise Flaw(f"{path}.events", f"none of them opens anything that {self.format} could keep")
            if read_at(f"{path}.for", seconds, self.for_):
                raise Flaw(f"{path}.for", "none of the events opens a condition, which could last")

    def _check_times(self, path: str) -> None:
        for name, value, least, most in (
            ("for", self.for_, 0.0, 86400.0),
            ("debounce", self.debounce, 0.0, 86400.0),
            ("timeout", self.timeout, 0.1, 300.0),
            ("give_up_after", self.give_up_after, 60.0, 30 * 86400.0),
        ):
            bounded(f"{path}.{name}", value, least, most)
        for option in ("github", "jira"):
            part = getattr(self, option)
            if part is not None:
                bounded(f"{path}.{option}.reopen", part.reopen, 0.0, 7 * 86400.0)
        if seconds(self.give_up_after) <= seconds(self.for_):
            raise Flaw(f"{path}.give_up_after", "not longer than for: nothing would ever be told")


class Webhook(Document, frozen=True, kw_only=True):
    """The document."""

    hooks: Annotated[dict[str, Hook], Meta(description="By name")] = msgspec.field(default_factory=dict)

    def check(self) -> None:
        """Each hook."""
        if not self.hooks:
            raise Flaw("$.hooks", 'there is none; such as {"chat": {"format": "slack", ...}}')
        if len(self.hooks) > _MAX_HOOKS:
            raise Flaw("$.hooks", f"{len(self.hooks)} hooks; at most {_MAX_HOOKS}")
        left = MAX_PARTS
        for name, hook in self.hooks.items():
            path = below("$.hooks", name)
            if not _NAME.match(name):
                raise Flaw(path, "a hook's name is of a-z, 0-9 and '-', at most 63")
            left -= hook.check(path, left)


def _check_url(url: str, path: str, *, secret: bool) -> None:
    read_at(path, check_url, url)
    parts = urlsplit(url)
    if secret and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Flaw(path, "the secret would cross the network readable; use https")
    if path.endswith(".api") and (parts.query or url.endswith("/")):
        raise Flaw(path, "without a query, and without a slash at the end")


def _check_target(target: Target, path: str, *, secret: bool) -> None:
    if isinstance(target.url, str):
        secret = secret or any(isinstance(value, Reference) for value in target.headers.values())
        _check_url(target.url, f"{path}.url", secret=secret)
        if urlsplit(target.url).hostname == "hooks.slack.com":
            raise Flaw(f"{path}.url", f"whoever knows this URL can write to the channel: {_LITERAL}")
    for name, value in target.headers.items():
        place = below(f"{path}.headers", name)
        if not TOKEN.match(name) or _OURS.match(name.lower()):
            raise Flaw(place, "no header that a hook can set")
        if isinstance(value, str) and not (value.isascii() and value.isprintable() and len(value) <= 4096):
            raise Flaw(place, "a value is printable ASCII on one line")
