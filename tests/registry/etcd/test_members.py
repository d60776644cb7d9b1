"""How each endpoint of etcd answers."""

from __future__ import annotations

from pathlib import Path

from registry.etcd.members import members
from registry.etcd.store import EtcdSettings


async def test_what_cannot_be_read_here_is_why_a_member_does_not_answer(tmp_path: Path) -> None:
    """A certificate that is gone, an endpoint that is none: each a reason, and the others are asked all the same."""
    gone = str(tmp_path / "gone.pem")
    both = ("https://127.0.0.1:1", "nonsense://127.0.0.1")
    found = await members(EtcdSettings(endpoints=both, ca=gone, cert=gone, key=gone, timeout_s=1.0))
    assert [each.url for each in found] == list(both)
    assert all(each.error for each in found) and "gone.pem" in found[0].error
