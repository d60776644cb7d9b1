"""Who answers a login over the network: an agent of its trust domain, and of the host that was called; nobody else."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.cli.failure import Failure
from agent.cli.people.asking import _bundle_of
from agent.cli.people.asking import judged as judged_by
from agent.cli.people.login import Login
from agent.identity.bundles import bundle_document
from agent.identity.certificates import make_svid
from agent.identity.spiffe import SpiffeId, agent_id, person_id, service_id
from tests.support.identity import TRUST_DOMAIN, Authority, key, terms

NOW_S = time.time()
OURS = Authority(TRUST_DOMAIN, now_s=NOW_S)
LOGIN = Login("ada", "default", TRUST_DOMAIN, NOW_S + 3600, [], bundle_document(OURS.bundle).decode())
WEB = agent_id(TRUST_DOMAIN, "web-1")


def judged(identity: SpiffeId, called: str, authority: Authority = OURS, begins_s: float = NOW_S) -> str:
    leaf = make_svid(authority.issuer, key(str(identity)).public_key(), identity, "web-1", terms(begins_s, 3600.0))
    chain = [each.public_bytes(Encoding.DER) for each in (leaf, authority.issuer.certificate)]
    return judged_by(chain, _bundle_of(LOGIN), called, "what answers")


@pytest.mark.parametrize(
    "called", ["web-1", "WEB-1", "web-1.corp.example", "localhost", "127.0.0.1", "::1", "10.0.0.7", "fe80::1"]
)
def test_an_agent_that_is_meant_is_called_by_its_own_name(called: str) -> None:
    """However it was found."""
    assert judged(WEB, called) == "web-1"


@pytest.mark.parametrize("called", ["web-10", "web", "web-2.web-1", "xweb-1", "10.0.0.7.example", ""])
def test_another_hosts_agent_is_asked_nothing(called: str) -> None:
    """A name means one host."""
    with pytest.raises(Failure, match="is the agent of web-1, and was asked nothing"):
        judged(WEB, called)


@pytest.mark.parametrize(
    "identity", [service_id(TRUST_DOMAIN, "web-1.production"), person_id(TRUST_DOMAIN, "web-1")], ids=str
)
def test_who_is_no_agent_is_asked_nothing(identity: SpiffeId) -> None:
    """A service of the mesh, or another person, that listens there."""
    with pytest.raises(Failure, match="which is no agent, and was asked nothing"):
        judged(identity, "10.0.0.7")


def test_who_proves_nothing_is_asked_nothing() -> None:
    """Another trust domain's agent, one that forged ours, one that has ended, one too early, one that shows nothing."""
    others = Authority("other.example", now_s=NOW_S)
    for identity, authority, begins_s in (
        (agent_id("other.example", "web-1"), others, NOW_S),
        (WEB, others, NOW_S),
        (WEB, OURS, NOW_S - 7200),
        (WEB, OURS, NOW_S + 7200),
    ):
        with pytest.raises(Failure, match="is not believed, and was asked nothing"):
            judged(identity, "web-1", authority, begins_s)
    with pytest.raises(Failure, match="no certificate was shown"):
        judged_by([], _bundle_of(LOGIN), "web-1", "what answers")
