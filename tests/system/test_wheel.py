"""What an operator installs is what is tested: wheels in fresh environments, used from an empty directory."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import find_binary, free_port
from tests.support.etcd import running_etcd
from tests.support.mesh import ROOT, SERVICE_PROGRAM, until
from tests.support.receiver import Receiver
from tests.support.redis import RedisProcess
from tests.support.wheels import (
    VERSIONS,
    compiled_wheel,
    contents,
    environment,
    install,
    interpreter,
    source_archive,
    wheel_of,
)

ROOMS = ("agent", "policies", "registry")
PETS = "pets.production"
ORDERS = "orders.production"


class Operator:
    """Somebody at a terminal of a host, in an empty directory, with nothing but what was installed and an etcd."""

    def __init__(self, bin: Path, folder: Path, etcd: str) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        self.python = str(bin / "python")
        self._shoal = str(bin / "shoal")
        self._etcd = etcd
        self._short = Path(tempfile.mkdtemp(prefix="shoal-"))  # a socket's path may have 107 bytes
        ports = {name: free_port() for name in ("outbound", "inbound", "admin")}
        self.outbound = ports["outbound"]
        self.settings = folder / "agent.toml"
        listeners = "".join(f'[{name}]\nlisten = "127.0.0.1:{port}"\n' for name, port in ports.items())
        self.settings.write_text(
            f'host = "web-1"\naddress = "127.0.0.1"\nworkers = 1\nstate_dir = "{folder / "state"}"\nlease_ttl = "10s"\n'
            f'drain_timeout = "3s"\n[etcd]\nendpoints = ["{etcd}"]\n[hooks]\nallow = ["127.0.0.0/8"]\n{listeners}'
            f'[local]\nsocket = "{self._short / "agent.sock"}"\n'
        )
        self._environment = environment(
            PATH=f"{bin}:/usr/local/bin:/usr/bin:/bin",
            SHOAL_ETCD=etcd,
            SHOAL_ADMIN=str(self._short / "agent.sock"),
            NO_COLOR="1",
        )
        self._log = folder / "log"
        self._started: list[subprocess.Popen[bytes]] = []

    def shoal(self, *words: str) -> str:
        """A command that has to end well; what it said."""
        done = self.tried(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}\n{self._log.read_text()[-3000:]}"
        return done.stdout + done.stderr

    def tried(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, and how it ended."""
        return subprocess.run(
            [self._shoal, *words], cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=60
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [self._shoal, *words],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def start_agent(self) -> subprocess.Popen[bytes]:
        """And wait until `shoal status` finds nothing wrong."""
        agent = self.start("agent", "--config", str(self.settings))
        until("the agent", lambda: self.tried("status").returncode == 0)
        return agent

    def run(self, service: str, version: str) -> None:
        """An instance, as `shoal run` has it."""
        program = [self.python, str(SERVICE_PROGRAM), "--port", "{port}", "--version", version]
        self.start("run", "--service", service, "--version", version, "--health", "/health", "--", *program)

    def put(self, kind: str, service: str, document: object) -> None:
        """`etcdctl put`, and `shoal wait`."""
        words = ["--endpoints", self._etcd, "put", f"/shoal/default/policies/{kind}/{service}", json.dumps(document)]
        subprocess.run(
            [find_binary("etcdctl"), *words],
            env={**self._environment, "ETCDCTL_API": "3"},
            check=True,
            capture_output=True,
            timeout=20,
        )
        self.shoal("wait")

    def ask(self, service: str, path: str = "/", body: bytes | None = None) -> http.client.HTTPResponse:
        """A request through the agent; its answer, read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.outbound, timeout=20)
        try:
            connection.request("GET" if body is None else "POST", path, body, {"Host": service})
            response = connection.getresponse()
            response.read()
            return response
        finally:
            connection.close()

    def serves(self, service: str, count: int) -> None:
        """Wait until so many of its instances are healthy."""
        wanted = f"{service} +{count}/{count} "
        until(wanted, lambda: re.search(wanted, self.shoal("services")) and self.ask(service).status == 200)

    def close(self) -> None:
        """End everything that was started, and what it started."""
        for process in reversed(self._started):
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    process.send_signal(number)
                    try:
                        process.wait(15)
                    except subprocess.TimeoutExpired:
                        pass
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self._short, ignore_errors=True)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running.url


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_archive(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def pure(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a host gets whose compiler does not work."""
    return wheel_of(archive, tmp_path_factory.mktemp("pure"), CC="false")


def test_a_wheel_is_used_as_an_operator_would(etcd: str, tmp_path: Path) -> None:
    """Compiled; an agent, a request routed by a put, a webhook, a stored request and its replay, status, an end."""
    bin = install(compiled_wheel(), sys.executable, tmp_path / "environment")
    operator, receiver, redis = Operator(bin, tmp_path, etcd), Receiver(), RedisProcess(tmp_path)
    try:
        assert re.fullmatch(r"shoal [\d.]+ \(compiled\)\n", operator.shoal("--version"))
        assert operator.shoal("agent", "--config", str(operator.settings), "--check") == "the settings are good\n"
        agent = operator.start_agent()
        hook = {"events": ["instance.registered"], "target": {"url": receiver.url("/told")}}
        operator.put("webhook", "*", {"hooks": {"all": hook}})

        for version in ("v1", "v2"):
            operator.run(PETS, version)
        operator.serves(PETS, 2)
        operator.put("route", PETS, {"active": "v2", "standby": "v1"})
        assert {operator.ask(PETS).getheader("x-version") for _ in range(10)} == {"v2"}
        until("the webhook", lambda: {r.event["data"]["version"] for r in receiver.of(path="/told")} == {"v1", "v2"})

        operator.run(ORDERS, "v1")
        operator.serves(ORDERS, 1)
        stored_and_replayed(operator, redis)

        told = operator.shoal("status")
        assert re.search(r"^here +web-1: .*, compiled$", told, re.MULTILINE) and "current" in told
        (worker,) = json.loads(operator.shoal("--output", "json", "status"))["local"]["workers"]
        assert worker["build"] == "compiled"
        agent.terminate()
        assert agent.wait(30) == 0
    finally:
        operator.close()
        receiver.close()
        redis.close()


def stored_and_replayed(operator: Operator, redis: RedisProcess) -> None:
    """One slow request is all that the service bears; the next goes to the topic, and from there to the service."""
    where = redis.url("orders")
    operator.put("shed", ORDERS, {"concurrency": 1, "instead": [{"topic": {"url": where}}]})
    slow = http.client.HTTPConnection("127.0.0.1", operator.outbound, timeout=20)
    try:
        slow.request("GET", "/slow?s=600", headers={"Host": ORDERS})
        until("a stored order", lambda: operator.ask(ORDERS, "/order", b"two pets").status == 202)
    finally:
        slow.close()
    until("the order in the topic", lambda: '"POST"' in operator.shoal("-o", "json", "replay", where, "--dry-run"))
    until("room", lambda: operator.ask(ORDERS).status == 200)
    assert "1 sent" in operator.shoal("replay", ORDERS, "--proxy", f"http://127.0.0.1:{operator.outbound}")


@pytest.mark.parametrize("version", VERSIONS)
def test_it_starts_on_each_python_that_is_promised(version: str, pure: Path, etcd: str, tmp_path: Path) -> None:
    """Without a compiler: it says so, and what that costs, and serves."""
    operator = Operator(install(pure, interpreter(version), tmp_path / "environment"), tmp_path, etcd)
    try:
        told = operator.shoal("--version")
        assert "(interpreted, at more than twice the CPU a request: no working C compiler when it was inst" in told
        operator.shoal("agent", "--config", str(operator.settings), "--check")
        agent = operator.start_agent()
        service = f"pets{version.replace('.', '')}.production"
        operator.run(service, "v1")
        operator.serves(service, 1)
        assert ", interpreted, at more than twice the CPU" in operator.shoal("status")
        agent.terminate()
        assert agent.wait(30) == 0
    finally:
        operator.close()


def test_every_source_is_in_the_wheel_and_nothing_else(pure: Path) -> None:
    """From the archive as from the checkout: each file of each room, a folder without __init__.py noticed. Of the page
    it has what its sources make, and not these."""
    page = ROOT / "agent" / "ui" / "page"
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file() and page not in path.parents]
    here = {str(p.relative_to(ROOT)): p.read_bytes() for p in rooms if p.parent.name != "__pycache__"}
    made = contents(pure)
    assert json.loads(made.pop("agent/built.json"))["compiled"] == []
    assert made == here
    assert pure.name.endswith("-py3-none-any.whl")


