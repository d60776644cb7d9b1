"""Whatever is in the state directory, an agent starts: what it cannot read counts as not there, is kept and said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.control.host.etcd import embedded
from agent.settings.file import parse
from agent.topics.spool import Spool
from registry.etcd.server import NoEtcd
from tests.support.mesh import Mesh, running_mesh, until

FILES = ("boot", "instances.json", "table", "topics/0011223344556677/topic.json")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def bytes_of(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bad byte": bytes_of(b"\xff"),
    "one bad byte in a string": bytes_of(b'{"instances": ["\xff"], "url": "\xff"}'),
    "depth": bytes_of(b"[" * 100_000),
    "nothing": bytes_of(b""),
    "a directory": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": lambda path: os.mkfifo(path),
}


def damage(path: Path, how: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    how(path)


def test_every_file_in_every_state(mesh: Mesh) -> None:
    """The agent is ready, what is declared is served, and the log names each file and where it is now."""
    agent = mesh.agent()
    port = mesh.instance(agent)
    assert agent.stop() == 0
    agent.path.write_text(agent.path.read_text() + f'\n[[instances]]\nservice = "cart"\nport = {port}\n')
    for number, how in enumerate(DAMAGES.values(), 1):
        for name in (*FILES, "lock"):
            damage(agent.state_dir / name, how)
        agent.log.unlink()
        agent.start()
        until("served", lambda: agent.ask("cart").status == 200)
        for name in FILES:
            path = agent.state_dir / name
            until(name, lambda path=path: f"as_={path}.unreadable-{number}" in agent.log.read_text())  # noqa: B023
            assert os.path.lexists(f"{path}.unreadable-{number}")
        assert "Traceback" not in agent.log.read_text()
        assert agent.stop() == 0
    aside = {path.name for path in agent.state_dir.glob("lock.*")}
    assert aside == {"lock.unreadable-1", "lock.unreadable-2", "lock.unreadable-3"}  # a regular file is a lock


def test_what_can_be_read_beside_it_is(mesh: Mesh) -> None:
    """One registration that makes no sense, and a token: the others are there, and the file of before is kept."""
    agent = mesh.agent()
    port = mesh.instance(agent)
    assert agent.stop() == 0
    path = agent.state_dir / "instances.json"
    text = path.read_text()
    path.write_text(text.replace('"instances":[', '"instances":[{"service":"of another version","x":1},'))
    agent.start()
    until("served", lambda: agent.ask().status == 200)
    assert mesh.healthy(agent, "pets.production", port)
    assert "of another version" in path.with_name("instances.json.unreadable-1").read_text()
    assert "of another version" not in path.read_text()


async def test_a_segment_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    """A folder in its place, a pipe, a link: it is kept, and the segments beside it are read."""
    (tmp_path / "²1.records").touch()
    spool = Spool(tmp_path, segment_bytes=1)
    for _ in range(5):
        await spool.append([b"one"])
    spool.close()
    for number, how in ((1, "a directory"), (2, "a link to nowhere"), (3, "a pipe")):
        damage(tmp_path / f"{number:010}.records", DAMAGES[how])
    (tmp_path / "0000000004.delivered").mkdir()
    spool = Spool(tmp_path)
    assert spool.waiting == 2
    spool.close()
    aside = {path.name for path in tmp_path.glob("*.unreadable-1")}
    assert aside == {
        *(f"000000000{number}.records.unreadable-1" for number in (1, 2, 3)),
        "0000000004.delivered.unreadable-1",
    }


@pytest.mark.parametrize("where", ["dev-etcd", "dev-etcd/etcd/member/snap/db"])
async def test_an_etcd_for_development_that_cannot_be_read(tmp_path: Path, where: str) -> None:
    """It starts with nothing, and what was there is kept."""
    settings = parse(f'state_dir = "{tmp_path}"', "agent.toml")
    async with embedded(settings):
        pass
    broken = tmp_path / where
    shutil.rmtree(broken) if broken.is_dir() else broken.unlink()
    broken.write_bytes(b"\xff")
    async with embedded(settings):
        assert (tmp_path / "dev-etcd" / "etcd" / "member").is_dir()
    assert (tmp_path / where.replace("dev-etcd", "dev-etcd.unreadable-1", 1)).read_bytes() == b"\xff"


async def test_an_etcd_that_cannot_start_at_all_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another directory is no help, what was there is there again."""
    settings = parse(f'state_dir = "{tmp_path}"', "agent.toml")
    async with embedded(settings):
        pass
    program = tmp_path / "bin" / "etcd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(BaseException) as raised:
        async with embedded(settings):
            pass
    assert isinstance(raised.value, NoEtcd)
    assert (tmp_path / "dev-etcd" / "etcd" / "member").is_dir()
    assert list(tmp_path.glob("*.unreadable-*")) == []
