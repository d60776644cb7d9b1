"""API keys: which count, what they claim, and what does not pass for one."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from typing import Any

import pytest

from policies.catalogue import parse
from policies.kinds.authn.api_keys import SECRET_BYTES, made
from policies.kinds.authn.decide import Compiled, Invalid, compile
from policies.kinds.authn.document import Authn
from policies.language.document import Invalid as Refused
from policies.request import Request
from tests.policies.kinds.authn.test_authn import GOOD, NOW
from tests.policies.kinds.authn.test_authn import MANY as PROVIDER

CI, CI_HASH = made("ci", b"\x01" * SECRET_BYTES)
OLD, OLD_HASH = made("old", b"\x02" * SECRET_BYTES)
KEYS = [
    {"id": "ci", "hash": CI_HASH, "claims": {"sub": "robot", "tier": "gold", "n": 7, "groups": ["a", "b"], "on": True}},
    {"id": "old", "hash": OLD_HASH, "claims": {"sub": "gone"}, "not_after": "2027-01-15T08:00:00Z"},
]


def document(**more: Any) -> Authn | Refused:
    found = parse("authn", "lamps", json.dumps({"api_keys": {"keys": KEYS}, **more}).encode())
    assert isinstance(found, Authn | Refused)
    return found


def rules(**more: Any) -> Compiled:
    found = document(**more)
    assert isinstance(found, Authn), found
    return compile(found)


def claims(rules: Compiled, headers: dict[str, str], target: str = "/", now_s: float = NOW) -> Any:
    try:
        return rules.claims(Request(headers=headers, target=target), now_s)
    except Invalid as invalid:
        return f"{invalid.status} {invalid.what}: {invalid}"


def test_a_key_claims_what_its_document_says() -> None:
    """As texts, as claims of tokens are."""
    found = claims(rules(), {"x-api-key": CI})
    assert found == {"sub": "robot", "tier": "gold", "n": "7", "groups": '["a","b"]', "on": "true"}
    assert claims(rules(), {}) is None and rules().wanted == "API key" and rules().scheme == "ApiKey"
    assert claims(rules(), {"authorization": f"Bearer {GOOD}"}) is None


def test_a_key_is_found_where_the_document_says() -> None:
    """Another header, behind Bearer, in the query; and nowhere else."""
    other = rules(api_keys={"keys": KEYS, "header": "X-Shop-Key"})
    assert claims(other, {"x-shop-key": CI})["sub"] == "robot" and claims(other, {"x-api-key": CI}) is None
    bearer = rules(api_keys={"keys": KEYS, "header": "Authorization"})
    assert claims(bearer, {"authorization": f"Bearer {CI}"})["sub"] == "robot"
    query = rules(api_keys={"keys": KEYS, "query": "key"})
    assert claims(query, {}, f"/lamps?key={CI}")["sub"] == "robot" and claims(query, {"x-api-key": CI}) is None


def test_a_key_ends_when_it_says() -> None:
    """To the second, whatever clocks may differ by: its document is ours."""
    end = 1_800_000_000
    assert claims(rules(), {"x-api-key": OLD}, now_s=end - 1)["sub"] == "gone"
    assert "has ended" in claims(rules(), {"x-api-key": OLD}, now_s=end)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shoal_ci_",
        CI[:-1],
        CI + "A",
        CI[:-1] + ("A" if CI[-1] != "A" else "B"),
        CI.replace("_ci_", "_CI_"),
        CI.replace("_ci_", "_old_"),
        CI.replace("_ci_", "_nobody_"),
        CI.upper(),
        CI + "\n",
        f" {CI}",
        f"{CI}, {CI}",
        CI_HASH,
        CI_HASH.removeprefix("sha256:"),
        "a" * 100_000,
        "\udcff",
        GOOD,
    ],
)
def test_nothing_else_passes_for_a_key(text: str) -> None:
    """Not its hash either, which stands in etcd."""
    assert claims(rules(), {"x-api-key": text}).startswith("401 invalid API key: ")


def test_a_key_that_is_taken_out_is_nobodys() -> None:
    """At once: nothing of it is remembered."""
    assert claims(rules(), {"x-api-key": CI})["sub"] == "robot"
    assert "counts has the id ci" in claims(rules(api_keys={"keys": KEYS[1:]}), {"x-api-key": CI})


def test_tokens_and_keys_in_one_document() -> None:
    """Either will do, and both together are neither; in one place they are told apart by how they begin."""
    both = rules(providers=[PROVIDER])
    assert claims(both, {"x-api-key": CI})["sub"] == "robot"
    assert claims(both, {"authorization": f"Bearer {GOOD}"})["sub"] == "ann"
    assert claims(both, {"authorization": f"Bearer {GOOD}", "x-api-key": CI}).startswith(
        "401 invalid token: a token and"
    )
    assert claims(both, {}) is None and both.wanted == "token or API key" and both.scheme == "Bearer"
    one = rules(providers=[PROVIDER], api_keys={"keys": KEYS, "header": "authorization"})
    assert claims(one, {"authorization": f"Bearer {CI}"})["sub"] == "robot"
    assert claims(one, {"authorization": f"Bearer {GOOD}"})["sub"] == "ann"
    assert claims(one, {"authorization": "Bearer shoal_x"}).startswith("401 invalid API key")


def test_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no key has the id that is shown."""
    compared: list[tuple[str, str]] = []
    whole = hmac.compare_digest

    def note(a: str, b: str) -> bool:
        compared.append((a, b))
        return whole(a, b)

    monkeypatch.setattr(hmac, "compare_digest", note)
    for text in (CI, CI.replace("_ci_", "_old_"), CI.replace("_ci_", "_nobody_")):
        claims(rules(), {"x-api-key": text})
    assert len(compared) == 3 and all(len(a) == len(b) == 64 for a, b in compared)


