"""Which tokens count: none of those by which others were fooled, and none that a fuzzer makes."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwk, jws

from policies.catalogue import parse
from policies.kinds.authn import decide
from policies.kinds.authn.decide import MAX_KEPT, VERDICTS, Compiled, Invalid, compile
from policies.kinds.authn.document import Authn
from policies.kinds.authn.keys import Key
from policies.kinds.authn.refused import MAX_REFUSED, digest_of
from policies.request import Request
from tests.support.tokens import PRIVATE, PUBLIC, provider

NOW = 1_800_000_000
CLAIMS: dict[str, Any] = {"iss": "https://login", "aud": "lamps", "sub": "ann", "exp": NOW + 600}
RSA = jwk.RSAKey.generate_key(2048, {"kid": "r"})
EC = jwk.ECKey.generate_key("P-256", {"kid": "e"})
ED = jwk.import_key(PRIVATE)
MANY = provider(RSA.as_dict(private=False), EC.as_dict(private=False), PUBLIC, algorithms=("RS256", "ES256", "EdDSA"))


def compiled(*providers: dict[str, Any], **more: Any) -> Compiled:
    found = parse("authn", "lamps", json.dumps({"providers": providers or [MANY], **more}).encode())
    assert isinstance(found, Authn), found
    return compile(found)


def b64(raw: bytes | str) -> str:
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


def signed(claims: Any = None, key: Any = EC, alg: str = "ES256", raw: str | None = None, **header: Any) -> str:
    """By a library, in the issuer's name."""
    payload = json.dumps({**CLAIMS, **(claims or {})}) if raw is None else raw
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    kid = {"kid": key.kid} if "kid" in key.as_dict(private=False) and key.kid in ("r", "e") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(jws.serialize_compact({"alg": alg, **kid, **header}, payload.encode(), key, registry=registry))


def bare(header: Any, claims: Any = CLAIMS, signature: str = "AA") -> str:
    return f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}.{signature}"


def counts(token: str, rules: Compiled | None = None, now_s: float = NOW) -> bool:
    try:
        found = (rules or compiled()).claims(Request(headers={"authorization": f"Bearer {token}"}), now_s)
    except Invalid as invalid:
        assert invalid.verdict in VERDICTS
        return False
    assert found is not None
    return True


GOOD = signed()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "token",
    [GOOD, signed(key=RSA, alg="RS256"), signed(key=ED, alg="EdDSA"), signed(key=ED, alg="Ed25519"),
     signed({"aud": ["x", "lamps"]}), signed({"nbf": NOW - 1, "iat": NOW - 1}), signed({"exp": NOW - 29})],
)  # fmt: skip
def test_what_its_issuer_has_signed_counts(token: str) -> None:
    """By each of its keys."""
    assert counts(token)


def hmac_with_public_key() -> str:
    """Algorithm confusion, CVE-2015-9235: the RSA public key as the secret of an HMAC."""
    import hashlib
    import hmac

    text = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'r'}))}.{b64(json.dumps(CLAIMS))}"
    return f"{text}.{b64(hmac.digest(RSA.as_pem(private=False), text.encode(), hashlib.sha256))}"


