"""Answers that documents write: one law, whichever kind writes them."""

import json

import pytest

from policies.catalogue import parse
from policies.language.document import Invalid

WRITTEN = [
    ("route", '{"rules": [{"respond": %s}]}', "$.rules[0].respond"),
    ("fault", '{"expires": "2026-12-01T18:00:00Z", "rules": [{"abort": %s}]}', "$.rules[0].abort"),
    ("breaker", '{"trip": {"consecutive": 3}, "fallback": {"respond": %s}}', "$.fallback.respond"),
    ("shed", '{"instead": [{"respond": %s}]}', "$.instead[0].respond"),
]


@pytest.mark.parametrize(("kind", "document", "path"), WRITTEN, ids=[kind for kind, _, _ in WRITTEN])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 204, "body": "x"}, ".body: an answer with status 204 has no body"),
        ({"headers": {"content-length": "1"}}, ".headers.content-length: content-length belongs to the proxy"),
        ({"headers": {"x-a": "1\r\n"}}, ".headers.x-a: a character that cannot stand in a header"),
    ],
)
def test_what_no_answer_can_be_is_refused(
    kind: str, document: str, path: str, answer: dict[str, object], said: str
) -> None:
    """A body where the status has none, a header of the framing, and a line that would be two."""
    found = parse(kind, "pets.production", (document % json.dumps(answer)).encode())
    assert isinstance(found, Invalid), found
    assert f"{found.path}: {found.reason}".startswith(path + said)
