from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.certificates import INTERMEDIATE_S, ROOT_S, Issuer, make_intermediate, make_root, make_svid
from agent.identity.revocations import Revocations
from agent.identity.spiffe import agent_id
from agent.identity.tokens import (
    PREFIX,
    SECRET_BYTES,
    Place,
    Token,
    anchor,
    anchor_of,
    digest_of,
    read_token,
    secret_of,
    write_token,
)
from agent.identity.verdict import Identity, Refused
from agent.identity.verification import signs_for, verify
from tests.support.identity import NOW_S, TRUST_DOMAIN, Authority, der, key, terms

AUTHORITY = Authority()
ISSUER = agent_id(TRUST_DOMAIN, "issuer-1")


def token(authority: Authority = AUTHORITY) -> Token:
    place = Place("issuer-1", "10.0.0.5", 15006)
    secret = secret_of(bytes(range(SECRET_BYTES)))
    return Token(
        secret, "default", "web-3", int(NOW_S) + 3600, TRUST_DOMAIN, *anchor_of(authority.root.certificate), [place]
    )


TEXT = write_token(token())


def test_a_token_survives_being_pasted() -> None:
    """Also over several lines, as a terminal or a mail may break it."""
    assert read_token(TEXT) == token()
    assert read_token(f"  {TEXT[:70]}\n{TEXT[70:]}\n") == token()
    assert len(TEXT) < 400
    assert digest_of(token().secret) not in TEXT


@given(st.integers(1, len(TEXT) - 1))
def test_a_part_of_a_token_is_told_from_the_whole(length: int) -> None:
    """Whichever part was copied."""
    for part in (TEXT[:length], TEXT[length:]):
        with pytest.raises(ValueError, match=r"not whole|no join token"):
            read_token(part)


@given(st.integers(len(PREFIX), len(TEXT) - 1), st.characters(codec="ascii", categories=["L", "N"]))
def test_a_typing_error_in_a_token_is_told(at: int, letter: str) -> None:
    """Nothing is asked of anybody with it."""
    typed = TEXT[:at] + letter + TEXT[at + 1 :]
    try:
        assert read_token(typed) == token()
    except ValueError as error:
        assert "not whole" in str(error)
        assert token().secret not in str(error)


@pytest.mark.parametrize("text", ["", "web-3", "shoal1.", "shoal1.!", PREFIX + "AAAAAAA", "x" * 100_000])
def test_what_is_no_token_is_refused_in_words(text: str) -> None:
    """Whatever was in the clipboard."""
    with pytest.raises(ValueError, match="join token"):
        read_token(text)


def test_a_token_says_whom_to_believe() -> None:
    """The chain of an issuer leads to its root; another trust domain's of the same name does not."""
    bundles = {TRUST_DOMAIN: anchor(token(), NOW_S)}
    shown = der(AUTHORITY.svid(ISSUER, "issuer-1"))
    assert isinstance(verify(shown, bundles, Revocations(), NOW_S, ISSUER), Identity)
    other = agent_id(TRUST_DOMAIN, "web-1")
    assert isinstance(verify(shown, bundles, Revocations(), NOW_S, other), Refused)
    fake = key("somebody else's root")
    root = Issuer(make_root(fake, TRUST_DOMAIN, terms(NOW_S, ROOT_S)), fake)
    above = make_intermediate(root, key("his").public_key(), TRUST_DOMAIN, "issuer-1", terms(NOW_S, INTERMEDIATE_S))
    leaf = make_svid(Issuer(above, key("his")), key("leaf").public_key(), ISSUER, "issuer-1", terms())
    refused = verify(der([leaf, above]), bundles, Revocations(), NOW_S, ISSUER)
    assert isinstance(refused, Refused)
    assert "does not lead to a root" in refused.reason


def test_an_anchor_may_be_rsa() -> None:
    """A company's own CA is, often."""
    theirs = rsa.generate_private_key(65537, 2048)
    root = make_root(theirs, TRUST_DOMAIN, terms(NOW_S, ROOT_S))
    above = make_intermediate(
        Issuer(root, theirs), key("i").public_key(), TRUST_DOMAIN, "issuer-1", terms(NOW_S, INTERMEDIATE_S)
    )
    leaf = make_svid(Issuer(above, key("i")), key("leaf").public_key(), ISSUER, "issuer-1", terms())
    name, public = anchor_of(root)
    told = Token("s", "default", "web-3", int(NOW_S), TRUST_DOMAIN, name, public, [])
    bundles = {TRUST_DOMAIN: anchor(read_token(write_token(told)), NOW_S)}
    assert isinstance(verify(der([leaf, above]), bundles, Revocations(), NOW_S, ISSUER), Identity)


def test_an_issuers_chain_signs_for_its_trust_domain() -> None:
    """What somebody else's CA signed is judged before anything is signed with it."""
    chain = [AUTHORITY.issuer.certificate]
    assert signs_for(der(chain), AUTHORITY.bundle, NOW_S) == agent_id(TRUST_DOMAIN, "x")._replace(path="")
    for bad, why in (
        (AUTHORITY.svid(), "may not sign others"),
        ([], "0 certificates"),
        (chain * 4, "4 certificates"),
    ):
        refused = signs_for(der(bad), AUTHORITY.bundle, NOW_S)
        assert isinstance(refused, Refused)
        assert why in refused.reason
    late = signs_for(der(chain), AUTHORITY.bundle, NOW_S + 40 * 86400)
    assert isinstance(late, Refused)
    assert "has ended" in late.reason
    partner = Authority("partner.example")
    for bundle in (partner.bundle, partner.bundle._replace(trust_domain=TRUST_DOMAIN)):
        assert isinstance(signs_for(der(chain), bundle, NOW_S), Refused)


def test_an_intermediate_below_an_intermediate_needs_its_leave() -> None:
    """Ours have a path length of 0: an issuer makes no further issuers, whoever imports what he made."""
    below = make_intermediate(
        AUTHORITY.issuer, key("below").public_key(), TRUST_DOMAIN, "web-9", terms(NOW_S, INTERMEDIATE_S)
    )
    refused = signs_for(der([below, AUTHORITY.issuer.certificate]), AUTHORITY.bundle, NOW_S)
    assert isinstance(refused, Refused)
    assert "longer than" in refused.reason
