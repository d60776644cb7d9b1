"""`webhook`: what a document may say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.webhook.document import Hook, Reference, Webhook
from policies.kinds.webhook.event import BY_NAME, Effect
from policies.language.document import Invalid, convert
from policies.language.plain import Flaw, load
from policies.language.url import check_url

URL = {"target": {"url": "https://x.example/hook"}}
FILE = {"file": "token"}
GITHUB = {"format": "github-issue", "github": {"repo": "acme/pets"}, "secret": FILE}
JIRA = {
    "format": "jira",
    "jira": {"api": "https://acme.atlassian.net", "project": "OPS", "user": "a@b.c"},
    "secret": FILE,
}
PAGERDUTY = {"format": "pagerduty", "pagerduty": {"routing_key": FILE}}
STATUSPAGE = {"format": "statuspage", "statuspage": {"page": "p1", "component": "c1"}, "secret": FILE}
SLACK = {"format": "slack", "target": {"url": FILE}}
TEMPLATE = {"format": "template", **URL, "template": {"body": "{}"}}
EXEC = {"format": "exec", "exec": {"command": ["/bin/true"]}}
EACH = [
    {**URL},
    {"format": "cloudevents-binary", **URL},
    SLACK,
    PAGERDUTY,
    STATUSPAGE,
    GITHUB,
    JIRA,
    TEMPLATE,
    EXEC,
]


def read(hooks: Any) -> Webhook:
    document = convert(load(json.dumps({"hooks": hooks}).encode()), Webhook)
    document.check()
    return document


def hook(**fields: Any) -> Hook:
    return read({"h": fields}).hooks["h"]


@pytest.mark.parametrize("fields", EACH, ids=lambda fields: str(fields.get("format")))
def test_each_format_needs_little(fields: dict[str, Any]) -> None:
    """And every option of another format beside it is refused, as is a secret that it has no use for."""
    made = hook(**fields)
    assert made.names()
    for other in EACH:
        for option in ("github", "jira", "pagerduty", "statuspage", "template", "exec", "target"):
            if option in other and option not in fields:
                with pytest.raises(Flaw, match=rf"\$\.hooks\.h\.{option}"):
                    hook(**{**fields, option: other[option]})
    for option in ("github", "jira", "pagerduty", "statuspage", "template", "exec", "target"):
        if option in fields:
            with pytest.raises(Flaw, match=rf"\$\.hooks\.h\.{option}: missing"):
                hook(**{name: value for name, value in fields.items() if name != option})


def test_a_format_that_keeps_takes_only_what_opens_and_closes() -> None:
    """A pattern may stand for more."""
    assert "instance.registered" in hook(**URL, events=["instance.*"]).names()
    assert hook(**GITHUB, events=["instance.*"]).names() == {"instance.unhealthy", "instance.healthy", "instance.gone"}
    assert hook(**STATUSPAGE).names() == {"service.down", "service.recovered"}
    assert all(BY_NAME[name].effect is not Effect.TELLS for name in hook(**PAGERDUTY, events=["*"]).names())


def test_every_secret_is_named() -> None:
    """So that it can be read beforehand."""
    target = {"url": {"env": "SHOAL_HOOK_URL"}, "headers": {"x-key": {"file": "key"}, "x-team": "pets"}}
    made = hook(target=target, secret=FILE, sign=[{"file": "new"}, {"file": "old"}])
    assert set(made.references()) == {
        Reference(env="SHOAL_HOOK_URL"),
        Reference(file="key"),
        Reference(file="token"),
        Reference(file="new"),
        Reference(file="old"),
    }
    assert hook(**PAGERDUTY).references() == (Reference(file="token"),)
    assert hook(**EXEC).references() == ()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("secret", {**URL, "secret": "s3cret"}),
        ("sign[1]", {**URL, "sign": [FILE, "whsec_x"]}),
        ("pagerduty.routing_key", {"format": "pagerduty", "pagerduty": {"routing_key": "R1"}}),
        ("target.url", {"format": "slack", "target": {"url": "https://hooks.slack.com/services/T/B/x"}}),
        ("target.headers.Authorization", {"target": {**URL["target"], "headers": {"Authorization": "Bearer x"}}}),
        ("target.headers.X-Api-Key", {"target": {**URL["target"], "headers": {"X-Api-Key": "x"}}}),
        ("target.headers.Private-Token", {"target": {**URL["target"], "headers": {"Private-Token": "x"}}}),
    ],
)
def test_a_secret_itself_is_refused(path: str, fields: dict[str, Any]) -> None:
    """With what to do, and without saying it again."""
    with pytest.raises(Flaw) as caught:
        hook(**fields)
    assert caught.value.path == f"$.hooks.h.{path}"
    assert '{"file": "its-name"}' in caught.value.reason and "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"secret": {}}, "secret: exactly one of file and env"),
        ({"secret": {"file": "a", "env": "SHOAL_HOOK_A"}}, "secret: exactly one of file and env"),
        ({"secret": {"file": "/etc/shadow"}}, "secret.file: a name without slashes"),
        ({"secret": {"file": ".."}}, "secret.file: a name without slashes"),
        ({"secret": {"env": "AWS_SECRET_ACCESS_KEY"}}, "secret.env: 'AWS_SECRET_ACCESS_KEY' is none that hooks may"),
        ({"secret": {"value": "x"}}, "secret: no field 'value' here; there are: file, env"),
        ({"sign": [FILE, FILE]}, "sign: the same secret twice"),
        ({**SLACK, "sign": [FILE]}, "sign: slack does not look at signatures"),
        ({**SLACK, "secret": FILE}, "secret: slack has no use for it"),
        ({**SLACK, "target": {"url": FILE, "method": "PUT"}}, "target.method: slack is always POST"),
        ({"format": "jira", "jira": JIRA["jira"]}, 'secret: missing: jira needs a token, such as {"file": "jira"}'),
        ({"secret": FILE, "target": {"url": "http://x.example/"}}, "target.url: the secret would cross the network"),
        ({"secret": FILE, "target": {"url": "https://x/", "headers": {"authorization": FILE}}}, "secret: it is sent"),
        ({"target": {"url": "ftp://x/"}}, "target.url: no URL, which begins with https://"),
        ({"target": {"url": "https://x/", "headers": {"Host": "y"}}}, "target.headers.Host: no header that a hook"),
        ({"target": {"url": "https://x/", "headers": {"webhook-id": "y"}}}, "target.headers.webhook-id: no header"),
        ({"target": {"url": "https://x/", "headers": {"x": "a\nb"}}}, "target.headers.x: a value is printable ASCII"),
        ({"target": {"url": "https://x/", "method": "GET"}}, "target.method: 'GET' is none of: PATCH, POST, PUT"),
        ({"events": ["instance.ill"]}, "events[0]: 'instance.ill' is no event; there are: agent.joined, "),
        ({"events": ["hook.digest"]}, "events[0]: 'hook.digest' is no event"),
        ({**GITHUB, "events": ["instance.registered"]}, "events[0]: instance.registered opens and closes nothing"),
        ({**GITHUB, "events": ["instance.healthy"]}, "events: none of them opens anything that github-issue"),
        ({**STATUSPAGE, "events": ["instance.*"]}, "events[0]: a component has one status"),
        ({"events": ["instance.healthy"], "for": "5s"}, "for: none of the events opens a condition"),
        ({"for": "soon"}, "for: 'soon' is no duration"),
        ({"for": "25h"}, "for: 90000 s; from 0 s to 86400 s"),
        ({"debounce": "25h"}, "debounce: 90000 s; from 0 s to 86400 s"),
        ({"timeout": "0s"}, "timeout: 0 s; from 0.1 s to 300 s"),
        ({"give_up_after": "1s"}, "give_up_after: 1 s; from 60 s to"),
        ({"for": "2h", "give_up_after": "1h"}, "give_up_after: not longer than for"),
        ({"attempts": 0}, "attempts: expected a whole number >= 1"),
        ({"max_per_hour": -1}, "max_per_hour: expected a whole number >= 0"),
        ({**GITHUB, "github": {"repo": "pets"}}, "github.repo: 'pets' is no repository; owner/name"),
        ({**GITHUB, "github": {"repo": "a/b", "labels": []}}, "github.labels: expected a list of length >= 1"),
        ({**GITHUB, "github": {"repo": "a/b", "labels": ["a,b"]}}, "github.labels: a label with a comma"),
        ({**GITHUB, "github": {"repo": "a/b", "api": "http://x.example"}}, "github.api: the secret would cross"),
        ({**GITHUB, "github": {"repo": "a/b", "api": "https://x/"}}, "github.api: without a query, and without"),
        ({**JIRA, "jira": {**JIRA["jira"], "project": "ops"}}, "jira.project: 'ops' is no project's key"),
        ({**JIRA, "jira": {**JIRA["jira"], "user": "a:b"}}, "jira.user: no account's e-mail"),
        ({**STATUSPAGE, "statuspage": {"page": "a/b", "component": "c"}}, "statuspage.page: an id of letters"),
        (
            {**STATUSPAGE, "statuspage": {"page": "a", "component": "c", "up": "major_outage"}},
            "statuspage.up: the same as down",
        ),
        ({**EXEC, "exec": {"command": ["sh", "-c"]}}, "exec.command[0]: the whole path of a program"),
        ({**EXEC, "exec": {"command": ["/bin/sh", "\0"]}}, "exec.command[1]: a NUL character"),
        ({**TEMPLATE, "template": {"body": "a\n{{ x }}"}}, "template.body: line 2: no name 'x'"),
        ({**TEMPLATE, "template": {"body": "{{ title }}"}}, "template.body: line 1: makes no JSON of instance.healthy"),
        ({**TEMPLATE, "template": {"body": "", "content_type": "x"}}, "template.content_type: no media type"),
    ],
)  # fmt: skip
def test_every_refusal_says_where_and_what(fields: dict[str, Any], said: str) -> None:
    """Of one hook."""
    with pytest.raises(Flaw) as caught:
        hook(**{**({} if fields.get("format") else URL), **fields})
    assert f"{caught.value}".startswith(f"$.hooks.h.{said}"), caught.value


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({}, "$.hooks: there is none; such as "),
        ({"Chat": SLACK}, "$.hooks.Chat: a hook's name is of a-z, 0-9 and '-'"),
        ({"a b": SLACK}, '$.hooks["a b"]: a hook\'s name is'),
        ({f"h{n}": SLACK for n in range(33)}, "$.hooks: 33 hooks; at most 32"),
        ({"chat": {"formt": "slack"}}, "$.hooks.chat: no field 'formt' here (did you mean 'format'?)"),
    ],
)
def test_refusals_of_the_whole(hooks: Any, said: str) -> None:
    """Names and numbers of hooks."""
    with pytest.raises(Flaw) as caught:
        read(hooks)
    assert str(caught.value).startswith(said), caught.value


@pytest.mark.parametrize(
    "url",
    [
        "https://x.example",
        "https://x.example:8443/a/b?c=d&e=%20",
        "http://127.0.0.1:9/",
        "https://[2001:db8::1]:443/x",
        "https://a_b.internal/",
    ],
)
def test_addresses(url: str) -> None:
    """That may be called, as far as their form goes."""
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x.example",
        "//x.example/",
        "https://",
        "https:///path",
        "https://u:p@x.example/",
        "https://x.example@evil.example/",
        "https://x.example\\@evil.example/",
        "https://x.example/#a",
        "https://x.example:99999/",
        "https://x.example:a/",
        "https://x example/",
        "https://x.example/\r\nhost: y",
        "https://é.example/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://[::1/",
        "https://%31/",
        "https://x.example/" + "a" * 2100,
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    """Or that two readers would read differently."""
    with pytest.raises(ValueError, match=r"URL|host|fragment"):
        check_url(url)


@given(st.text())
def test_any_text_is_an_address_or_is_refused(url: str) -> None:
    """Nothing but ValueError."""
    for text in (url, f"https://{url}", f"https://x/{url}"):
        try:
            check_url(text)
        except ValueError:
            continue
        assert text.isascii() and " " not in text and "@" not in text.split("/")[2]


def test_the_templates_of_a_document_are_counted_together() -> None:
    """Thirty-two honest ones of many lines were ten seconds of every agent's."""
    lines = "{{ title | tojson }} is {{ data.reason | tojson }}\n"
    hook = {
        "format": "template",
        "target": {"url": "https://x.example/"},
        "template": {"body": lines * 20, "content_type": "text/plain"},
    }
    assert isinstance(
        parse("webhook", "*", json.dumps({"hooks": {f"h{n}": hook for n in range(10)}}).encode()), Webhook
    )
    many = parse("webhook", "*", json.dumps({"hooks": {f"h{n}": hook for n in range(32)}}).encode())
    assert isinstance(many, Invalid)
    assert "parts, where the templates before it left" in many.reason
