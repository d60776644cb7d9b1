"""Keys that are fetched: which tokens they verify, from when on, and until when. PyJWT is the referee."""

from __future__ import annotations

import json
import warnings
from typing import Any

import jwt
import pytest
from joserfc import jwk

from policies.catalogue import parse
from policies.kinds.authn.decide import Compiled, Invalid, Unjudged, compile
from policies.kinds.authn.document import Authn
from policies.kinds.authn.keyring import Keyring
from policies.kinds.authn.source import of_issuer
from policies.language.document import Invalid as Refused
from policies.request import Request
from tests.policies.kinds.authn.test_authn import ATTACKS, EC, GOOD, NOW, RSA, b64, counts, signed

URL = "https://login/jwks"
PUBLIC = EC.as_dict(private=False)
NEW = jwk.ECKey.generate_key("P-256", {"kid": "new"})


def made(keyring: Keyring, *more: dict[str, Any], **provider: Any) -> Compiled:
    one = {"issuer": "https://login", "audiences": ["lamps"], "algorithms": ["ES256", "RS256"], **provider}
    if not {"jwks_url", "discover", "jwks"} & set(provider):
        one["jwks_url"] = URL
    found = parse("authn", "lamps", json.dumps({"providers": [one, *more]}).encode())
    assert isinstance(found, Authn), found
    return compile(found, keyring=keyring)


def why(token: str, rules: Compiled, now_s: float = NOW) -> Invalid | None:
    try:
        rules.claims(Request(headers={"authorization": f"Bearer {token}"}), now_s)
    except Invalid as invalid:
        return invalid
    return None


def test_a_token_counts_by_what_its_issuer_publishes_now() -> None:
    """Before there is anything nobody can say; a new key counts at once, one that is withdrawn at once no more."""
    keyring = Keyring()
    rules = made(keyring)
    found = why(GOOD, rules)
    assert isinstance(found, Unjudged) and found.status == 503 and URL in str(found)
    assert keyring.put(URL, [PUBLIC]) is False
    assert counts(GOOD, rules) and not counts(signed(key=NEW, kid="new"), rules)
    assert keyring.put(URL, [PUBLIC, NEW.as_dict(private=False)]) is False
    assert counts(GOOD, rules) and counts(signed(key=NEW, kid="new"), rules)
    assert keyring.put(URL, [NEW.as_dict(private=False)]) is True
    assert not counts(GOOD, rules) and counts(signed(key=NEW, kid="new"), rules)
    assert keyring.put(URL, []) is True
    found = why(signed(key=NEW, kid="new"), rules)
    assert found is not None and found.status == 401


def test_what_was_verified_is_remembered_as_long_as_the_keys_are_the_same() -> None:
    """The same ones again forget nothing."""
    keyring = Keyring()
    rules = made(keyring)
    keyring.put(URL, [PUBLIC])
    assert counts(GOOD, rules)
    before = rules._kept.copy()
    keyring.put(URL, [dict(PUBLIC)])
    assert counts(GOOD, rules) and rules._kept == before
    keyring.put(URL, [NEW.as_dict(private=False)])
    assert not counts(GOOD, rules)


def test_keys_that_nobody_confirms_are_believed_for_max_age() -> None:
    """To the second, also for what was verified just before; said again they count, and nothing is forgotten."""
    keyring, missed = Keyring(), list[str]()
    keyring.on_missing = missed.append
    rules = made(keyring, max_age="2h")
    keyring.put(URL, [PUBLIC], NOW - 7195)
    assert counts(GOOD, rules) and counts(GOOD, rules, NOW + 4)
    found = why(GOOD, rules, NOW + 5)
    assert isinstance(found, Unjudged) and found.verdict == "unjudged" and "max_age" in str(found)
    assert missed == [URL]
    published = keyring.of(URL)
    keyring.put(URL, [dict(PUBLIC)], NOW + 5)
    assert keyring.of(URL) is published and counts(GOOD, rules, NOW + 5)
    # One that did not count is refused by stale keys as by none: nobody can say.
    assert why(f"{GOOD}A", rules, NOW + 6) is not None
    assert isinstance(why(signed(key=NEW), rules, NOW + 7205), Unjudged)
    # Keys that stand in the document are its author's.
    assert counts(GOOD, made(Keyring(), jwks={"keys": [PUBLIC]}, max_age="2h"), NOW)


def test_a_token_that_did_not_count_counts_with_the_key_that_was_missing() -> None:
    """And each time that it comes, the key is missed."""
    keyring, missed = Keyring(), list[str]()
    keyring.on_missing = missed.append
    rules = made(keyring)
    keyring.put(URL, [PUBLIC])
    token = signed(key=NEW, kid="new")
    assert not counts(token, rules) and not counts(token, rules, NOW + 2) and missed == [URL, URL]
    assert len(rules._refused) == 1
    keyring.put(URL, [PUBLIC, NEW.as_dict(private=False)])
    assert counts(token, rules, NOW + 3) and len(rules._refused) == 0


def test_keys_of_one_source_verify_nothing_of_another() -> None:
    """Nor does a key that the right issuer has published somewhere else."""
    keyring = Keyring()
    keyring.put("https://other/jwks", [PUBLIC])
    keyring.put(f"discover {'https://login'}", [PUBLIC])
    assert not counts(GOOD, made(keyring))
    assert counts(GOOD, made(keyring, discover=True))
    assert of_issuer("https://login/").url == of_issuer("https://login").url
    assert of_issuer("https://login/").name != of_issuer("https://login").name