OTHER = jwk.ECKey.generate_key("P-256", {"kid": "e"})
ATTACKS = {
    **{f"alg {alg}": bare({"alg": alg, "kid": "e"}) for alg in ("none", "None", "NONE", "nOnE", "", "HS256", "es256")},
    "alg none, no signature": bare({"alg": "none"}, signature=""),
    "alg missing": bare({"kid": "e"}),
    "alg a list": bare({"alg": ["ES256"], "kid": "e"}),
    "HS256 with the RSA public key": hmac_with_public_key(),
    "RS256 named for an EC key": bare({"alg": "RS256", "kid": "e"}, signature=SIGNATURE),
    "kid of a path": signed(kid="../../../../dev/null", key=OTHER),
    "kid of SQL": signed(kid="x' UNION SELECT 'key", key=OTHER),
    "kid of a command": signed(kid="| id", key=OTHER),
    "kid a number": bare({"alg": "ES256", "kid": 1}, signature=SIGNATURE),
    "jwk of its own": signed(key=OTHER, jwk=OTHER.as_dict(private=False)),
    "jku of its own": signed(key=OTHER, jku="https://evil.example/jwks"),
    "x5u of its own": signed(key=OTHER, x5u="https://evil.example/x5"),
    "another's key": signed(key=OTHER),
    "crit unknown": bare({"alg": "ES256", "kid": "e", "crit": ["x"], "x": 1}, signature=SIGNATURE),
    "b64 false": bare({"alg": "ES256", "kid": "e", "b64": False}, signature=SIGNATURE),
    "expired": signed({"exp": NOW - 31}),
    "exp missing": signed(raw=json.dumps({k: v for k, v in CLAIMS.items() if k != "exp"})),
    "exp a text": signed({"exp": str(NOW + 9)}),
    "exp true": signed({"exp": True}),
    "exp null": signed({"exp": None}),
    "exp infinite": signed(raw=json.dumps(CLAIMS).replace(str(NOW + 600), "Infinity")),
    "exp 1e999": signed(raw=json.dumps(CLAIMS).replace(str(NOW + 600), "1e999")),
    "exp of 400 digits": signed({"exp": 10**400}),
    "nbf in the future": signed({"nbf": NOW + 31}),
    "iat in the future": signed({"iat": NOW + 31}),
    "another issuer": signed({"iss": "https://login.evil"}),
    "issuer and a slash": signed({"iss": "https://login/"}),
    "issuer a list": signed({"iss": ["https://login"]}),
    "issuer with a look-alike": signed({"iss": "https://l\u043egin"}),
    "issuer and a nul": signed({"iss": "https://login\u0000"}),
    "another audience": signed({"aud": "shop"}),
    "other audiences": signed({"aud": ["shop", ["lamps"], {"lamps": 1}]}),
    "no audience": signed({"aud": []}),
    "audience a part": signed({"aud": "lamps.evil"}),
    "empty signature": f"{HEAD}.{PAYLOAD}.",
    "zero signature (CVE-2022-21449)": f"{HEAD}.{PAYLOAD}.{b64(bytes(64))}",
    "short signature": f"{HEAD}.{PAYLOAD}.{SIGNATURE[:-4]}",
    "long signature": f"{HEAD}.{PAYLOAD}.{SIGNATURE}AAAA",
    "two parts": f"{HEAD}.{PAYLOAD}",
    "four parts": f"{GOOD}.AAAA",
    "nothing": "",
    "dots": "..",
    "padding": f"{HEAD}.{PAYLOAD}.{SIGNATURE}==",
    "another spelling of base64": GOOD[:-1] + chr(ord(GOOD[-1]) + 1),
    "a line feed": f"{GOOD}\n",
    "a blank": f"{HEAD}. {PAYLOAD}.{SIGNATURE}",
    "a letter of another alphabet": GOOD.replace("e", "\u0435", 1),
    "claims twice": signed(raw=json.dumps(CLAIMS)[:-1] + ', "sub": "root"}'),
    "header twice": b64('{"alg": "none", "alg": "ES256", "kid": "e"}') + f".{PAYLOAD}.{SIGNATURE}",
    "claims changed": f"{HEAD}.{b64(json.dumps({**CLAIMS, 'sub': 'root'}))}.{SIGNATURE}",
    "claims no object": signed(raw='["iss"]'),
    "claims no JSON": signed(raw="{iss: 1}"),
    "claims no UTF-8": f"{HEAD}.{b64(bytes([123, 255]))}.{SIGNATURE}",
    "deep claims": f"{HEAD}.{b64('[' * 3000)}.{SIGNATURE}",
    "huge": signed({"x": "a" * 9000}),
    "two tokens": f"{GOOD}, Bearer {GOOD}",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_that_was_published_counts(attack: str) -> None:
    """Whether something that counts was remembered before, or not."""
    rules = compiled()
    assert not counts(ATTACKS[attack], rules)
    assert counts(GOOD, rules)
    assert not counts(ATTACKS[attack], rules)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_a_fuzzer_makes_never_counts_and_never_crashes(data: st.DataObject) -> None:
    """Anything, and what counts with one letter changed."""
    rules, at = compiled(), data.draw(st.integers(0, len(GOOD) - 1))
    letter = data.draw(st.characters().filter(lambda found: found != GOOD[at]))
    assert not counts(GOOD[:at] + letter + GOOD[at + 1 :], rules)
    parts = data.draw(st.lists(st.binary(max_size=60) | st.just(b'{"alg":"ES256"}'), max_size=4))
    assert not counts(".".join(map(b64, parts)), rules)
    assert not counts(data.draw(st.text(max_size=200)), rules)


def test_what_is_remembered_ends_with_its_token_and_is_bounded() -> None:
    """Neither a minute later, nor with whoever sends many."""
    rules = compiled(skew=0)
    token = signed({"exp": NOW + 10})
    assert counts(token, rules, NOW) and counts(token, rules, NOW + 9) and not counts(token, rules, NOW + 10)
    for n in range(5):
        assert not counts(f"{GOOD}{n}", rules)
    assert len(rules._kept) == 1 and MAX_KEPT <= 4096


def test_who_shows_many_tokens_has_the_oldest_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no token itself is kept."""
    monkeypatch.setattr(decide, "MAX_KEPT", 3)
    rules = compiled()
    tokens = [signed({"jti": str(n)}) for n in range(5)]
    assert all(counts(token, rules) for token in tokens)
    assert list(rules._kept) == [digest_of(token) for token in tokens[2:]]
    assert counts(tokens[2], rules) and next(iter(rules._kept)) == digest_of(tokens[2]), "what is known is not verified"


def test_what_did_not_count_is_not_verified_again_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says the same; what another moment answers otherwise is asked again."""
    verified = list[str]()
    refuses = Key.refuses

    def noted(key: Key, token: str, algorithm: str) -> str:
        verified.append(token)
        return refuses(key, token, algorithm)

    monkeypatch.setattr(Key, "refuses", noted)
    rules = compiled()
    bad = signed(key=OTHER, kid="e")

    def why(token: str, now_s: float) -> tuple[str, str]:
        with pytest.raises(Invalid) as found:
            rules.claims(Request(headers={"authorization": f"Bearer {token}"}), now_s)
        return str(found.value), found.value.verdict

    first = why(bad, NOW)
    assert [why(bad, NOW + n) for n in range(1, 60)] == [first] * 59 and len(verified) == 1
    assert first == ("its signature is not its issuer's", "signature")
    # A minute later, and by a clock that was set back, it is looked at again.
    assert why(bad, NOW + 60) == first and why(bad, NOW + 59) == first and len(verified) == 3
    early = signed({"nbf": NOW + 40})
    assert why(early, NOW)[1] == "not-yet" and counts(early, rules, NOW + 10)


def test_rubbish_forgets_nothing_that_is_good_and_fills_nothing() -> None:
    """Ten thousand of them, each another."""
    rules = compiled()
    assert counts(GOOD, rules)
    for n in range(10_000):
        assert not counts(f"{HEAD}.{PAYLOAD}.{n:04}" if n % 2 else f"rubbish{n}", rules)
        assert len(rules._refused) <= MAX_REFUSED
    assert list(rules._kept) == [digest_of(GOOD)]


def test_keys_are_rotated_by_having_both_for_a_while() -> None:
    """And a key that is taken out ends what it has signed."""
    new = jwk.ECKey.generate_key("P-256", {"kid": "new"})
    both = compiled(provider(EC.as_dict(private=False), new.as_dict(private=False), algorithms=("ES256",)))
    after = compiled(provider(new.as_dict(private=False), algorithms=("ES256",)))
    assert counts(GOOD, both) and counts(signed(key=new, kid="new"), both)
    assert not counts(GOOD, after) and counts(signed(key=new, kid="new"), after)
    assert not counts(signed(key=EC, kid="new"), both)
    # Which of two has signed it does not say.
    unnamed = str(jws.serialize_compact({"alg": "ES256"}, json.dumps(CLAIMS), EC))
    assert not counts(unnamed, both)
    assert counts(unnamed, compiled(provider(EC.as_dict(private=False), algorithms=("ES256",))))


def test_an_issuer_does_not_sign_for_another() -> None:
    """Each has keys, audiences and algorithms of its own."""
    other = provider(OTHER.as_dict(private=False), issuer="https://other", algorithms=("ES256",))
    rules = compiled(MANY, other)
    assert counts(GOOD, rules) and counts(signed({"iss": "https://other"}, key=OTHER), rules)
    assert not counts(signed({"iss": "https://other"}), rules) and not counts(signed(key=OTHER), rules)


@pytest.mark.parametrize(
    ("place", "there", "absent"),
    [
        ({"header": "Authorization"}, {"authorization": f"bearer {GOOD}"}, {"authorization": "Basic YmVhcmVy"}),
        ({"header": "x-token"}, {"x-token": GOOD}, {"authorization": f"Bearer {GOOD}"}),
        ({"cookie": "session"}, {"cookie": f"a=b; session={GOOD}"}, {"cookie": f"sessions={GOOD}"}),
    ],
)
def test_a_token_is_where_the_document_says(place: Any, there: dict[str, str], absent: dict[str, str]) -> None:
    """And nowhere else; absent is not invalid."""
    rules = compiled(token=place)
    found = rules.claims(Request(headers=there), NOW)
    assert found is not None and found["sub"] == "ann" and found["exp"] == str(NOW + 600)
    assert rules.claims(Request(headers=absent), NOW) is None
    assert compiled(token={"query": "t"}).claims(Request(target=f"/?t={GOOD}"), NOW) == found


@pytest.mark.parametrize(
    ("place", "request_of"),
    [
        ({"query": "t"}, lambda one, two: Request(target=f"/?t={one}&t={two}")),
        ({"query": "t"}, lambda one, two: Request(target=f"/?t={one}&a=b&%74={two}")),
        ({"cookie": "s"}, lambda one, two: Request(headers={"cookie": f"s={one}; s={two}"})),
        ({"cookie": "s"}, lambda one, two: Request(headers={"cookie": f"s={one}, a=b; s={two}"})),
        ({"header": "x-token"}, lambda one, two: Request(headers={"x-token": f"{one}, {two}"})),
    ],
)
@pytest.mark.parametrize("other", [signed({"sub": "bob"}), "junk", ""])
def test_of_several_tokens_none_counts(place: Any, request_of: Callable[[str, str], Request], other: str) -> None:
    """Whichever stands first: a service may read another one than its agent. The same one twice is one."""
    rules = compiled(required=False, token=place)
    for one, two in ((GOOD, other), (other, GOOD)):
        with pytest.raises(Invalid):
            rules.claims(request_of(one, two), NOW)
    if "header" not in place:
        found = rules.claims(request_of(GOOD, GOOD), NOW)
        assert found is not None and found["sub"] == "ann"


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", f"Bearer\t{GOOD}", f"Basic x, Bearer {GOOD}", "bearer x y"])
def test_a_token_that_is_spelt_oddly_is_invalid_and_not_absent(value: str) -> None:
    """It may be one to whoever reads it next."""
    with pytest.raises(Invalid):
        compiled(required=False).claims(Request(headers={"authorization": value}), NOW)


def test_claims_that_are_no_texts_are_json_and_needed_ones_are_there() -> None:
    """`true` and not `True`."""
    rules = compiled({**MANY, "require": ["sub", "groups"]})
    token = signed({"groups": ["a", "b"], "ok": True, "n": 7, "none": None})
    found = rules.claims(Request(headers={"authorization": f"Bearer {token}"}), NOW)
    assert found is not None
    assert (found["groups"], found["ok"], found["n"], found["none"]) == ('["a","b"]', "true", "7", "null")
    assert not counts(GOOD, rules) and not counts(signed({"groups": None}), rules)
