"""`tls`: the strictest of all levels decides, and none of them makes an instance's TLS plain text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kind import Scope
from policies.kinds.tls.decide import OFF, PERMISSIVE, STRICT, TIGHTEST, Level, combine, compile
from policies.kinds.tls.document import Origin, TlsPolicy
from policies.language.document import Invalid
from policies.request import Request
from tests.support.identity import Authority

MODES = {"off": OFF, "permissive": PERMISSIVE, "strict": STRICT}
PLAIN = Origin(speaks="plain")
ORIGINS = st.sampled_from([None, PLAIN, Origin(speaks="tls", name="a.example"), Origin(speaks="tls", name="b.example")])


def levels(*documents: TlsPolicy) -> list[Level]:
    keys = ("pets.production", "*.production", "*")
    return [Level(key, n, document) for n, (key, document) in enumerate(zip(keys, documents, strict=False), 1)]


@given(st.lists(st.builds(TlsPolicy, mtls=st.sampled_from(sorted(MODES)), origin=ORIGINS), min_size=1, max_size=3))
def test_a_level_only_narrows(documents: list[TlsPolicy]) -> None:
    """With one more of them nothing is less strict, and no TLS of an instance is plain text."""
    found = combine(levels(*documents))
    assert found.mode == max(MODES[document.mtls] for document in documents)
    speak = [document.origin for document in documents if document.origin is not None]
    tls = [origin for origin in speak if origin.speaks == "tls"]
    assert found.origin == (tls[0] if tls else speak[0] if speak else None)


def test_the_document_that_decides_is_named() -> None:
    """The most specific of those that are equally strict."""
    off, strict = TlsPolicy(mtls="off"), TlsPolicy(mtls="strict")
    assert combine(levels(off, strict, strict)).reason_policy == "tls/*.production of revision 2"
    assert combine(levels(strict, off)).reason_policy == "tls/pets.production of revision 1"
    assert combine(levels(off, off, off)).reason_policy == "tls/pets.production of revision 1"


def test_what_nobody_knows_is_the_tightest() -> None:
    """No document is stricter, nor says less of instances without an agent."""
    found = combine([Level("pets", 1, TlsPolicy(mtls="off")), Level("*", 2, TIGHTEST)])
    assert (found.mode, found.origin) == (STRICT, None)


@pytest.mark.parametrize("mtls", sorted(MODES))
def test_what_a_callees_agent_refuses(mtls: Any) -> None:
    """Plain text from another host, and only where it is strict."""
    guard = compile(TlsPolicy(mtls=mtls), Scope("pets.production", key="*.production"))
    if mtls != "strict":
        assert guard is None
        return
    assert guard is not None
    assert guard.decide(Request()) is None
    denied = guard.decide(Request(in_plain_text=True, caller="shop.production", headers={"x-forwarded-proto": "https"}))
    assert denied is not None and denied.status == 403
    assert denied.reason.startswith("policies/tls/*.production is strict: ")


def test_an_origins_certificates() -> None:
    """In the document; whose private key stands there is told to make another."""
    pem = Authority().root.certificate.public_bytes(Encoding.PEM).decode()
    good = {"mtls": "strict", "origin": {"speaks": "tls", "name": "db.internal.", "ca": pem + pem}}
    assert isinstance(read(good), TlsPolicy)
    for ca in (pem[:-40], pem.replace("M", "?", 3), "-----BEGIN PRIVATE KEY-----\n" + pem):
        refused = read({**good, "origin": {**good["origin"], "ca": ca}})  # type: ignore[dict-item]
        assert isinstance(refused, Invalid) and refused.path == "$.origin.ca"
        assert pem[30:60] not in refused.reason


@pytest.mark.parametrize("name", ["db..internal", "db/internal", "db internal", "*.internal", "dä.internal", "a" * 64])
def test_names_that_are_none(name: str) -> None:
    """A certificate is for one host, and not for a pattern."""
    refused = read({"mtls": "strict", "origin": {"speaks": "tls", "name": name}})
    assert isinstance(refused, Invalid) and refused.path == "$.origin.name"


def read(document: Any) -> Any:
    return parse("tls", "pets.production", json.dumps(document).encode())
