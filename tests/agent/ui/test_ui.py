"""The page's files: what is read, and how it is answered."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

import agent.ui
from agent.ui import INDEX, built, read
from agent.ui.answers import answer, policy

SCRIPT = b"console.log('one');\n" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "index-1a2b.js").write_bytes(SCRIPT)
    return tmp_path


def test_there_is_a_page() -> None:
    """In this tree, small enough to be kept by every agent, and with nothing inline that its policy would not run."""
    files = built()
    page = files[INDEX].body.decode().lower()
    assert page.startswith("<!doctype html>") and not files[INDEX].forever
    assert "<script>" not in page and "<style" not in page and " style=" not in page and " onclick=" not in page
    assert "http://" not in page and "https://" not in page
    assert all(file.forever == (name != INDEX) for name, file in files.items())


def test_what_is_no_file_of_a_page_is_not_served(folder: Path) -> None:
    """Sources, hidden files, folders inside."""
    (folder / "assets" / "deep").mkdir()
    (folder / "assets" / "deep" / "a.js").write_text("")
    (folder / "assets" / ".secret").write_text("")
    (folder / "main.tsx").write_text("")
    assert list(read(folder)) == [INDEX, "assets/index-1a2b.js"]
    assert read(folder / "nothing") == {}


def test_a_page_has_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes and in files."""
    monkeypatch.setattr(agent.ui, "MOST_BYTES", len(SCRIPT))
    with pytest.raises(ValueError, match="more than"):
        read(folder)
    monkeypatch.setattr(agent.ui, "MOST_BYTES", 10 * len(SCRIPT))
    monkeypatch.setattr(agent.ui, "MOST_FILES", 1)
    with pytest.raises(ValueError, match="more than 1 files"):
        read(folder)


def test_how_a_file_is_answered(folder: Path) -> None:
    """Packed for who takes that, and not sent to who has it; what has a hash in its name is kept for ever."""
    files = read(folder)
    script, page = files["assets/index-1a2b.js"], files[INDEX]
    for accepted in ("gzip, deflate, br", "br, gzip;q=0.5", "GZIP"):
        told = answer(script, {"accept-encoding": accepted}, secure=False)
        assert (told.status, told.headers["content-encoding"]) == (200, "gzip")
        assert gzip.decompress(told.body) == SCRIPT
    for refused in ("", "gzip;q=0", "br, gzip;q=0.000", "xgzip"):
        told = answer(script, {"accept-encoding": refused}, secure=False)
        assert told.body == SCRIPT and "content-encoding" not in told.headers
    assert "immutable" in told.headers["cache-control"] and told.headers["vary"] == "accept-encoding"
    assert told.headers["content-type"].startswith("text/javascript")
    again = answer(page, {"if-none-match": f'"other", W/{page.tag}'}, secure=False)
    assert (again.status, again.body, again.headers["cache-control"]) == (304, b"", "no-cache")
    assert answer(page, {"if-none-match": script.tag}, secure=False).status == 200


def test_files_do_not_change_under_a_running_agent(folder: Path) -> None:
    """They are read once: what is built anew meanwhile is served after a restart, whole."""
    assert built() is built()
    before = read(folder)
    os.unlink(folder / "index.html")
    assert before[INDEX].body


def test_what_the_page_may_do() -> None:
    """Nothing inline, nothing from elsewhere, in no frame; a Host that is no name of a source adds nothing."""
    told = policy("Mesh.corp.example:15443", secure=True)
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in told
    assert "connect-src 'self' wss://Mesh.corp.example:15443;" in told and "frame-ancestors 'none'" in told
    assert "unsafe" not in told and "*" not in told
    for host in ("[::1]:15000", "a; script-src *", "a b", "", "a,b", "a:b"):
        assert "connect-src 'self';" in policy(host, secure=False), host
