"""Whoever reaches an instance around its agent goes around every policy: the guard that keeps strangers from its port,
and what is said where there is none. Real hosts (network namespaces), real rules of nftables, real agents."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.cli.commands.network.guard_rules import TABLE, rules
from tests.support.hosts import hosts, needs_namespaces, relay
from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, running_mesh, until

pytestmark = [needs_namespaces, pytest.mark.skipif(not shutil.which("nft"), reason="no nftables")]
AGENTS_USER, NEIGHBOUR = 1001, 1002
"""Numbers of users; they need no names."""
RANGE = (33000, 33999)
PORT, OUTSIDE = 33001, 8080
REDIRECTED = "table ip nat { chain in { type nat hook prerouting priority dstnat; tcp dport 80 redirect to :33001; }; }"
TRY = """
import encodings.idna, os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[4])) as sock:
        print("in", sock.recv(100).decode())
except OSError as error:
    print("silence" if isinstance(error, TimeoutError) else type(error).__name__)
"""
LISTEN = """
import socket, sys
from threading import Thread
def serve(port):
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            client, _ = server.accept()
            client.sendall(b"hello")
            client.close()
for port in sys.argv[1:]:
    Thread(target=serve, args=(int(port),)).start()
"""


def tried(address: str, port: int, uid: int = 0, on: list[str] | None = None, patience_s: float = 10) -> str:
    """What comes of connecting as a user, from a host."""
    words = [*(on or []), sys.executable, "-c", TRY, address, str(port), str(uid), str(patience_s)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def load(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, timeout=20)


@contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", *words])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def listening(port: int) -> None:
    until("it listens", lambda: tried("127.0.0.1", port) == "in hello")


def test_nobody_but_the_agent_reaches_an_instance(tmp_path: Path) -> None:
    """Not from another host, by whatever address, nor a redirection, nor pieces; not another user of this one. What is
    not in the range is as it was; and without the rules all of it is open."""
    with hosts() as made, program(LISTEN, str(PORT), str(OUTSIDE)):
        ours, stranger = made.add(1)
        there = made.on(stranger)
        listening(PORT), listening(OUTSIDE)
        load(
            "table ip nat { chain in { type nat hook prerouting priority dstnat; tcp dport 80 redirect to :33001; }; }"
        )
        assert tried(ours, PORT, on=there) == "in hello" == tried(ours, 80, on=there)
        assert tried("127.0.0.1", PORT, NEIGHBOUR) == "in hello" == tried(ours, PORT, NEIGHBOUR)
        assert answered(in_pieces(ours, stranger, PORT), there)
        load(rules([RANGE], AGENTS_USER))
        for port in (PORT, 80):
            assert tried(ours, port, on=there, patience_s=1) == "silence"
        assert not answered(in_pieces(ours, stranger, PORT), there)
        for address in ("127.0.0.1", "127.0.0.9", ours):
            assert tried(address, PORT, NEIGHBOUR) == "ConnectionRefusedError"
            assert tried(address, PORT, AGENTS_USER) == tried(address, PORT, 0) == "in hello"
        assert tried("::1", PORT, NEIGHBOUR) == "ConnectionRefusedError"
        assert tried("::1", PORT, AGENTS_USER) == "in hello"
        assert tried(ours, OUTSIDE, on=there) == "in hello" == tried("127.0.0.1", OUTSIDE, NEIGHBOUR)
        with program(LISTEN, "33002"):  # it was not there when the rules were made
            listening(33002)
            assert tried(ours, 33002, on=there, patience_s=1) == "silence"
        load(rules([RANGE], None))
        assert tried("127.0.0.1", PORT, NEIGHBOUR) == "in hello"
        assert tried(ours, PORT, on=there, patience_s=1) == "silence"


def test_a_client_whose_own_port_is_in_the_range_is_answered() -> None:
    """From another host and from this one: only attempts to connect are judged."""
    with hosts() as made, program(LISTEN, str(OUTSIDE)):
        ours, stranger = made.add(1)
        listening(OUTSIDE)
        load(rules([RANGE], AGENTS_USER))
        server = subprocess.Popen([*made.on(stranger), sys.executable, "-c", LISTEN, str(OUTSIDE)])
        try:
            until("it listens", lambda: tried(stranger, OUTSIDE) == "in hello")
            for number, address in enumerate((stranger, ours)):
                with socket.create_connection((address, OUTSIDE), 10, source_address=("", 33500 + number)) as sock:
                    assert sock.recv(100) == b"hello"
        finally:
            server.kill()
            server.wait()


def in_pieces(target: str, source: str, port: int) -> list[bytes]:
    """A SYN in two fragments, of which the first ends before the flags do."""
    head = struct.pack("!HHIIBBHHH", 40123, port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, len(head))
    head = head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]
    made = []
    for offset, piece, more in ((0, head[:8], 0x2000), (1, head[8:], 0)):
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(piece), 4711, more | offset, 64, 6, 0)
        made.append(ip + socket.inet_aton(source) + socket.inet_aton(target) + piece)
    return made


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answered(packets: list[bytes], on: list[str]) -> bool:
    """Whether a stranger's packets are answered with a SYN of the other side."""
    send = """
import json, select, socket, sys
hears = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
sends = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
packets = [bytes.fromhex(each) for each in json.loads(sys.argv[1])]
for packet in packets:
    sends.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
found = False
while select.select([hears], [], [], 1)[0]:
    told = hears.recv(100)
    if told[20:24] == packets[0][22:24] + packets[0][20:22] and told[33] & 0x12 == 0x12:
        found = True
        break
print(found)
"""
    words = [*on, sys.executable, "-c", send, json.dumps([packet.hex() for packet in packets])]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.strip() == "True"


