"""Signatures: judged by the library of the people who wrote the standard."""

import base64
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from agent.hooks.signing import decode, sign

KEYS = st.binary(min_size=24, max_size=64)
"""The referee looks at the clock: five minutes either way."""


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


@given(key=KEYS, old=KEYS, body=st.text().map(str.encode), id=st.text("abc0123456789-", min_size=1))
def test_the_referee_accepts_each_of_the_secrets(key: bytes, old: bytes, body: bytes, id: str) -> None:
    """The new one and the one that rotates out; it does not accept another body."""
    now = int(time.time())  # the referee takes what is five minutes old for replayed, and a suite may run longer
    headers = sign(id, now, body, [decode(secret(key)), decode(secret(old))])
    for known in (key, old):
        Webhook(secret(known)).verify(body, headers, json_parse=False)
    for changed in ({"webhook-id": id + "x"}, {"webhook-timestamp": str(now + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret(key)).verify(body, {**headers, **changed}, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(key)).verify(body + b" ", headers, json_parse=False)


def test_one_signature_for_each_secret() -> None:
    """Separated by a space, each with its version."""
    value = sign("e", 1, b"", [b"a" * 24, b"b" * 24])["webhook-signature"]
    assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=", value)


@given(KEYS)
def test_secrets_as_they_stand_in_files(key: bytes) -> None:
    """With and without the prefix, with a line feed at the end."""
    assert decode(secret(key) + "\n") == decode(secret(key).removeprefix("whsec_")) == key


@pytest.mark.parametrize("text", ["", "whsec_", "password", "whsec_***", "whsec_" + "A" * 28, "whsec_" + "A" * 400])
def test_what_is_no_secret(text: str) -> None:
    """Neither base64 nor of 24 to 64 bytes."""
    with pytest.raises(ValueError, match="a signing secret"):
        decode(text)