def test_two_issuers_have_each_their_own() -> None:
    other = {"issuer": "https://b", "audiences": ["lamps"], "algorithms": ["ES256"], "jwks_url": "https://b/jwks"}
    keyring = Keyring()
    rules = made(keyring, other)
    keyring.put("https://b/jwks", [NEW.as_dict(private=False)])
    assert isinstance(why(GOOD, rules), Unjudged)
    assert counts(signed({"iss": "https://b"}, key=NEW, kid="new"), rules)
    keyring.put(URL, [PUBLIC])
    assert counts(GOOD, rules) and not counts(signed({"iss": "https://b"}), rules)
    assert rules.sources == [URL, "https://b/jwks"]


def test_a_missing_key_is_asked_for_and_not_too_often() -> None:
    """By tokens that may be of a new key; not by what is wrong whatever is published."""
    asked: list[str] = []
    keyring = Keyring()
    keyring.on_missing = asked.append
    rules = made(keyring)
    assert not counts(GOOD, rules) and asked == [URL]
    keyring.put(URL, [PUBLIC])
    asked.clear()
    for n in range(100):
        assert not counts(signed(key=NEW, kid=f"made-up-{n}"), rules, NOW + 10 + n / 1000)
    assert asked == [URL]
    asked.clear()
    for token in (signed(key=NEW, kid="e"), signed({"iss": "https://evil"}), signed({"aud": "x"}), "a.b.c", ""):
        assert not counts(token, rules, NOW + 20)
    assert asked == []
    unnamed = signed(key=jwk.ECKey.generate_key("P-256"))
    keyring.put(URL, [{name: value for name, value in PUBLIC.items() if name != "kid"}])
    assert not counts(unnamed, rules, NOW + 20) and asked == [URL]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_counts_by_fetched_keys_either(attack: str) -> None:
    """With keys of both types there, to be mistaken for each other."""
    keyring = Keyring()
    rules = made(keyring)
    keyring.put(URL, [RSA.as_dict(private=False), PUBLIC, {"kty": "oct", "k": "AAAA", "kid": "o"}, {"kid": "e"}])
    assert not counts(ATTACKS[attack], rules) and counts(GOOD, rules)


def test_a_key_is_for_its_own_algorithms() -> None:
    """Whatever the document would take: an RSA key is no EC key, `use` and `alg` of a key hold, a short one is none."""
    keyring = Keyring()
    rules = made(keyring)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = jwk.RSAKey.generate_key(1024, {"kid": "s"})
    keyring.put(
        URL,
        [{**PUBLIC, "use": "enc"}, {**RSA.as_dict(private=False), "alg": "RS512"}, short.as_dict(private=False)],
    )
    for token in (GOOD, signed(key=RSA, alg="RS256"), signed(key=short, alg="RS256", kid="s")):
        assert not counts(token, rules)
    only = made(keyring, algorithms=["RS256"])
    keyring.put(URL, [PUBLIC, RSA.as_dict(private=False)])
    assert not counts(GOOD, only) and counts(signed(key=RSA, alg="RS256"), only)


@pytest.mark.parametrize("token", [GOOD, signed(key=RSA, alg="RS256"), *ATTACKS.values()])
def test_what_counts_here_counts_for_the_referee(token: str) -> None:
    """What PyJWT refuses, by the same set of keys, does not count here. (It takes some that are read strictly here.)"""
    keys = [RSA.as_dict(private=False), PUBLIC]
    keyring = Keyring()
    keyring.put(URL, keys)
    found = why(token, made(keyring))
    by_kid = {key.key_id: key for key in jwt.PyJWKSet.from_dict({"keys": keys}).keys}
    try:
        key = by_kid[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token,
            key,
            algorithms=["ES256", "RS256"],
            audience="lamps",
            issuer="https://login",
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp"]},
        )
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        assert found is not None
    else:
        assert claims["iss"] == "https://login"
        assert found is None or token != GOOD


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({}, "$.providers[0]: exactly one of jwks, jwks_url and discover; here: none"),
        (
            {"jwks_url": URL, "discover": True},
            "exactly one of jwks, jwks_url and discover; here: jwks_url and discover",
        ),
        ({"jwks": {"keys": [PUBLIC]}, "jwks_url": URL}, "here: jwks and jwks_url"),
        ({"jwks_url": "login/jwks"}, "$.providers[0].jwks_url: no URL, which begins with https:// and a host"),
        ({"jwks_url": "file:///etc/shadow"}, "$.providers[0].jwks_url: no URL"),
        ({"jwks_url": "https://u:p@login/"}, "$.providers[0].jwks_url: a user or password in the URL; keys are public"),
        ({"jwks_url": "https://login/#x"}, "a fragment is never sent"),
        ({"jwks_url": "https://login/\n"}, "$.providers[0].jwks_url: no URL"),
        ({"discover": True, "issuer": "login"}, "$.providers[0].issuer: no URL"),
        ({"discover": True, "issuer": "https://login?x"}, "an issuer that is discovered has no query"),
        ({"discover": "yes"}, "expected true or false"),
    ],
)
def test_where_keys_are_is_said_once_and_is_a_url(provider: dict[str, Any], said: str) -> None:
    whole = {"issuer": "https://login", "audiences": ["a"], "algorithms": ["ES256"], **provider}
    found = parse("authn", "lamps", json.dumps({"providers": [whole]}).encode())
    assert isinstance(found, Refused) and said in f"{found.path}: {found.reason}"


def test_spelling_of_base64_is_checked_with_fetched_keys_too() -> None:
    """(The set above has the spellings; this is the one that a lenient library takes.)"""
    keyring = Keyring()
    keyring.put(URL, [PUBLIC])
    head, payload, signature = GOOD.split(".")
    assert not counts(f"{b64(json.dumps({'alg': 'ES256', 'kid': 'e'}))}=.{payload}.{signature}", made(keyring))
    assert head
