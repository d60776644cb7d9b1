"""What deploy/ holds works: the units with real agents, the etcd files with real etcds, the commands as they stand."""

from __future__ import annotations

import configparser
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent.process.descriptors import affordable
from agent.settings.document import Settings, runtime_directory
from agent.settings.file import load
from policies.language.duration import seconds
from registry.etcd.server import find_binary, free_port
from tests.support.etcd import running_etcd
from tests.support.local import ask
from tests.support.mesh import DIRECT, ROOT, SERVICE_PROGRAM, SHOAL, Traffic, running_mesh, until

DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
LISTENERS = ("outbound", "inbound", "admin")
README = (DEPLOY / "README.md").read_text()
STAND_IN = """
import os, sys
names, fds, command = sys.argv[1], [int(fd) for fd in sys.argv[2].split(",")], sys.argv[3:]
away = [os.dup2(fd, 100 + n, inheritable=False) for n, fd in enumerate(fds)]
for n, fd in enumerate(away):
    os.dup2(fd, 3 + n)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""
"""Hands sockets over as systemd does: from descriptor 3 on, and LISTEN_PID is the process that is executed."""


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


# The units.


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """Every directive is known and every value parses. The program is installed elsewhere, here a stand-in is."""
    for path in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        text = path.read_text().replace("/opt/shoal/bin/shoal", "/bin/true").replace("/usr/sbin/nft", "/bin/true")
        (tmp_path / path.name).write_text(text)
    told = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in told.stderr.splitlines() if "shoal" in line]
    assert ours == []


def test_the_guard_is_loaded_before_anything_listens(tmp_path: Path) -> None:
    """What its unit runs is the command as it is, with the page's settings and a user of this host."""
    told = unit("shoal-guard.service")
    assert "shoal.service" in told["Unit"]["Before"].split()
    found = re.search(r"```toml\n(\[guard\].*?)```", README, re.DOTALL)
    assert found is not None
    (tmp_path / "agent.toml").write_text(found[1])
    make, load = re.findall(r"^ExecStart=(.*)$", (UNITS / "shoal-guard.service").read_text(), re.MULTILINE)
    script, _, path = shlex.split(make)[2].removeprefix("exec ").partition(" >")
    assert load == f"/usr/sbin/nft -f {path}"
    replaced = {"/opt/shoal/bin/shoal": SHOAL, "/etc/shoal/agent.toml": [str(tmp_path / "agent.toml")], "shoal": ["0"]}
    words = [word for each in shlex.split(script) for word in replaced.get(each, [each])]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"table inet {told['Service']['ExecStop'].rpartition(' ')[2]} {{" in made and "20000-29999" in made


def test_systemd_waits_longer_than_the_agent_drains() -> None:
    """Else requests in flight would be killed at every restart."""
    settings = Settings()
    longest_s = seconds(settings.spread_timeout) + seconds(settings.drain_timeout) + 2
    assert int(unit("shoal.service")["Service"]["TimeoutStopSec"]) > longest_s


def test_a_crash_of_control_leaves_the_workers(activated: Activated, service: int) -> None:
    """With the shipped unit systemd ends nobody but control; they serve while there is none, and until the next."""
    assert unit("shoal.service")["Service"]["KillMode"] == "process"
    activated.start()
    until("ready", activated.ready)
    register(service)
    until("healthy", lambda: answered(asked(activated.port("outbound"))) == 200)
    crashed = activated.process
    assert crashed is not None
    crashed.kill()
    crashed.wait()
    try:
        assert [answered(asked(activated.port("outbound"))) for _ in range(20)] == [200] * 20
        activated.start()
        until("ready", activated.ready)
        assert [answered(asked(activated.port("outbound"))) for _ in range(20)] == [200] * 20
    finally:
        end_group(crashed)


def test_a_worker_may_open_what_the_limits_promise() -> None:
    """Two descriptors a connection, at each of two listeners, and some to spare."""
    most = int(unit("shoal.service")["Service"]["LimitNOFILE"])
    assert affordable(most) >= Settings().limits.max_connections


@pytest.mark.parametrize("name", LISTENERS)
def test_a_socket_unit_listens_where_the_agent_would(name: str) -> None:
    """With and without sockets of systemd's, the addresses are the same."""
    told = unit(f"shoal-{name}.socket")["Socket"]
    assert (told["FileDescriptorName"], told["Service"]) == (name, "shoal.service")
    assert told["ListenStream"] == getattr(Settings(), name).listen


def test_the_settings_in_the_readme_are_good(tmp_path: Path) -> None:
    """agent.toml as it stands there."""
    found = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    (tmp_path / "agent.toml").write_text(found[1])
    assert len(load(tmp_path / "agent.toml", {}).etcd.endpoints) == 3


