from __future__ import annotations

import pytest

from agent.cli.identity.domain import take
from agent.identity.bundles import bundle_document
from agent.identity.certificates import to_pem
from tests.support.identity import Authority
from tests.support.operating import Mesh

PARTNER = "partner.example"


async def test_a_partners_bundle_is_believed_by_its_sequence(mesh: Mesh) -> None:
    """A higher one takes the place of what is believed; a lower one, or other roots of the same, do not."""
    await mesh.init("web-1")
    partner, other = Authority(PARTNER), Authority("other.example")
    files = {
        "seven": partner.bundle._replace(sequence=7),
        "six": partner.bundle._replace(sequence=6),
        "same": other.bundle._replace(trust_domain=PARTNER, sequence=7),
        "eight": other.bundle._replace(trust_domain=PARTNER, sequence=8),
    }
    for name, bundle in files.items():
        (mesh.folder / name).write_bytes(bundle_document(bundle))
    first = await mesh.json("trust", "add", PARTNER, "seven")
    assert await mesh.json("trust", "add", PARTNER, "seven") | {"revision": 0} == first | {"revision": 0}
    for name in ("six", "same"):
        assert "sequence" in (await mesh.shoal("trust", "add", PARTNER, name, code=1)).stderr
    assert (await take(mesh.store, mesh.name)).trusted == {PARTNER: files["seven"]}
    await mesh.shoal("trust", "add", PARTNER, "eight")
    (row,) = await mesh.json("trust", "list")
    assert (row["trust_domain"], row["sequence"], len(row["roots"])) == (PARTNER, 8, 1)
    await mesh.shoal("trust", "rm", PARTNER)
    assert (await take(mesh.store, mesh.name)).trusted == {}
    assert "is not believed here" in (await mesh.shoal("trust", "rm", PARTNER, code=1)).stderr


async def test_roots_without_a_sequence_get_the_next(mesh: Mesh) -> None:
    """As PEM, as many a CA hands them out; the same ones again change nothing."""
    await mesh.init("web-1")
    partner, other = Authority(PARTNER), Authority("other.example")
    (mesh.folder / "a.pem").write_bytes(to_pem([partner.root.certificate]))
    (mesh.folder / "b.pem").write_bytes(to_pem([partner.root.certificate, other.root.certificate]))
    assert (await mesh.json("trust", "add", PARTNER, "a.pem"))["sequence"] == 0
    assert (await mesh.json("trust", "add", PARTNER, "a.pem"))["sequence"] == 0
    assert (await mesh.json("trust", "add", PARTNER, "b.pem"))["sequence"] == 1
    assert len((await take(mesh.store, mesh.name)).trusted[PARTNER].roots) == 2


@pytest.mark.parametrize(
    ("domain", "document", "why"),
    [
        (PARTNER, b"{", "no SPIFFE bundle"),
        (PARTNER, b'{"keys": []}', "no root in it"),
        (PARTNER, b'{"keys": [{"use": "jwt-svid", "kty": "EC"}]}', "no root in it"),
        (PARTNER, to_pem(Authority(PARTNER).svid()), "may not sign others is no root"),
        ("Partner", bundle_document(Authority(PARTNER).bundle), "is expected"),
        ("other.example", bundle_document(Authority(PARTNER).bundle), "is expected"),
        (PARTNER, b"-----BEGIN CERTIFICATE-----\n", "no root in it"),
    ],
)
async def test_what_is_no_bundle_is_not_put(mesh: Mesh, domain: str, document: bytes, why: str) -> None:
    """Nor what is of another trust domain."""
    (mesh.folder / "file").write_bytes(document)
    assert why in (await mesh.shoal("trust", "add", domain, "file", code=2)).stderr


async def test_our_own_trust_domain_is_not_taken_from_a_file(mesh: Mesh) -> None:
    """Whoever was handed such a file would make another's root ours."""
    await mesh.init("web-1")
    own = f"{mesh.name}.shoal"
    (mesh.folder / "file").write_bytes(bundle_document(Authority(own).bundle))
    assert "this mesh's own" in (await mesh.shoal("trust", "add", own, "file", code=1)).stderr
    assert (await take(mesh.store, mesh.name)).trusted == {}
