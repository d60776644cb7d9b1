"""Who is believed, and who is not: attacks by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.bundles import Bundle
from agent.identity.certificates import Issuer, make_intermediate, make_root, make_svid
from agent.identity.revocations import Revocations, Revoked
from agent.identity.spiffe import agent_id, parse_id, service_id
from agent.identity.verdict import Identity, Refused
from agent.identity.verification import revoked_by, verify
from tests.support.identity import NOW_S, PETS, SHOP, TRUST_DOMAIN, Authority, der, key, replaced, terms

OURS = Authority()
PARTNER = Authority("partner.example")
BOTH = {**OURS.bundles, **PARTNER.bundles}
NOTHING = Revocations()
HOUR_S = 3600.0


def judge(chain: list[x509.Certificate], now_s: float = NOW_S, **given: object) -> Identity | Refused:
    """By both domains' bundles."""
    return verify(der(chain), BOTH, NOTHING, now_s, **given)


def refusal(chain: list[x509.Certificate], now_s: float = NOW_S, **given: object) -> str:
    """Why a chain is refused; it has to be."""
    found = judge(chain, now_s, **given)
    assert isinstance(found, Refused), found
    return found.reason


def names(*values: x509.GeneralName) -> Callable[[x509.CertificateBuilder], x509.CertificateBuilder]:
    """A leaf with these for subject alternative names."""
    return lambda builder: replaced(builder, x509.SubjectAlternativeName(values), critical=False)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def usage(**on: bool) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    fields = dict.fromkeys(f"{every} encipher_only decipher_only".split(), False)
    return x509.KeyUsage(**(fields | on))


def test_an_svid_proves_who_it_is() -> None:
    """And on which host, and until when."""
    found = judge(OURS.svid(), expected=PETS)
    assert isinstance(found, Identity)
    assert (found.id, found.host) == (PETS, "web-1")
    assert found.ends_s == NOW_S + 24 * HOUR_S
    agent = agent_id(TRUST_DOMAIN, "web-1")
    assert isinstance(judge(OURS.svid(agent), expected=agent), Identity)


def test_a_chain_ends_with_the_first_of_it_that_ends() -> None:
    """An SVID is not believed for longer than its issuer."""
    chain = OURS.svid(lifetime_s=7 * 24 * HOUR_S, now_s=NOW_S + 29 * 24 * HOUR_S)
    found = judge(chain, NOW_S + 29 * 24 * HOUR_S)
    assert isinstance(found, Identity)
    assert found.ends_s == NOW_S + 30 * 24 * HOUR_S


# Attacks.


def test_wrong_san() -> None:
    """A URI that is no SPIFFE id, and one that would have to be normalised."""
    assert "no SPIFFE id" in refusal(OURS.crafted(names(uri("https://default.shoal/svc/pets.production"))))
    assert "Default" in refusal(OURS.crafted(names(uri("spiffe://Default.shoal/svc/pets.production"))))
    assert "'..'" in refusal(OURS.crafted(names(uri("spiffe://default.shoal/svc/../agent/web-1"))))


def test_two_sans() -> None:
    """Two URIs are none, whichever comes first, and also when they are the same."""
    for other in (str(SHOP), str(PETS), "https://pets.production"):
        assert "2 URIs" in refusal(OURS.crafted(names(uri(str(PETS)), uri(other))))
        assert "2 URIs" in refusal(OURS.crafted(names(uri(other), uri(str(PETS)))))


def test_dns_san_only() -> None:
    """A DNS name is no identity, and beside a URI it counts for nothing."""
    assert "0 URIs" in refusal(OURS.crafted(names(x509.DNSName("pets.production"))))
    found = judge(OURS.crafted(names(x509.DNSName("shop.production"), uri(str(PETS)))), expected=SHOP)
    assert isinstance(found, Refused)


