"""README.md is true: its tour runs as it stands and answers as it says, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import free_port
from tests.support.mesh import ROOT
from tests.support.processes import alive, descendants, tell

README = (ROOT / "README.md").read_text()
PATIENCE_S = 60.0
LISTENERS = {"outbound": 15001, "inbound": 15006, "admin": 15000}
DRAWS = "curl -s -H 'Host: pets.production' http://127.0.0.1:15001/cats >/dev/null"
"""A request, after which another version may have its turn."""
LOOKS_ONLY = re.compile(r"(curl|http_proxy=\S+ curl|shoal (services|status|explain|wait)|for)\b")
"""Commands that change nothing: they are asked again until they answer as the page says, as a person would."""


def steps() -> list[tuple[str, list[str]]]:
    """Every command of the tour, and the lines that it answers with."""
    tour = README.partition("## Ten minutes")[2].partition("\n## ")[0]
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", tour, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip():
                found[-1][1].append(line)
    return found


def pattern(line: str) -> re.Pattern[str]:
    """The line with any host, number and age in the place of its own; `v1` stays `v1`, and 2/2 are all."""
    words = []
    for word in line.split():
        if re.fullmatch(r"[\d.]+[smhd]", word):
            words.append(r"[\d.]+[smhd]")
            continue
        if re.fullmatch(r"\d/\d", word):
            words.append(word)
            continue
        escaped = re.escape(word.replace("web-1", "<host>")).replace("<host>", r"\S+").replace("…", ".*")
        words.append(re.sub(r"(?<![v\d.])\d+(\\\.\d+)*", r"[\\d.]+", escaped))
    return re.compile(r"\s*" + r"\s+".join(words) + r"\s*")


def says(output: str, expected: list[str]) -> bool:
    """Whether the lines are there in their order; programs in the background may speak in between."""
    lines = iter(output.splitlines())
    return all(any(pattern(line).fullmatch(told) for told in lines) for line in expected)


class Shell:
    """One bash, as the one terminal of the tour; with addresses that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        (folder / "tests").symlink_to(ROOT / "tests")
        self.folder = folder
        self._ports = {str(port): str(free_port()) for port in LISTENERS.values()}
        (folder / "agent.toml").write_text(
            "".join(f'[{name}]\nlisten = "127.0.0.1:{self._ports[str(port)]}"\n' for name, port in LISTENERS.items())
        )
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "STATE_DIRECTORY": str(folder / "state"),
            "SHOAL_ADMIN": f"{os.environ['RUNTIME_DIRECTORY']}/agent.sock",
            "NO_COLOR": "1",
        }
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )

    def type(self, line: str) -> str:
        """What the command answers, once it is done."""
        line = line.replace("shoal agent --dev", "shoal agent --dev --config agent.toml")
        for theirs, ours in self._ports.items():
            line = line.replace(f"127.0.0.1:{theirs}", f"127.0.0.1:{ours}")
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\necho @@done@@\n".encode())
        self.process.stdin.flush()
        return self._read(line)

    def _read(self, line: str) -> str:
        stdout = self.process.stdout
        assert stdout is not None
        output = b""
        deadline = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"@@done@@\n" not in output:
                assert selector.select(max(0.0, deadline - time.monotonic())), f"{line}: {output!r} and no end of it"
                more = os.read(stdout.fileno(), 65536)
                assert more, f"{line}: the shell is gone after {output!r}"
                output += more
        return output.decode().replace("@@done@@\n", "")

    def use_etcd_of_the_agent(self) -> None:
        """The agent takes another port where 2379 is taken, and says so in its log."""
        found = re.search(r"url=(\S+)", (self.folder / "agent.log").read_text())
        assert found is not None
        self.type(f"export SHOAL_ETCD={found[1]} ETCDCTL_ENDPOINTS={found[1]} ETCDCTL_API=3")

    def end(self) -> None:
        """Everything that was started, in good order if it can be, and by its id."""
        started = descendants(self.process.pid)
        for pid in started:
            tell(pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S / 2
        while any(map(alive, started)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in started:
            tell(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    try:
        yield made
    finally:
        made.end()


def test_the_tour_runs_as_it_stands(shell: Shell) -> None:
    """Every command, in its order, in one shell; scripts/setup is what made the environment that runs this."""
    tour = steps()
    built = "compiled" if "(compiled)" in shell.type("shoal --version") else "interpreted, …"
    assert tour.pop(0)[0] == "./scripts/setup && source .venv/bin/activate"
    for line, promised in tour:
        expected = [told.replace(", compiled", f", {built}") for told in promised]  # as setup could make it here
        output = shell.type(line)
        deadline = time.monotonic() + PATIENCE_S
        while not says(output, expected) and LOOKS_ONLY.match(line) and time.monotonic() < deadline:
            if line.startswith("shoal explain"):
                shell.type(DRAWS)  # explaining draws nothing: asked again, it tells the same
            output = shell.type(line)
        if line.startswith("wait %"):
            counted = re.findall(r"^ *(\d+)  (\S.*)$", output, re.MULTILINE)
            assert sum(int(count) for count, _ in counted) == 300
            assert "failed" not in output
        else:
            assert says(output, expected), f"$ {line}\n{output}\ninstead of\n" + "\n".join(expected)
        if line.startswith("shoal ready"):
            shell.use_etcd_of_the_agent()


def test_every_link_leads_somewhere() -> None:
    """And every page of docs/ is one click away."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
    pages = [*ROOT.glob("docs/*.md"), ROOT / "docs/policies/README.md", ROOT / "deploy/README.md"]
    assert {str(page.relative_to(ROOT)) for page in pages} <= set(links)


def test_it_stays_short() -> None:
    """A newcomer reads it whole."""
    assert len(README.splitlines()) <= 180