# The command, and agents.


GUARD = f'[guard]\nports = ["{RANGE[0]}-{RANGE[1]}"]\n'
ANSWER = """
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.send_header("content-length", "0"), self.end_headers()
"""


ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=10)
connection.request("GET", "/", headers={"Host": "pets"})
print(connection.getresponse().status)
"""


class Hosts:
    """alpha, where the test is, and beta, on a host of its own, which is a stranger too."""

    def __init__(self, mesh: Mesh, etcd: str, ours: str, theirs: str, there: list[str], extra: str) -> None:
        self.mesh = mesh
        self.ours = ours
        self.there = there
        self.alpha = mesh.agent("alpha", ours, local=extra)
        self.beta = mesh.agent("beta", theirs, start=False)
        self.beta.path.write_text(self.beta.path.read_text().replace(mesh.etcd.url, etcd))
        self.beta.on = there
        self.beta.start()
        self.log = mesh.folder / "run.log"

    def run(self, code: str, *more: str) -> None:
        """`shoal run` of a program beside alpha."""
        words = [*SHOAL, "--admin", str(self.alpha.socket), "--etcd", self.mesh.etcd.url, "run", "--service", "pets"]
        with open(self.log, "wb") as log:
            process = subprocess.Popen(
                [*words, *more, "--", sys.executable, "-c", code], cwd=ROOT, stderr=log, start_new_session=True
            )
        self.mesh.services.append(process)

    def instance(self, agent: AgentProcess) -> dict[str, Any]:
        """The one that there is, once an agent has it for healthy."""

        def look() -> Any:
            (found,) = agent.state()["services"]["pets"]["endpoints"]
            return found if found["healthy"] else None

        found: dict[str, Any] = until("pets healthy", look)
        return found

    def asks(self, agent: AgentProcess) -> str:
        """The status of a request by a program on beta's host, through an agent."""
        words = [*self.there, sys.executable, "-c", ASK, agent.address, str(agent.outbound)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def findings(self, *words: str) -> list[tuple[str, str, str]]:
        told = self.mesh.shoal("--admin", str(self.alpha.socket), "-o", "json", "check", *words, check=False)
        return [(each["id"], each["severity"], each["where"]) for each in json.loads(told.stdout)]

    def around(self, port: int, patience_s: float = 10) -> str:
        """What comes of going around alpha, from beta's host."""
        return tried(self.ours, port, on=self.there, patience_s=patience_s)


@contextmanager
def two_hosts(folder: Path, extra: str = "") -> Iterator[Hosts]:
    with hosts() as made, running_mesh(folder) as mesh:
        ours, theirs = made.add(1)
        with relay(ours, ("127.0.0.1", int(mesh.etcd.url.rpartition(":")[2]))) as port:
            yield Hosts(mesh, f"http://{ours}:{port}", ours, theirs, made.on(theirs), extra)


def server(host: str) -> str:
    """A program that listens at a place: `os.environ['HOST']`, or another expression."""
    return f"import os\nfrom http.server import *\n{ANSWER}\n" + (
        f"HTTPServer(({host}, int(os.environ['PORT'])), Handler).serve_forever()"
    )


def test_a_program_that_listens_where_it_is_told_is_reached_through_the_mesh_only(tmp_path: Path) -> None:
    """By agents of other hosts, and not by what goes around them; and nothing is to be said of it."""
    with two_hosts(tmp_path) as there:
        there.run(server("os.environ['HOST']"))
        found = there.instance(there.beta)
        assert found["address"] == "127.0.0.1"
        assert there.beta.ask("pets").status == 200
        assert there.around(found["port"]) == "ConnectionRefusedError"
        assert not [each for each in there.findings() if each[0] == "open-port" and each[2].startswith("pets")]
        assert "around" not in there.log.read_text()
        # By where they are: both ask by way of beta's agent, which tells alpha's.
        there.mesh.put("policies/authz/pets", {"rules": [{"allow": "anybody", "from": [there.beta.address]}]})
        lie = {"x_shoal_client": there.beta.address, "x_forwarded_for": there.beta.address}
        assert (there.asks(there.beta), there.beta.ask("pets", **lie).status) == ("200", 403)
        there.mesh.put("policies/authz/pets", {"rules": [{"allow": "anybody", "from": [there.ours]}]})
        assert (there.asks(there.beta), there.beta.ask("pets").status) == ("403", 200)


def test_a_program_that_listens_everywhere_is_told_of(tmp_path: Path) -> None:
    """By `shoal run`, what to do; by `shoal check`, as a warning from when on there is a policy to go around."""
    with two_hosts(tmp_path) as there:
        there.run(server("''"))
        found = there.instance(there.beta)
        assert there.beta.ask("pets").status == 200
        until("a warning", lambda: "$HOST, which is 127.0.0.1" in there.log.read_text())
        where = f"pets/{found['id'].partition('@')[0]}"
        until("seen", lambda: ("open-port", "info", where) in there.findings())
        there.mesh.put("policies/authz/*", {"rules": []})
        assert ("open-port", "warning", where) in there.findings()
        assert there.alpha.state()["instances_exposed"] == {where: f"0.0.0.0:{found['port']}"}
        assert there.beta.ask("pets").status == 403
        with socket.create_connection((there.ours, found["port"]), 10) as sock:  # and that is why
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b" 200 " in sock.recv(100)


def test_a_program_that_listens_elsewhere_is_registered_there(tmp_path: Path) -> None:
    """At the host's own address only, as some do that are asked for no other; it serves, and is told of."""
    with two_hosts(tmp_path) as there:
        there.run(server(repr(there.ours)))
        assert there.instance(there.beta)["address"] == there.ours
        assert there.beta.ask("pets").status == 200
        assert "registered there" in there.log.read_text()


def test_a_program_in_another_network_is_told_to_listen_for_its_agent(tmp_path: Path) -> None:
    """As in a container, which has the agent's socket: not at its own loopback, where nobody would reach it."""
    with two_hosts(tmp_path) as there:
        code = server("os.environ['HOST']")
        words = [*there.there, *SHOAL, "--admin", str(there.alpha.socket), "--etcd", there.mesh.etcd.url, "run"]
        words += [
            "--service",
            "pets",
            "--",
            sys.executable,
            "-c",
            f"import os; print(os.environ['HOST'], flush=True)\n{code}",
        ]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
        there.mesh.services.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"0.0.0.0\n"
        process.stdout.close()
        (local,) = there.alpha.state()["local"]
        assert local["address"] == there.ours


def test_instances_are_guarded_as_they_come(tmp_path: Path) -> None:
    """`shoal run` takes ports that the settings name; the rules keep strangers out, and `shoal check` says where there
    are none, and whom they are not for."""
    with two_hosts(tmp_path, GUARD) as there:
        there.run(server("''"))
        found = there.instance(there.beta)
        assert RANGE[0] <= found["port"] <= RANGE[1]
        assert connects(there.there, there.ours, found["port"]) == "in"
        assert ("guard", "warning", "alpha") in there.findings()
        made = there.mesh.shoal("guard", "--config", str(there.alpha.path)).stdout
        load(made)
        assert ("guard", "warning", "alpha") not in there.findings()
        assert not [each for each in there.findings() if each[0] == "open-port" and each[2].startswith("pets")]
        assert "around" not in there.log.read_text()
        assert [there.beta.ask("pets").status for _ in range(3)] == [200] * 3
        assert connects(there.there, there.ours, found["port"]) == "silence"
        there.mesh.instance(there.alpha, service="cats")
        assert ("guard", "info", "alpha") in there.findings()
        load(there.mesh.shoal("guard", "--remove").stdout)
        assert connects(there.there, there.ours, found["port"]) == "in"
        assert TABLE not in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)
    print("in")
except TimeoutError:
    print("silence")
"""


def connects(on: list[str], address: str, port: int) -> str:
    """Whether a host gets a connection, whatever is said on it."""
    words = [*on, sys.executable, "-c", CONNECT, address, str(port)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.parametrize(
    ("settings", "words", "said"),
    [
        ("", (), "names no ports to guard"),
        ('[guard]\nports = ["9-1"]', (), "guard.ports"),
        ('[guard]\nports = ["15000-16000"]', (), "outbound.listen is at 127.0.0.1:15001"),
        (GUARD, ("--user", "nobody-of-this-name"), "is no user of this host"),
        (f'{GUARD}[local]\nsocket = "/nowhere/agent.sock"', (), "--user shoal"),
    ],
)
def test_what_is_wrong_with_a_guard_is_said(tmp_path: Path, settings: str, words: tuple[str, ...], said: str) -> None:
    """And there are no rules, which would be rules for something else."""
    (tmp_path / "agent.toml").write_text(settings)
    command = [*SHOAL, "guard", "--config", str(tmp_path / "agent.toml"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr and not done.stdout