def test_a_compiled_wheel_has_the_same_files_and_libraries(pure: Path) -> None:
    """What differs is what was compiled."""
    wheel = compiled_wheel()
    made, plain = contents(wheel), contents(pure)
    told = json.loads(made.pop("agent/built.json"))
    assert told["why_not"] == "" and "agent.proxy.request.exchange" in told["compiled"]
    del plain["agent/built.json"]
    libraries = {name.partition(".")[0] for name in made if name.endswith(".so")}
    group = {name for name in libraries if "/" not in name}
    assert libraries - group == {module.replace(".", "/") for module in told["compiled"]} and len(group) == 1
    assert {name: text for name, text in made.items() if not name.endswith(".so")} == plain


def test_what_builds_it_is_pinned_as_everything_else() -> None:
    """Types of another version could find fault with our sources: the build's pins are those of constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    needed = [line for line in project["build-system"]["requires"] if not line.startswith("setuptools")]
    assert {"mypy", "msgspec", "trio"} == {line.partition("==")[0] for line in needed}
    assert [line for line in needed if line not in pins] == []


def test_each_python_that_is_promised_is_tested() -> None:
    """pyproject.toml names those that are tried here, and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert tuple(named) == VERSIONS
    least, most = VERSIONS[0], int(VERSIONS[-1].partition(".")[2]) + 1
    assert project["requires-python"] == f">={least},<3.{most}"
