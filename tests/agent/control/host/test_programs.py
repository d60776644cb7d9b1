"""Programs of checks and webhooks: what they find, what they may take, and what is left of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio

from agent.accounts import find_account
from agent.control.host.programs import MARK, MAX_OUTPUT_BYTES, Ended, Failure, Programs

NOBODY = "65534"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


async def shell(script: str, programs: Programs | None = None, timeout_s: float = 10.0) -> Ended | Failure:
    return await (programs or Programs()).run(["/bin/sh", "-c", script], {"PORT": "80"}, timeout_s)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    with trio.fail_after(60):
        while alive(pid):
            await trio.sleep(0.01)


async def test_the_environment_is_made_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the agent's environment, no descriptor beyond three, and `/` to stand in."""
    monkeypatch.setenv("SHOAL_HOOK_TOKEN", "s3cret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    note = tmp_path / "note"
    try:
        found = await shell(f"(tr '\\0' '\\n' < /proc/$$/environ; ls /proc/$$/fd; pwd) > {note}")
    finally:
        os.close(held)
    assert found == Ended("/bin/sh", 0)
    lines = note.read_text().split()
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert names == {"PATH", "LANG", "PORT", MARK, "PWD"} - ({"PWD"} - names)
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2"] and lines[-1] == "/"


async def test_what_it_says_is_for_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """One line of the log, whatever bytes it is; who asked learns how it ended."""
    found = await shell("printf 'no\\n\\033[31mdisk\\377'; exit 3")
    assert str(found) == "/bin/sh ended with 3"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "a program said" in line]
    assert "no" in line and "disk" in line and "\\xff" in line


async def test_a_flood_is_bounded() -> None:
    """Who talks without end is ended, at little cost to the agent, long before the end of the time."""
    before = time.process_time()
    found = await shell("yes", timeout_s=60)
    assert found == Failure(f"/bin/sh said more than {MAX_OUTPUT_BYTES} bytes, and was ended")
    assert time.process_time() - before < 5


async def test_who_reads_nothing_and_who_says_nothing() -> None:
    """More on standard input than fits the pipe holds up nobody; neither does one that waits for more."""
    long = b"x" * 1_000_000
    assert await Programs().run(["/bin/true"], {}, 10, long) == Ended("/bin/true", 0)
    assert await Programs().run(["cat"], {}, 10, b"said") == Ended("cat", 0)
    assert await shell("sleep 1000", timeout_s=0.3) == Failure("/bin/sh did not end within 0.3 s")


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 & echo $! > {0}",
        "setsid sleep 1000 & echo $! > {0}",
        "(setsid sh -c 'echo $$ > {0}; exec sleep 1000' &) ; while ! test -s {0}; do :; done",
        "echo $$ > {0}; exec sleep 1000",
        "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & sleep 1000",
    ],
)
async def test_nothing_of_it_is_left(script: str, tmp_path: Path) -> None:
    """Not in a group, a session or under a parent of its own, and not when its time has run out either."""
    note = tmp_path / "pid"
    await shell(script.format(note), timeout_s=2)
    await gone(int(note.read_text()))


async def test_it_is_ended_with_who_asked_for_it(tmp_path: Path) -> None:
    """An agent that stops leaves no program behind."""
    note = tmp_path / "pid"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell, f"echo $$ > {note}; exec sleep 1000")
        with trio.fail_after(60):
            while not note.exists() or not note.read_text():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    await gone(int(note.read_text()))


HOG = 'import mmap; exec("try: {0}\\nexcept (MemoryError, OSError): raise SystemExit(9)")'


@pytest.mark.parametrize("what", ["bytearray(1 << 30)", "mmap.mmap(-1, 1 << 40)"])
async def test_memory_has_a_bound(what: str) -> None:
    """Its own, and what it would share."""
    programs = Programs(max_memory_bytes=256 << 20)
    found = await programs.run(["/usr/bin/env", "python3", "-c", HOG.format(what)], {}, 20)
    assert found == Ended("/usr/bin/env", 9)


async def test_files_have_a_bound(tmp_path: Path) -> None:
    """No disk is filled by one."""
    await shell(f"head -c 100000000 /dev/zero > {tmp_path}/much")
    assert (tmp_path / "much").stat().st_size <= 16 * 1024 * 1024


@as_root
async def test_another_user_has_that_users_rights(tmp_path: Path) -> None:
    """Neither root's files nor root's groups; and it can be ended by us."""
    tmp_path.chmod(0o755)
    (room := tmp_path / "room").mkdir()
    room.chmod(0o777)
    programs = Programs(NOBODY)
    assert await shell("cat /etc/shadow", programs) == Ended("/bin/sh", 1)
    assert await shell('test "$(id -u):$(id -G)" = "65534:65534"', programs) == Ended("/bin/sh", 0)
    assert programs.user == find_account(NOBODY).name
    for script in ("(setsid sleep 1000 &)", "sleep 1000"):
        await shell(script, programs, timeout_s=0.5)
        assert not [p for p in Path("/proc").iterdir() if p.name.isdigit() and b"sleep\x001000" in _command(p)]


def _command(path: Path) -> bytes:
    try:
        uid = path.stat().st_uid
        return (path / "cmdline").read_bytes() if uid == 65534 else b""
    except OSError:
        return b""


@as_root
async def test_forking_has_a_bound_for_another_user() -> None:
    """A bomb ends with its time, and nothing of it is left."""
    programs = Programs(NOBODY, 64 << 20)
    found = await shell("f() { f | f & }; f; sleep 1000", programs, timeout_s=1)
    assert isinstance(found, Failure)
    left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and b"f() { f" in _command(p)]
    assert left == []


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"], ["no-such-program"], ["/"]])
async def test_what_is_no_program(argv: list[str]) -> None:
    """Is said, and no more."""
    assert await Programs().run(argv, {}, 5) == Failure(f"{argv[0]}: no program that can be run")


def test_a_user_has_to_exist() -> None:
    """By name or number; and to be one that we can become."""
    for name in ("no-such-user", "4294967294", "-1", ""):
        with pytest.raises(ValueError, match="is no user of this host"):
            find_account(name)
    assert find_account(str(os.geteuid())).uid == os.geteuid()