def test_a_key_is_made_of_chance_only() -> None:
    """256 bits of it, under a name that can be searched for; its hash is plain SHA-256, for whoever checks it."""
    key, hashed = made("ci-2026", os.urandom(SECRET_BYTES))
    assert re.fullmatch(r"shoal_ci-2026_[A-Za-z0-9_-]{43}", key)
    assert hashed == "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    for id, random in (("ci", b"short"), ("Ci", bytes(32)), ("a_b", bytes(32)), ("", bytes(32)), ("a" * 41, bytes(32))):
        with pytest.raises(ValueError):
            made(id, random)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "$.api_keys: missing field 'keys'"),
        ({"keys": []}, "$.api_keys.keys: expected a list of length >= 1"),
        ({"keys": [{**KEYS[0], "id": "a_b"}]}, "$.api_keys.keys[0].id: expected up to 40 of a-z, 0-9 and '-'"),
        ({"keys": [{**KEYS[0], "hash": CI}]}, "$.api_keys.keys[0].hash: expected sha256: and 64 of 0-9 and a-f"),
        ({"keys": [KEYS[0], {**KEYS[1], "id": "ci"}]}, "$.api_keys.keys[1].id: 'ci' stands twice"),
        ({"keys": [{**KEYS[0], "claims": {}}]}, "$.api_keys.keys[0].claims: without sub"),
        ({"keys": [{**KEYS[0], "claims": {"sub": ["a"]}}]}, "$.api_keys.keys[0].claims: without sub"),
        ({"keys": [{**KEYS[0], "not_after": "tomorrow"}]}, "$.api_keys.keys[0].not_after: 'tomorrow' is no time"),
        ({"keys": KEYS, "header": "a", "query": "b"}, "$.api_keys: one of header and query, not both"),
        ({"keys": KEYS, "header": "a b"}, "$.api_keys.header: 'a b' is no header name"),
        ({"keys": KEYS, "cookie": "a"}, "no field 'cookie' here"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], said: str) -> None:
    """And where, and what would be right."""
    found = document(api_keys=keys)
    assert isinstance(found, Refused) and said in f"{found.path}: {found.reason}"
