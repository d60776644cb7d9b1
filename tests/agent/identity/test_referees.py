"""What we sign and what we publish, judged by others: OpenSSL's `verify`, and go-spiffe where `scripts/interop` built
its judge. They accept what is ours and refuse what is broken, as we do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509

from agent.identity.bundles import bundle_document
from agent.identity.certificates import Issuer, make_intermediate, make_svid, to_pem
from agent.identity.revocations import Revocations
from agent.identity.spiffe import SpiffeId, agent_id, service_id
from agent.identity.verdict import Identity
from agent.identity.verification import verify
from tests.support.identity import PETS, SHOP, TRUST_DOMAIN, Authority, der, key, key_pem, replaced, terms

HOUR_S = 3600.0
JUDGE = os.environ.get("SHOAL_SPIFFE_JUDGE", "")


class Case(NamedTuple):
    """A chain, and who has to see what about it."""

    chain: list[x509.Certificate]
    proves: SpiffeId | None = None
    """None: it is refused."""
    tls_alone: bool = False
    """Whether what is wrong with it is SPIFFE's: OpenSSL, which knows nothing of that, takes it."""


def _names(*names: x509.GeneralName) -> list[x509.Certificate]:
    return OURS.crafted(lambda builder: replaced(builder, x509.SubjectAlternativeName(names), critical=False))


def _uri(identity: SpiffeId) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(str(identity))


def _own_issuer() -> list[x509.Certificate]:
    """Of an SVID that signed another."""
    mine = OURS.svid()
    made = make_svid(Issuer(mine[0], key(str(PETS))), key(str(PETS)).public_key(), SHOP, "web-1", terms(OURS.now_s))
    return [made, *mine]


def _foreign_name() -> list[x509.Certificate]:
    """Our intermediate, whose constraints name our domain, signs for another one."""
    partner = PETS._replace(trust_domain="partner.example")
    made = make_svid(OURS.issuer, key(str(PETS)).public_key(), partner, "web-1", terms(OURS.now_s))
    return [made, OURS.issuer.certificate]


def _longer() -> list[x509.Certificate]:
    """An intermediate that made another one."""
    below = make_intermediate(OURS.issuer, key("below").public_key(), TRUST_DOMAIN, "web-1", terms(OURS.now_s))
    made = make_svid(Issuer(below, key("below")), key(str(PETS)).public_key(), PETS, "web-1", terms(OURS.now_s))
    return [made, below, OURS.issuer.certificate]


OURS = Authority(now_s=time.time())
AGENT = agent_id(TRUST_DOMAIN, "web-1")
LONGEST = service_id(TRUST_DOMAIN, "a" * 63 + ".b" * 4)
_CA = x509.BasicConstraints(ca=True, path_length=None)
CASES = {
    "service": Case(OURS.svid(), PETS),
    "agent": Case(OURS.svid(AGENT), AGENT),
    "longest-names": Case(OURS.svid(LONGEST, "h" * 64), LONGEST),
    "two-uris": Case(_names(_uri(PETS), _uri(SHOP)), None, True),
    "dns-only": Case(_names(x509.DNSName("pets.production")), None, True),
    "ca-as-leaf": Case(OURS.crafted(lambda builder: replaced(builder, _CA, critical=True)), None, True),
    "expired": Case(OURS.svid(now_s=OURS.now_s - 25 * HOUR_S)),
    "early": Case(OURS.svid(now_s=OURS.now_s + HOUR_S)),
    "foreign-root": Case(Authority("stranger.example", OURS.now_s).svid(PETS)),
    "cut-chain": Case(OURS.svid()[:1]),
    "svid-as-issuer": Case(_own_issuer()),
    "name-of-another-domain": Case(_foreign_name()),
    "too-long": Case(_longer()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With the bundle in both forms, and every chain with its key."""
    (tmp_path / "bundle.json").write_bytes(bundle_document(OURS.bundle))
    (tmp_path / "roots").write_bytes(to_pem([OURS.root.certificate]))
    for name, case in CASES.items():
        owner = str(case.proves or PETS)
        (tmp_path / f"{name}.pem").write_bytes(to_pem(case.chain) + key_pem(owner))
    yield tmp_path


@pytest.mark.parametrize("name", CASES)
def test_we_judge_so_too(name: str) -> None:
    """The cases say of us what others are asked."""
    case = CASES[name]
    found = verify(der(case.chain), OURS.bundles, Revocations(), OURS.now_s)
    assert (found.id if isinstance(found, Identity) else None) == case.proves, found


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl(folder: Path, purpose: str) -> None:
    """Strictly by RFC 5280, as either side of TLS: it takes ours, and what is wrong with SPIFFE's names only."""
    for name, case in CASES.items():
        whole = folder / f"{name}.pem"
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(folder / "roots")]
        done = subprocess.run([*command, "-untrusted", str(whole), str(whole)], capture_output=True, timeout=60)
        assert (done.returncode == 0) == (case.proves is not None or case.tls_alone), (name, done.stderr)


@pytest.mark.skipif(not JUDGE, reason="scripts/interop builds go-spiffe's judge")
def test_go_spiffe(folder: Path) -> None:
    """It reads our bundle document, and proves what we prove."""
    done = subprocess.run([JUDGE, str(folder), TRUST_DOMAIN], capture_output=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    expected = {name: str(case.proves) if case.proves else "refused" for name, case in CASES.items()}
    assert {name: said.partition(":")[0] if said.startswith("refused") else said for name, said in found.items()} == (
        expected
    ), found