def test_every_file_that_is_named_exists() -> None:
    """Paths in the page's commands are paths of the repository."""
    for path in re.findall(r"deploy/[\w./*-]+", README):
        assert list(ROOT.glob(path)), path


# Sockets of systemd's.


class Activated:
    """The test is systemd: it holds the sockets, and starts and stops an agent that is given them."""

    def __init__(self, folder: Path, etcd: str) -> None:
        self.sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in LISTENERS}
        self.config = folder / "agent.toml"
        elsewhere = "".join(f'[{name}]\nlisten = "127.0.0.1:{free_port()}"\n' for name in LISTENERS)
        self.config.write_text(
            f'host = "h"\naddress = "127.0.0.1"\nstate_dir = "{folder / "state"}"\nworkers = 2\n'
            f'drain_timeout = "3s"\nlease_ttl = "10s"\n[etcd]\nendpoints = ["{etcd}"]\n{elsewhere}'
            f'[local]\nsocket = "{runtime_directory() / "agent.sock"}"\n'
        )
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def port(self, name: str) -> int:
        return int(self.sockets[name].getsockname()[1])

    def start(self) -> None:
        fds = [sock.fileno() for sock in self.sockets.values()]
        command = [sys.executable, "-c", STAND_IN, ":".join(self.sockets), ",".join(map(str, fds))]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, *SHOAL, "agent", "--config", str(self.config)],
                pass_fds=fds,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )

    def ready(self) -> bool:
        with DIRECT.open(f"http://127.0.0.1:{self.port('admin')}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)

    def stop(self, number: int = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(20)
        finally:
            end_group(process)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            end_group(self.process)
        for sock in self.sockets.values():
            sock.close()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """The workers share the session of the process that was started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[Activated]:
    with running_etcd(tmp_path / "etcd") as etcd:
        agent = Activated(tmp_path, etcd.url)
        try:
            yield agent
        finally:
            agent.close()


@pytest.fixture
def service() -> Iterator[int]:
    """A service process; its port."""
    with subprocess.Popen([sys.executable, str(SERVICE_PROGRAM), "--port", "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["listening"]
        finally:
            process.kill()


def register(port: int) -> None:
    told = ask(runtime_directory() / "agent.sock", "POST", "/api/v1/instances", {"service": "pets", "port": port})
    assert told.status == 200, told.body


def asked(outbound: int) -> http.client.HTTPConnection:
    """A connection on which a request has been sent."""
    connection = http.client.HTTPConnection("127.0.0.1", outbound, timeout=20)
    connection.request("GET", "/", headers={"Host": "pets"})
    return connection


def answered(connection: http.client.HTTPConnection) -> int:
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_a_restart_of_the_whole_unit_loses_no_connection(activated: Activated, service: int) -> None:
    """Who calls while there is no agent at all waits in the socket, and is answered by the next one."""
    activated.start()
    until("ready", activated.ready)
    register(service)
    until("healthy", lambda: answered(asked(activated.port("outbound"))) == 200)
    assert activated.stop() == 0
    waiting = [asked(activated.port("outbound")) for _ in range(5)]
    activated.start()
    assert [answered(connection) for connection in waiting] == [200] * 5


def restart(agent: Activated) -> None:
    """As `systemctl restart`."""
    assert agent.stop(signal.Signals[unit("shoal.service")["Service"]["RestartKillSignal"]]) == 0
    agent.start()


def test_a_restart_takes_no_service_away(service: int, tmp_path: Path) -> None:
    """With callers on this host and on another, who have no other instance: every one is answered, though he calls
    while there is no agent at all. A stop still takes everything along."""
    with running_mesh(tmp_path) as mesh, closing(Activated(tmp_path, mesh.etcd.url)) as activated:
        activated.start()
        until("ready", activated.ready)
        register(service)
        here, other = mesh.agent("h", start=False), mesh.agent("other", "127.0.0.2")
        here.outbound = activated.port("outbound")
        for caller in (here, other):
            until("healthy", lambda caller=caller: caller.ask("pets").status == 200)
        with Traffic(here, "pets") as beside, Traffic(other, "pets") as away:
            for _ in range(2):
                beside.more(30)
                away.more(30)
                restart(activated)
                until("ready", activated.ready)
            beside.more(30)
            away.more(30)
        assert (beside.failures, away.failures) == ([], [])
        until("serving", lambda: not other.state()["services"]["pets"]["endpoints"][0]["draining"])
        assert activated.stop() == 0
        assert other.ask("pets").status == 503


def test_a_reload_keeps_the_sockets_of_systemd(activated: Activated, service: int) -> None:
    """Though agent.toml says another address: the unit is the one that says where."""
    activated.start()
    until("ready", activated.ready)
    register(service)
    until("healthy", lambda: answered(asked(activated.port("outbound"))) == 200)
    for times in (1, 2):
        assert activated.process is not None
        activated.process.send_signal(signal.SIGHUP)
        until("reloaded", lambda: activated.log.read_text().count("the previous workers have ended") == times)  # noqa: B023
        assert answered(asked(activated.port("outbound"))) == 200
        assert activated.ready()


def test_a_socket_with_another_name_is_told(activated: Activated) -> None:
    """One line says which name is right."""
    activated.sockets = {"shoal.socket": activated.sockets["outbound"], **activated.sockets}
    activated.start()
    assert activated.process is not None
    assert activated.process.wait(30) == 2
    assert "FileDescriptorName= has to be outbound, inbound or admin" in activated.log.read_text()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="no systemd-socket-activate")
def test_the_first_caller_starts_the_agent(activated: Activated, service: int) -> None:
    """With systemd's own program: nothing runs until somebody connects, and he is answered."""
    ports = {name: free_port() for name in LISTENERS}
    addresses = [word for port in ports.values() for word in ("-l", f"127.0.0.1:{port}")]
    given = ["systemd-socket-activate", *addresses, f"--fdname={':'.join(LISTENERS)}"]
    with open(activated.log, "ab") as log:
        activated.process = subprocess.Popen(
            [*given, *SHOAL, "agent", "--config", str(activated.config)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )
    until("listening", lambda: "Listening on" in activated.log.read_text())
    until("there", lambda: DIRECT.open(f"http://127.0.0.1:{ports['admin']}/healthz", timeout=10).status == 200)
    register(service)
    until("healthy", lambda: answered(asked(ports["outbound"])) == 200)


# etcd.


def started(stack: ExitStack, folder: Path, name: str, text: str) -> None:
    """One etcd from a file, as `etcd --config-file` starts it."""
    path = folder / f"{name}.yaml"
    path.write_text(
        text.replace("/var/lib/etcd/shoal", str(folder / name)).replace("/etc/etcd/pki", str(folder / "pki"))
    )
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen([find_binary("etcd"), "--config-file", str(path)], stdout=log, stderr=log)
    stack.callback(process.wait, 10)
    stack.callback(process.kill)


def etcdctl(endpoints: Sequence[str], *words: str) -> str:
    done = subprocess.run(
        [find_binary("etcdctl"), "--endpoints", ",".join(endpoints), *words],
        env={**os.environ, "ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.stdout + done.stderr if done.returncode == 0 else ""


def moved(text: str, ports: dict[str, int]) -> str:
    """The file with our loopback addresses and free ports in the place of its own."""
    text = text.replace("10.0.0.", "127.0.0.")
    return re.sub(r"(127\.0\.0\.\d+):(2379|2380)", lambda at: f"{at[1]}:{ports[at[2]]}", text)


def test_one_node_runs(tmp_path: Path) -> None:
    """etcd takes the file as it stands, but for address and place."""
    ports = {"2379": free_port(), "2380": free_port()}
    with ExitStack() as stack:
        started(stack, tmp_path, "one", moved((DEPLOY / "etcd" / "one-node.yaml").read_text(), ports))
        url = f"http://127.0.0.10:{ports['2379']}"
        until("healthy", lambda: "is healthy" in etcdctl([url], "endpoint", "health"))


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
def test_a_certificate_is_a_user_and_writes_its_own_keys_only(tmp_path: Path) -> None:
    """The page's commands as they stand, with etcd's file for certificates: the agent of a host works with the
    certificate of its host and no password, and writes nothing of another's."""
    found = re.search(r"```sh\n(deploy/etcd/make-certificates pki root .*?)```", README, re.DOTALL)
    assert found is not None
    make, commands = found[1].split("\n", 1)
    subprocess.run([str(ROOT / "deploy/etcd/make-certificates"), "pki", "shoal-a=127.0.0.1"], cwd=tmp_path, check=True)
    subprocess.run([str(ROOT / shlex.split(make)[0]), *shlex.split(make)[1:]], cwd=tmp_path, check=True, timeout=60)
    port, pki = free_port(), tmp_path / "pki"
    text = (DEPLOY / "etcd" / "three-nodes-a.yaml").read_text().replace("10.0.0.11", "127.0.0.1")
    text = re.sub(r"^initial-cluster: .*$", "initial-cluster: shoal-a=https://127.0.0.1:2380", text, flags=re.MULTILINE)
    text = text.replace("127.0.0.1:2379", f"127.0.0.1:{port}").replace("127.0.0.1:2380", f"127.0.0.1:{free_port()}")
    url = f"https://127.0.0.1:{port}"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("shoal", SHOAL), ("etcdctl", [find_binary("etcdctl")])):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"SHOAL_ETCD": url, "ETCDCTL_ENDPOINTS": url, "ETCDCTL_API": "3"}

    def told(who: str, *words: str) -> str:
        proof = [f"--cacert={pki / 'ca.pem'}", f"--cert={pki / f'{who}.pem'}", f"--key={pki / f'{who}.key'}"]
        done = subprocess.run(
            [find_binary("etcdctl"), f"--endpoints={url}", *proof, *words],
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        return done.stdout + done.stderr

    with ExitStack() as stack:
        started(stack, tmp_path, "shoal-a", text)
        until("healthy", lambda: "is healthy" in told("root", "endpoint", "health"))
        ran = subprocess.run(
            ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        ports = {name: free_port() for name in LISTENERS}
        config = tmp_path / "agent.toml"
        config.write_text(
            f'host = "web-1"\naddress = "127.0.0.1"\nstate_dir = "{tmp_path / "state"}"\nworkers = 1\n'
            + "".join(f'[{name}]\nlisten = "127.0.0.1:{ports[name]}"\n' for name in LISTENERS)
            + f'[local]\nsocket = "{runtime_directory() / "agent.sock"}"\n'
            + f'[etcd]\nendpoints = ["{url}"]\nca = "{pki / "ca.pem"}"\ncert = "{pki / "web-1.pem"}"\n'
            + f'key = "{pki / "web-1.key"}"\n'
        )
        with open(tmp_path / "agent.log", "wb") as log:
            agent = subprocess.Popen(
                [*SHOAL, "agent", "--config", str(config)], stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )
        stack.callback(agent.wait, 20)
        stack.callback(end_group, agent)
        admin = f"http://127.0.0.1:{ports['admin']}"
        until("ready", lambda: DIRECT.open(f"{admin}/readyz", timeout=5).status == 200)
        until("written", lambda: "web-1" in told("root", "get", "--prefix", "--keys-only", "/shoal/default/agents/"))
        state = json.load(DIRECT.open(f"{admin}/state", timeout=5))
        assert state["etcd"]["connected"] and not state["etcd"]["not_allowed"]
        assert "permission denied" in told("web-2", "put", "/shoal/default/agents/web-1", "{}")
        assert "permission denied" in told("web-1", "put", "/shoal/default/policies/route/pets", "{}")
        assert "OK" in told("root", "put", "/shoal/default/policies/route/pets", '{"rules": []}')


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
def test_three_nodes_with_certificates_run_and_outlive_one(tmp_path: Path) -> None:
    """The commands of the page make the certificates; who has none is not let in; `shoal` is, with his."""
    for line in re.findall(r"^\$ (deploy/etcd/make-certificates .*)", README, re.MULTILINE):
        # On loopback everybody comes from 127.0.0.1, and etcd compares that with the certificate.
        program, folder, *names = shlex.split(re.sub(r"10\.0\.0\.(\d+)", r"127.0.0.\1,127.0.0.1", line))
        subprocess.run([str(ROOT / program), folder, *names], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    ports = {"2379": free_port(), "2380": free_port()}
    urls = [f"https://127.0.0.{n}:{ports['2379']}" for n in (11, 12, 13)]
    pki = tmp_path / "pki"
    proof = [f"--cacert={pki / 'ca.pem'}", f"--cert={pki / 'alice.pem'}", f"--key={pki / 'alice.key'}"]
    members = [(DEPLOY / "etcd" / f"three-nodes-{name}.yaml").read_text() for name in "abc"]
    with ExitStack() as others, ExitStack() as first:
        started(first, tmp_path, "a", moved(members[0], ports))
        for name, text in zip("bc", members[1:], strict=True):
            started(others, tmp_path, name, moved(text, ports))
        until("all healthy", lambda: etcdctl(urls, *proof, "endpoint", "health").count("is healthy") == 3)
        assert not etcdctl(urls[:1], "--insecure-skip-tls-verify", "--command-timeout=1s", "get", "x")
        first.close()
        until("a put without the first", lambda: "OK" in etcdctl(urls[1:], *proof, "put", "x", "y"))
        environment = {"SHOAL_ETCD": ",".join(urls), "SHOAL_ETCD_CA": str(pki / "ca.pem")}
        environment |= {"SHOAL_ETCD_CERT": str(pki / "alice.pem"), "SHOAL_ETCD_KEY": str(pki / "alice.key")}
        told = subprocess.run(
            [*SHOAL, "policy", "get"], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, timeout=60
        )
        assert (told.returncode, told.stderr) == (0, b"no policy in the mesh 'default'\n")
