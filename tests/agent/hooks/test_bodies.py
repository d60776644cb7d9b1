"""What each format sends, read as its receiver's documentation says."""

import base64
import json
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from cloudevents.v1.http import from_http
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Referee

from agent.events import cut
from agent.hooks.bodies import steps
from agent.hooks.receivers import Receivers
from agent.hooks.steps import Action, Done, Exited, Failed, Request, Response, Run
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import BY_NAME, Effect, Event, sample
from policies.language.secret import Reference

KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()
SECRETS = {Reference(file="token"): "t0ken\n", Reference(file="url"): "https://hooks.slack.com/services/T/B/x"}
SECRETS |= {Reference(file="new"): KEY, Reference(file="old"): "whsec_" + base64.b64encode(b"o" * 32).decode()}
TARGET = {"url": "https://x.example/hook"}
OWN = ("x.example", "x", "events.pagerduty.com", "api.statuspage.io")
RECEIVERS = Receivers(dict.fromkeys(("token", "new", "old", "gone", "u", "t"), OWN))


def now() -> int:
    """The referee looks at the clock: five minutes either way."""
    return int(time.time())


def hook(**fields: Any) -> Hook:
    made = msgspec.convert({"target": TARGET, **fields}, Hook)
    made.check("$")
    return made


def first(event: Event, made: Hook) -> Action:
    return steps(event, made, SECRETS, now(), RECEIVERS).next()


def request(event: Event, made: Hook) -> Request:
    found = first(event, made)
    assert isinstance(found, Request), found
    return found


def test_cloudevents_in_both_modes_signed() -> None:
    """Read back by the SDK; the signature is judged by the standard's own library."""
    for format in ("cloudevents", "cloudevents-binary"):
        made = hook(format=format, sign=[{"file": "new"}, {"file": "old"}], secret={"file": "token"})
        sent = request(sample(text=" “é”"), made)
        assert (sent.method, sent.url) == ("POST", "https://x.example/hook")
        assert sent.headers["authorization"] == "Bearer t0ken" and sent.headers["webhook-id"] == sample().id
        assert from_http(sent.headers, sent.body).data["reason"] == "reason “é”"
        for secret in ("new", "old"):
            Referee(SECRETS[Reference(file=secret)]).verify(sent.body, sent.headers)


def test_headers_and_method_of_ones_own() -> None:
    """Values are text or references."""
    target = {**TARGET, "method": "PUT", "headers": {"X-Team": "pets", "X-Key": {"file": "token"}}}
    sent = request(sample(), hook(target=target))
    assert (sent.method, sent.headers["x-team"], sent.headers["x-key"]) == ("PUT", "pets", "t0ken")
    assert sent.headers["content-type"].startswith("application/cloudevents+json")


@given(st.sampled_from(sorted(BY_NAME)), st.text(max_size=3000))
def test_slack(name: str, reason: str) -> None:
    """A text for notifications, blocks within their limits, and nothing that the program said is markup."""
    event = msgspec.structs.replace(sample(name), data={"reason": reason})
    sent = request(event, hook(format="slack", target={"url": {"file": "url"}}))
    assert sent.url == "https://hooks.slack.com/services/T/B/x" and sent.headers["content-type"] == "application/json"
    body = json.loads(sent.body)
    section, *said, context = body["blocks"]
    assert section["type"] == "section" and section["text"]["type"] == "mrkdwn" and body["mrkdwn"] is False
    assert [one["text"]["type"] for one in said] == ["plain_text"] * bool(reason)
    assert all(0 < len(one["text"]["text"]) <= 500 for one in said)
    assert 0 < len(section["text"]["text"]) <= 3000 and 0 < len(context["elements"][0]["text"]) <= 3000
    assert "<" not in section["text"]["text"] and "<" not in body["text"]
    assert event.title in body["text"]


def test_slack_answers_in_text() -> None:
    """What it says of a channel that was archived is passed on."""
    delivery = steps(sample(), hook(format="slack", target={"url": {"file": "url"}}), SECRETS, now())
    delivery.next()
    assert delivery.next(Response(200, {}, b"ok")) == Done("status 200")
    delivery.next()
    assert delivery.next(Response(410, {}, b"channel_is_archived")) == Failed("status 410: channel_is_archived", False)


PAGERDUTY = {"format": "pagerduty", "pagerduty": {"routing_key": {"file": "token"}}, "target": None}


def test_pagerduty_triggers_and_resolves_by_one_key() -> None:
    """Events API v2; the required fields and their limits."""
    made = hook(**PAGERDUTY, events=["*"])
    opened = request(sample(text="x" * 2000), made)
    body = json.loads(opened.body)
    assert (opened.method, opened.url) == ("POST", "https://events.pagerduty.com/v2/enqueue")
    assert body["event_action"] == "trigger" and body["routing_key"] == "t0ken"
    assert len(body["payload"]["summary"]) <= 1024 and body["payload"]["severity"] == "critical"
    assert body["payload"]["source"] and body["payload"]["timestamp"] == "2026-01-02T03:04:05Z"
    assert body["links"][0]["href"]
    for ending in ("instance.healthy", "instance.gone"):
        closed = json.loads(request(sample(ending), made).body)
        assert closed == {"routing_key": "t0ken", "event_action": "resolve", "dedup_key": body["dedup_key"]}
    assert first(sample("instance.registered"), made) == Done("instance.registered opens and closes nothing")


