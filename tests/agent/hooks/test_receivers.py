"""Who may be sent a secret."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.hooks.bodies import steps
from agent.hooks.receivers import Receivers
from agent.hooks.steps import Failed, Request
from policies.kinds.webhook.document import GITHUB, Hook
from policies.kinds.webhook.event import sample
from policies.language.secret import Reference

TOKEN = Reference(file="token")
TABLE = Receivers({
    "token": ["api.github.com", "*.atlassian.net", "10.0.0.5", "Redis.Corp:6380", "[2001:db8::1]:443"],
    "none": [],
    "SHOAL_HOOK_X": ["x.example"],
})  # fmt: skip


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.github.com/x", True),
        ("https://API.GitHub.com./x", True),
        ("https://api.github.com:8443/x", True),
        ("https://acme.atlassian.net", True),
        ("https://a.b.atlassian.net", True),
        ("https://atlassian.net", False),
        ("https://evilatlassian.net", False),
        ("https://atlassian.net.evil.example", False),
        ("https://api.github.com.evil.example", False),
        ("https://10.0.0.5", True),
        ("https://[2001:DB8:0:0::1]/", True),
        ("https://[2001:db8::1]:444/", False),
        ("rediss://redis.corp:6380", True),
        ("rediss://redis.corp:6379", False),
        ("http://api.github.com/", False),
        ("https://evil.example/", False),
    ],
)
def test_the_settings_decide(url: str, may: bool) -> None:
    """A name, all below one, an address; any port, or one. Never readable on the way."""
    assert (TABLE.refused(TOKEN, url) == "") is may


def test_without_a_word_only_the_fixed_api() -> None:
    """Where a document names another one, or the settings say something else, it is closed."""
    nothing = Receivers()
    assert nothing.refused(TOKEN, GITHUB + "/repos", fixed=GITHUB) == ""
    assert nothing.refused(TOKEN, "https://ghe.evil.example", fixed=GITHUB) != ""
    assert nothing.refused(TOKEN, "https://events.example") != ""
    assert TABLE.refused(Reference(file="none"), GITHUB, fixed=GITHUB) != ""


def test_the_refusal_says_what_to_write() -> None:
    """The line of agent.toml, with what stands in it already; not the host, where the URL is a secret."""
    said = Receivers({"a.b": ["x.example"]}).refused(Reference(file="a.b"), "https://evil.example/y?z=1")
    assert said.endswith('[hooks.secrets]: "a.b" = ["x.example", "evil.example"]')
    hidden = Receivers().refused(Reference(env="SHOAL_HOOK_Y"), "https://chat.example/s3cret", hidden=True)
    assert "chat.example" not in hidden and "s3cret" not in hidden and "SHOAL_HOOK_Y = [its host]" in hidden


@pytest.mark.parametrize("entry", ["", "*", "https://x.example", "x.example/", "x.example:0", "x.example:99999", "a b"])
def test_an_entry_that_is_none(entry: str) -> None:
    """Is refused with its name and what would be right."""
    with pytest.raises(ValueError, match=r"token: .* is no (host|port)"):
        Receivers({"token": [entry]})
    with pytest.raises(ValueError, match="neither a file's name"):
        Receivers({"../shadow": ["x.example"]})


EVIL = "https://evil.example"
TARGET = {"url": f"{EVIL}/in"}
WAYS: list[dict[str, Any]] = [
    {"target": TARGET, "secret": {"file": "token"}},
    {"target": TARGET, "sign": [{"file": "token"}]},
    {"target": {**TARGET, "headers": {"x-key": {"file": "token"}}}},
    {"target": {**TARGET, "headers": {"authorization": {"file": "token"}}}, "format": "cloudevents-binary"},
    {"format": "slack", "target": {**TARGET, "headers": {"x-key": {"file": "token"}}}},
    {"format": "template", "template": {"body": "{}"}, "target": TARGET, "secret": {"file": "token"}},
    {"format": "template", "template": {"body": "{}"}, "target": {"url": {"file": "url"}}, "secret": {"file": "token"}},
    {"format": "pagerduty", "pagerduty": {"routing_key": {"file": "token"}, "api": EVIL}},
    {"format": "statuspage", "statuspage": {"page": "p", "component": "c", "api": EVIL}, "secret": {"file": "token"}},
    {"format": "github-issue", "github": {"repo": "a/b", "api": EVIL}, "secret": {"file": "token"}},
    {"format": "jira", "jira": {"api": EVIL, "project": "OPS", "user": "a@b"}, "secret": {"file": "token"}},
    {"format": "jira", "jira": {"api": EVIL, "project": "OPS"}, "secret": {"file": "token"}},
]


@pytest.mark.parametrize("fields", WAYS, ids=lambda fields: fields.get("format", "cloudevents"))
def test_no_document_has_a_secret_sent_to_its_own_host(fields: dict[str, Any]) -> None:
    """In whatever way a format carries it: nothing is sent at all; with the settings' word it is."""
    made = msgspec.convert(fields, Hook)
    made.check("$")
    key = "whsec_" + "QUFB" * 8
    values = {TOKEN: key, Reference(file="url"): "https://chat.example/services/1"}
    refused = steps(sample(), made, values, 1).next()
    assert isinstance(refused, Failed) and refused.again
    assert "[hooks.secrets]: token = [" in refused.reason and key not in refused.reason
    assert "chat.example" not in refused.reason
    allowed = steps(sample(), made, values, 1, Receivers({"token": ["evil.example", "chat.example"]})).next()
    assert isinstance(allowed, Request)
