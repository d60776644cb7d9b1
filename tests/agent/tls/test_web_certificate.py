"""What browsers are shown, as it stands: when it ends, and why it is of no use."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from agent.findings.of_agent import _of_its_web_certificate as found
from agent.tls.web_certificate import WebCertificate
from tests.support.web_pki import DAY_S, certificate, kept


def state(path: Path, key: Path | None = None, now_s: float | None = None) -> dict[str, Any]:
    return WebCertificate(path, key, ["localhost"]).as_state(time.time() if now_s is None else now_s)


@pytest.mark.parametrize(
    ("lived", "left", "ending"),
    [(60, 30, False), (71, 19, False), (73, 17, True), (300, 65, False), (345, 20, True), (5, 2, False), (6, 1, True)],
)
def test_another_should_be_there_before_it_ends(tmp_path: Path, lived: int, left: int, ending: bool) -> None:
    """A fifth of its life before, and no more than three weeks, by days."""
    path = kept(tmp_path / "web.pem", certificate("localhost", since_s=-lived * DAY_S, until_s=left * DAY_S))
    told = state(path)
    assert (told["ending"], told["reason"], told["path"]) == (ending, "", str(path))
    assert abs(told["left_s"] - left * DAY_S) < 60 and told["ends"].endswith("Z")
    assert [each.severity for each in found(told, "a")] == ["warning"] * ending


def test_it_has_ended_or_not_begun(tmp_path: Path) -> None:
    """An error either way."""
    path = kept(tmp_path / "web.pem", certificate("localhost"))
    for off_s, what in ((2 * DAY_S, "has ended"), (-2 * DAY_S, "is not valid before")):
        (finding,) = found(state(path, now_s=time.time() + off_s), "a")
        assert finding.severity == "error" and what in finding.what


def test_it_is_of_no_use(tmp_path: Path) -> None:
    """Gone, no certificate, without its key, of another key."""
    whole = certificate("localhost")
    chain = whole[: whole.index(b"-----BEGIN PRIVATE")]
    other = kept(tmp_path / "other.pem", certificate("other"))
    for text, key in ((b"", None), (b"garbage", None), (chain, None), (chain, other), (chain, tmp_path / "none.pem")):
        told = state(kept(tmp_path / "web.pem", text), key)
        assert told["reason"] and told["left_s"] is None and not told["ending"], (text, key)
        assert [each.severity for each in found(told, "a")] == ["error"]
    assert "No such file" in state(tmp_path / "gone.pem")["reason"]


def test_another_file_is_read_again(tmp_path: Path) -> None:
    """Though nobody has connected, and back once it is back."""
    path = tmp_path / "web.pem"
    web, now_s = WebCertificate(path, None, ["localhost"]), time.time()
    assert web.as_state(now_s)["reason"]
    kept(path, certificate("localhost"))
    first = web.as_state(now_s)
    assert not first["reason"] and web.as_state(now_s) == first
    kept(path, certificate("localhost", until_s=90 * DAY_S))
    assert web.as_state(now_s)["left_s"] > first["left_s"]
    os.remove(path)
    assert web.as_state(now_s)["reason"] and not web.as_state(now_s)["ends"]