def test_no_san() -> None:
    """A common name is no identity."""

    def bare(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        oid = x509.SubjectAlternativeName.oid
        builder._extensions = [each for each in builder._extensions if each.oid != oid]
        return builder

    assert "no subject alternative name" in refusal(OURS.crafted(bare))


def test_ca_as_leaf() -> None:
    """By its constraints, by its usage; an intermediate and a root that are shown as if they were somebody."""
    ca = x509.BasicConstraints(ca=True, path_length=None)
    assert "CA" in refusal(OURS.crafted(lambda builder: replaced(builder, ca, critical=True)))
    for signs in (usage(digital_signature=True, key_cert_sign=True), usage(digital_signature=True, crl_sign=True)):
        assert "CA" in refusal(OURS.crafted(lambda builder, signs=signs: replaced(builder, signs, critical=True)))
    assert "nobody" in refusal([OURS.issuer.certificate, OURS.root.certificate])
    assert "nobody" in refusal([OURS.root.certificate])


def test_leaf_as_ca() -> None:
    """Who has an SVID signs no other with it."""
    mine = OURS.svid()
    forged = make_svid(Issuer(mine[0], key(str(PETS))), key("x").public_key(), SHOP, "web-1", terms())
    assert "may not sign others" in refusal([forged, *mine])


def test_an_intermediate_makes_no_intermediate() -> None:
    """Path length 0."""
    below = make_intermediate(OURS.issuer, key("x").public_key(), TRUST_DOMAIN, "web-1", terms())
    leaf = make_svid(Issuer(below, key("x")), key("y").public_key(), PETS, "web-1", terms())
    assert "longer than" in refusal([leaf, below, OURS.issuer.certificate])


def test_expired() -> None:
    """To the second."""
    chain = OURS.svid()
    assert isinstance(judge(chain, NOW_S + 24 * HOUR_S - 1), Identity)
    assert "has ended" in refusal(chain, NOW_S + 24 * HOUR_S)


def test_an_intermediate_that_has_ended() -> None:
    """Its SVIDs end with it, and an intermediate of another time does not help."""
    forged = OURS.crafted(lambda b: b)
    late = NOW_S + 31 * 24 * HOUR_S
    builder = x509.CertificateBuilder(
        forged[0].issuer,
        forged[0].subject,
        key("x").public_key(),
        7,
        datetime.fromtimestamp(NOW_S, UTC),
        datetime.fromtimestamp(late, UTC) + timedelta(days=9),
        list(forged[0].extensions),
    )
    leaf = builder.sign(OURS.issuer.key, hashes.SHA256())
    assert "an intermediate has ended" in refusal([leaf, OURS.issuer.certificate], late)


def test_not_yet_valid() -> None:
    """Five minutes of difference between clocks are borne, and no more."""
    chain = OURS.svid()
    assert isinstance(judge(chain, NOW_S - 299), Identity)
    assert "clocks is off" in refusal(chain, NOW_S - 301)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_an_hour_off(hours: int) -> None:
    """An hour behind, a new certificate is refused with how far it is off; an hour ahead, one of an hour has ended."""
    chain = OURS.svid(lifetime_s=HOUR_S)
    reason = refusal(chain, NOW_S + hours * HOUR_S)
    assert ("55 min too early; one of the clocks is off" if hours < 0 else "has ended") in reason


def test_other_trust_domain() -> None:
    """A domain without a bundle here; one whose root is not the one of its name; one that only its own name brings."""
    stranger = Authority("stranger.example")
    theirs = service_id("stranger.example", "pets.production")
    assert "not trusted here" in refusal(stranger.svid(theirs))
    assert "its chain" in refusal(stranger.svid(PETS))
    reborn = Authority()
    reborn.root = Issuer(make_root(key("other root"), TRUST_DOMAIN, terms()), key("other root"))
    above = make_intermediate(reborn.root, reborn.issuer.key.public_key(), TRUST_DOMAIN, "issuer-1", terms())
    reborn.issuer = Issuer(above, reborn.issuer.key)
    assert "does not lead to a root" in refusal(reborn.svid())
    assert "does not lead to a root" in refusal([*reborn.svid(), reborn.root.certificate])


def test_right_chain_but_wrong_service() -> None:
    """Whoever is proven is not whom we called."""
    assert refusal(OURS.svid(SHOP), expected=PETS) == f"this is {SHOP}, where {PETS} was expected"
    assert "expected" in refusal(OURS.svid(agent_id(TRUST_DOMAIN, "web-1")), expected=PETS)
    assert "expected" in refusal(PARTNER.svid(service_id("partner.example", "pets.production")), expected=PETS)


def test_our_root_signs_a_federated_name() -> None:
    """A root is good for its own domain only: directly, by an intermediate for that domain, and the other way round."""
    theirs = service_id("partner.example", "pets.production")
    forged = make_svid(OURS.root, key("x").public_key(), theirs, "web-1", terms())
    assert "does not lead to a root of partner.example" in refusal([forged])
    above = make_intermediate(OURS.root, key("y").public_key(), "partner.example", "web-1", terms())
    forged = make_svid(Issuer(above, key("y")), key("x").public_key(), theirs, "web-1", terms())
    assert "does not lead to a root of partner.example" in refusal([forged, above])
    assert "may not sign such names" in refusal(PARTNER.svid(PETS))
    direct = make_svid(PARTNER.root, key("x").public_key(), PETS, "web-1", terms())
    assert "does not lead to a root of default.shoal" in refusal([direct])
    assert isinstance(judge(PARTNER.svid(theirs), expected=theirs), Identity)


def test_an_intermediate_of_ours_signs_another_domains_name() -> None:
    """Also when that domain's bundle had our root in it: name constraints."""
    theirs = service_id("partner.example", "pets.production")
    forged = make_svid(OURS.issuer, key("x").public_key(), theirs, "web-1", terms())
    careless = {"partner.example": Bundle("partner.example", OURS.bundle.roots)}
    found = verify(der([forged, OURS.issuer.certificate]), careless, NOTHING, NOW_S)
    assert isinstance(found, Refused) and "may not sign such names" in found.reason


def test_without_an_intermediate() -> None:
    """A chain with a link missing, with a stranger's in its place, and too long; order and what is shown besides do not
    matter."""
    chain = OURS.svid()
    assert "does not lead" in refusal(chain[:1])
    assert refusal([])
    assert "does not lead" in refusal([chain[0], PARTNER.issuer.certificate])
    assert isinstance(judge([chain[0], PARTNER.issuer.certificate, *chain]), Identity)
    assert "more than" in refusal([*chain, OURS.root.certificate, OURS.root.certificate, OURS.root.certificate])
    assert isinstance(judge([*chain, OURS.root.certificate]), Identity)


def test_a_critical_extension_that_is_not_understood() -> None:
    """Is refused, as the RFC wants; what is not critical is passed over."""
    oid = ObjectIdentifier("1.3.6.1.4.1.99999.1")
    for critical in (True, False):
        strange = x509.UnrecognizedExtension(oid, b"\x05\x00")
        chain = OURS.crafted(lambda b, c=critical, s=strange: b.add_extension(s, critical=c))
        assert isinstance(judge(chain), Refused if critical else Identity)


def test_usage_that_is_none() -> None:
    """Without digitalSignature; for servers only."""
    other = usage(key_agreement=True)
    assert "digitalSignature" in refusal(OURS.crafted(lambda builder: replaced(builder, other, critical=True)))
    servers = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert "clientAuth" in refusal(OURS.crafted(lambda builder: replaced(builder, servers, critical=False)))


def test_the_name_of_a_trust_domain_is_nobody() -> None:
    """A leaf without a path."""
    assert "nobody in it" in refusal(OURS.crafted(names(uri("spiffe://default.shoal"))))


# Revocation.


def until(hours: float = 24.0) -> datetime:
    return datetime.fromtimestamp(NOW_S + hours * HOUR_S, UTC)


def test_what_is_revoked_is_refused() -> None:
    """By serial number, by key, by host and by service; and another's is not."""
    chain = OURS.svid()
    found = judge(chain)
    assert isinstance(found, Identity)
    before = datetime.fromtimestamp(NOW_S, UTC)
    for entry in (
        Revoked(until(), serial=f"{found.serial:x}"),
        Revoked(until(), key=found.shown[0].key),
        Revoked(until(), host="web-1", before=before),
        Revoked(until(), service="pets.production", before=before),
        Revoked(until(), host="issuer-1", before=before),
        Revoked(until(), key=found.shown[1].key),
    ):
        refused = verify(der(chain), BOTH, Revocations([entry]), NOW_S)
        assert isinstance(refused, Refused) and "revoked" in refused.reason, entry
        assert revoked_by(found, Revocations([entry]))  # a live connection's, too
    for entry in (
        Revoked(until(), serial="1"),
        Revoked(until(), key="0" * 64),
        Revoked(until(), host="web-2", before=before),
        Revoked(until(), service="shop.production", before=before),
        Revoked(until(), host="web-1", before=datetime.fromtimestamp(NOW_S - 301, UTC)),
    ):
        assert isinstance(verify(der(chain), BOTH, Revocations([entry]), NOW_S), Identity), entry


# Garbage.


@given(st.data())
def test_a_changed_chain_is_refused(data: st.DataObject) -> None:
    """Any byte of it: never believed, and never an error; but for how a signature is written (the bits of its last byte
    that are unused), which changes nothing of what is signed. So nothing may go by the digest of a certificate."""
    chain = der(CHAIN)
    assert isinstance(verify(chain, BOTH, NOTHING, NOW_S, PETS), Identity)  # what is remembered of it helps nobody
    which = data.draw(st.integers(0, 1))
    changed = bytearray(chain[which])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    chain[which] = bytes(changed)
    found = verify(chain, BOTH, NOTHING, NOW_S, PETS)
    if isinstance(found, Identity):
        shown, original = x509.load_der_x509_certificate(chain[which]), CHAIN[which]
        assert (shown.tbs_certificate_bytes, shown.signature) == (original.tbs_certificate_bytes, original.signature)


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_garbage_is_refused(chain: list[bytes]) -> None:
    """Whatever somebody sends."""
    assert isinstance(verify(chain, BOTH, NOTHING, NOW_S), Refused)


def test_a_certificate_that_is_huge() -> None:
    """Is not even read."""
    found = verify([b"\x30" * 20_000], BOTH, NOTHING, NOW_S)
    assert isinstance(found, Refused) and "bytes" in found.reason


CHAIN = OURS.svid()


def test_foreign_ids_are_believed_as_they_are() -> None:
    """Another mesh's paths are its own."""
    theirs = parse_id("spiffe://partner.example/ns/shop/sa/web")
    assert isinstance(judge(PARTNER.svid(theirs), expected=theirs), Identity)
