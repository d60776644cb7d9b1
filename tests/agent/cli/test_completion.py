from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from registry.records import Instance, encode

KEYS = Keys()
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def known(etcd: EtcdProcess) -> AsyncIterator[str]:
    """The URL of an etcd that has two services and a policy."""
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
        for service in ("pets.production", "shop.production"):
            record = encode(Instance(address="127.0.0.1", port=80))
            await store.put(KEYS.instance(service, f"{service[:4]}-1"), record)
        await store.put(KEYS.policy("retry", "*.production"), b"{}")
        yield etcd.url


def complete(shell: str, line: str, etcd: str = "") -> list[str]:
    """What a shell would offer behind a line; its cursor is at the end."""
    words = line.split(" ")
    asked = {
        "_SHOAL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **asked, "SHOAL_ETCD": etcd or "127.0.0.1:1"}
    program = "import sys; sys.argv[0] = 'shoal'; from agent.cli import completion; completion.PATIENCE_S = 60"
    command = [sys.executable, "-c", f"{program}; from agent.cli.main import main; main()"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert told.stderr == ""
    offered = told.stdout.replace("_arguments '*: :((", "").replace("))'", "")
    return [
        entry.split("\t")[0].split('":"')[0].strip('"') for entry in offered.split("\n") if entry not in ("", "_files")
    ]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("shoal policy get r", ["ratelimit", "route", "retry", "rego"]),
        ("shoal policy schema sh", ["shed", "shadow"]),
        ("shoal policy check --kind bal", ["balance"]),
        ("shoal stat", ["status"]),
        ("shoal status --out", ["--output"]),
        ("shoal policy get --etcd-t", ["--etcd-timeout"]),
        ("shoal --mesh x status --output ", ["table", "json"]),
        ("shoal events replay -o j", ["json"]),
    ],
)
def test_what_is_known_without_etcd(shell: str, line: str, offered: list[str]) -> None:
    """Kinds, commands, and the options of every command behind each, in each shell."""
    assert complete(shell, line) == offered


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("shoal instances ", ["pets.production", "shop.production"]),
        ("shoal chain sh", ["shop.production"]),
        ("shoal policy get retry ", ["*.production", "pets.production", "shop.production"]),
        ("shoal deregister pets.production ", ["pets-1"]),
        ("shoal explain --as pe", ["pets.production"]),
    ],
)
async def test_what_etcd_knows(shell: str, line: str, offered: list[str], known: str) -> None:
    """Services, patterns, instances of the service before."""
    assert complete(shell, line, known) == offered


async def test_where_etcd_is_may_stand_on_the_line(known: str) -> None:
    """Before the command's name, and behind it."""
    for line in (f"shoal --etcd {known} instances pe", f"shoal instances --etcd {known} pe"):
        assert complete("fish", line) == ["pets.production"]
    assert complete("fish", f"shoal --etcd {known} --mesh other instances ") == []
    assert complete("fish", f"shoal --etcd {known} explain GET http://p") == ["http://pets.production/"]


@pytest.mark.parametrize("etcd", ["127.0.0.1:1", "ftp://nonsense", "silent"])
def test_what_cannot_be_asked_completes_to_nothing(etcd: str) -> None:
    """And nobody is told so in the middle of a line; one that takes connections and says nothing included."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}" if etcd == "silent" else etcd
        assert complete("bash", "shoal instances p", where) == []


def test_a_background_job_s_tests_end_what_they_start() -> None:
    """A shell starts those with SIGINT ignored, which what they start would inherit."""
    asks = "import signal, tests.conftest; print(signal.getsignal(signal.SIGINT))"
    told = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, asks],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    assert "default_int_handler" in told.stdout, told.stderr
