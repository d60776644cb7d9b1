"""What of live requests `log` documents let be shown: less what is redacted, and never more than so much."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.log.decide import REDACTED, Compiled, compile
from policies.kinds.log.document import Log, Tap
from policies.kinds.log.showing import MAX_FIELDS, MAX_VALUE, Shown, body_of, shows
from policies.request import SECRET_HEADERS

JSON = b"application/json; charset=utf-8"
FORM = b"application/x-www-form-urlencoded"


def rules(*bodies: str, redact: tuple[str, ...] = (), most: int = 4096, **more: object) -> Compiled:
    tap = Tap(headers=True, bodies=bodies, redact=redact, max_bytes=most)
    return compile(Log(tap=tap, **more))  # type: ignore[arg-type]


def test_secrets_show_that_they_were_there() -> None:
    """Those that everybody knows, those of the document, and those that only the caller of this knows."""
    shown = Shown()
    known = rules(redact_headers=("X-Email",))
    for name in (*SECRET_HEADERS, "x-email", "x-own"):
        shown.add(known, name.encode(), b"s3cret", name == "x-own")
    shown.add(known, b"x-tenant", b"blue", False)
    assert {name for name, text in shown.fields if text == REDACTED} == {*SECRET_HEADERS, "x-email", "x-own"}
    assert shown.fields[-1] == ("x-tenant", "blue")


@pytest.mark.parametrize("name", [b"location", b"content-location", b"referer"])
def test_of_a_url_the_query_is_not_shown(name: bytes) -> None:
    """It has codes and keys, and no document says which."""
    shown = Shown()
    shown.add(rules(), name, b"https://login.example/back?code=s3cret&state=1", False)
    shown.add(rules(), name, b"/plain", False)
    assert [text for _, text in shown.fields] == [f"https://login.example/back?{REDACTED}", "/plain"]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.integers(0, 6_000_000)), max_size=300))
def test_a_head_has_a_bound(fields: list[tuple[bytes, int]]) -> None:
    """Whatever it is made of: 5 MiB in one field, or a thousand fields. What there was no room for is counted."""
    shown, known = Shown(), rules()
    whole = b"x" * 6_000_000
    for name, size in fields:
        shown.add(known, name, memoryview(whole)[:size].tobytes() if size < 2000 else whole[:2000], False)
    assert sum(len(name) + len(text) for name, text in shown.fields) <= MAX_FIELDS
    assert all(len(text) <= MAX_VALUE + 1 for _, text in shown.fields)
    assert len(shown.fields) + shown.left_out == len(fields)


@pytest.mark.parametrize(
    ("allowed", "media", "shown"),
    [
        (("application/json",), "application/json", True),
        (("application/json",), "application/json-seq", False),
        (("text/*",), "text/plain", True),
        (("text/*",), "texts/plain", False),
        (("*",), "", True),
        ((), "text/plain", False),
    ],
)
def test_types_of_bodies(allowed: tuple[str, ...], media: str, shown: bool) -> None:
    assert shows(allowed, media) is shown


def test_a_body_is_cut_and_says_so() -> None:
    """Within a character, too."""
    found = body_of(rules("text/*"), b"text/plain", b"", "aé".encode()[:2], 1_000_000)
    assert found == ("a", 1_000_000, True, "")
    assert body_of(rules("*"), b"", b"", b"", 0) == ("", 0, False, "")
    assert body_of(rules("*"), b"", b"identity", b"ok", 2) == ("ok", 2, False, "")


@pytest.mark.parametrize(
    ("media", "encoding", "begins", "size", "why"),
    [
        (b"image/png", b"", b"\x89PNG", 4, "the log document shows no image/png"),
        (b"text/plain", b"gzip", b"abc", 3, "it is encoded: gzip"),
        (b"text/plain", b"", b"\xff\xfe", 2, "no text: text/plain"),
        (b"text/plain", b"", b"\x1b[2J", 4, "no text: text/plain"),
        (b"", b"", b"x", 1, "the log document shows no body without a type"),
    ],
)
def test_what_is_not_shown_says_why(media: bytes, encoding: bytes, begins: bytes, size: int, why: str) -> None:
    found = body_of(rules("text/*"), media, encoding, begins, size)
    assert (found.text, found.size, found.why) == ("", size, why)


def test_fields_are_redacted_at_any_depth_however_they_are_written() -> None:
    """In JSON and in forms."""
    known = rules("*", redact=("Password", "card"), redact_query=("token",))
    body = b'{"user": {"pass\\u0077ord": "s3cret", "PASSWORD": ["s3cret"]}, "c": [{"card": {"n": "s3cret"}}], "n": 1}'
    found = body_of(known, JSON, b"", body, len(body))
    assert "s3cret" not in found.text and not found.why
    assert json.loads(found.text)["user"] == {"password": REDACTED, "PASSWORD": REDACTED}
    assert json.loads(found.text)["n"] == 1
    form = b"n=1&p%61ssword=s3cret&TOKEN=seen&token=s3cret&card&x"
    told = body_of(known, FORM, b"", form, len(form)).text
    assert told == f"n=1&p%61ssword={REDACTED}&TOKEN=seen&token={REDACTED}&{REDACTED}&x"
    assert body_of(rules("*", redact_query=("*",)), FORM, b"", b"a=1&b", 5).text == f"a={REDACTED}&{REDACTED}"


@pytest.mark.parametrize(
    ("media", "body", "size", "words"),
    [
        (JSON, b'{"password": "s3', 400, "more than 16 bytes"),
        (JSON, b"password=s3cret", 15, "no JSON"),
        (JSON, b"[" * 3000, 3000, "no JSON"),
        (JSON, b'{"password": "\xff"}', 17, "no JSON"),
        (b"text/plain", b"password: s3cret", 16, "known in JSON and forms only"),
        (FORM, b"a=\xff", 3, "known in JSON and forms only"),
    ],
)
def test_what_might_have_a_redacted_field_unseen_is_not_shown(media: bytes, body: bytes, size: int, words: str) -> None:
    found = body_of(rules("*", redact=("password",)), media, b"", body, size)
    assert found.text == "" and words in found.why and "s3cret" not in found.why


@given(st.binary(max_size=300), st.sampled_from([JSON, FORM, b"text/plain", b"x", b"\xff/\xff"]), st.integers(0, 10**9))
def test_garbage_is_shown_or_not_and_nothing_else(begins: bytes, media: bytes, more: int) -> None:
    for known in (rules("*"), rules("*", redact=("a",)), rules("*", redact_query=("a",))):
        found = body_of(known, media, b"", begins, len(begins) + more)
        assert len(found.text) <= 6 * len(begins) + 20 and (not found.text or not found.why)
        found.text.encode()