def test_a_key_that_pagerduty_would_not_take_is_shortened() -> None:
    """Alike for both ends."""
    long = msgspec.structs.replace(sample(), key="m/" + "x" * 500)
    keys = {json.loads(request(long, hook(**PAGERDUTY)).body)["dedup_key"] for _ in range(2)}
    assert len(keys) == 1 and len(keys.pop()) < 255


def test_statuspage_sets_the_component() -> None:
    """REST API v1."""
    made = hook(
        format="statuspage",
        target=None,
        statuspage={"page": "p1", "component": "c1", "down": "partial_outage"},
        secret={"file": "token"},
    )
    down, up = request(sample("service.down"), made), request(sample("service.recovered"), made)
    assert (down.method, down.url) == ("PATCH", "https://api.statuspage.io/v1/pages/p1/components/c1")
    assert down.headers["authorization"] == "OAuth t0ken"
    assert json.loads(down.body) == {"component": {"status": "partial_outage"}}
    assert json.loads(up.body) == {"component": {"status": "operational"}}


def test_template() -> None:
    """A body of one's own, signed as any other; a failure when it is made is final."""
    body = '{"text": {{ title | tojson }}}'
    sent = request(sample(), hook(format="template", template={"body": body}, sign=[{"file": "new"}]))
    assert json.loads(sent.body) == {"text": sample().title} == Referee(KEY).verify(sent.body, sent.headers)
    made = msgspec.convert({"format": "template", "target": TARGET, "template": {"body": "{{ title > 3 }}"}}, Hook)
    failed = first(sample(), made)
    assert isinstance(failed, Failed) and failed.reason.startswith("template.body: line 1: ") and not failed.again


def test_exec() -> None:
    """The event on standard input and in the environment; the exit status is the answer."""
    made = hook(format="exec", target=None, exec={"command": ["/bin/lamp", "-x"]})
    delivery = steps(sample(), made, {}, now())
    run = delivery.next()
    assert isinstance(run, Run) and run.argv == ("/bin/lamp", "-x")
    assert json.loads(run.stdin)["type"] == "io.shoal.instance.unhealthy"
    assert run.environ["SHOAL_EVENT_NAME"] == "instance.unhealthy" and run.environ["SHOAL_EVENT_EFFECT"] == "opens"
    assert all("\0" not in value for value in run.environ.values())
    assert delivery.next(Exited(0)) == Done("exit status 0")
    delivery.next()
    assert delivery.next(Exited(3)) == Failed("exit status 3", True)
    delivery.next()
    assert isinstance(delivery.next(Response(200)), Failed)


@pytest.mark.parametrize(
    ("fields", "secrets", "said"),
    [
        ({"secret": {"file": "gone"}}, {}, "no secret in the file gone"),
        ({"format": "slack", "target": {"url": {"env": "SHOAL_HOOK_X"}}}, {}, "no secret in the variable SHOAL_HOOK_X"),
        (
            {"format": "slack", "target": {"url": {"file": "u"}}},
            {Reference(file="u"): "hooks.slack.com/x"},
            "the secret in the file u is no URL",
        ),
        ({"sign": [{"file": "u"}]}, {Reference(file="u"): "hello"}, "sign: a signing secret is base64"),
        ({"secret": {"file": "u"}}, {Reference(file="u"): "a\r\nx: y"}, "the secret in the file u is not one line"),
        (PAGERDUTY, {}, "no secret in the file token"),
        ({"format": "jira", "target": None, "jira": {"api": "https://x", "project": "A"}, "secret": {"file": "t"}}, {},
         "no secret in the file t"),
    ],
)  # fmt: skip
def test_a_bad_secret_fails_the_attempt_and_may_be_mended(
    fields: dict[str, Any], secrets: dict[Reference, str], said: str
) -> None:
    """It says which, and does not say it."""
    failed = steps(sample(), hook(**fields), secrets, now(), RECEIVERS).next()
    assert isinstance(failed, Failed) and failed.again and failed.reason.startswith(said), failed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """Where they lead was not judged."""
    delivery = steps(sample(), hook(), SECRETS, now())
    delivery.next()
    found = delivery.next(Response(status, {"location": "http://169.254.169.254/"}))
    assert isinstance(found, Failed) and not found.again and "169.254" not in found.reason


@given(st.sampled_from(sorted(BY_NAME)), st.sampled_from(["cloudevents", "cloudevents-binary", "slack", "exec"]))
def test_every_type_can_be_sent_in_every_way(name: str, format: str) -> None:
    """A title, a body, headers of one line."""
    fields: dict[str, Any] = {"format": format}
    if format == "exec":
        fields |= {"exec": {"command": ["/x"]}, "target": None}
    found = first(sample(name, cut("\n\0é" * 3000)), hook(**fields))
    assert isinstance(found, Request | Run)
    if isinstance(found, Request):
        assert urlsplit(found.url).netloc == "x.example"
        assert all(value.isascii() and value.isprintable() for value in found.headers.values())
    assert BY_NAME[name].effect in Effect
