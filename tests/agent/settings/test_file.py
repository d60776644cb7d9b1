from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.settings.address import Address, parse_listen
from agent.settings.document import Settings
from agent.settings.file import SettingsError, load, parse
from policies.kinds.health.document import HttpCheck

FULL = """\
mesh = "shop"
host = "web-1"
address = "10.0.0.5"
zone = "north"
workers = 3
access_log = "-"
lease_ttl = "6s"

[etcd]
endpoints = [
  "https://10.0.0.7:2379",
  "https://10.0.0.8:2379",
]
ca = "/etc/shoal/ca.pem"
cert = "/etc/shoal/me.pem"
key = "/etc/shoal/me.key"
user = "agent"
password_file = "/etc/shoal/password"
timeout = 2.5

[outbound]
listen = "127.0.0.1:7001"

[limits]
max_connections = 500
head_timeout = "3s"

[[instances]]
service = "pets/production"
port = 8080
version = "v2"
metadata = { tier = "free" }
health = { http = { path = "/health" }, interval = "1s" }

[[instances]]
service = "shop"
port = 9090
"""


def message(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(text, "agent.toml")
    return str(caught.value)


def test_everything_has_a_default() -> None:
    """An empty file, or none, is an agent of the mesh `default` with etcd on this host."""
    settings = parse("", "agent.toml")
    assert settings == load(None, {})
    assert (settings.mesh, settings.outbound.listen, settings.admin.listen) == (
        "default",
        "127.0.0.1:15001",
        "127.0.0.1:15000",
    )
    assert settings.etcd.endpoints == ("http://127.0.0.1:2379",)
    assert 1 <= settings.worker_count <= 4


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """Every table of the file arrives, typed."""
    path = tmp_path / "agent.toml"
    path.write_text(FULL)
    settings = load(path, {})
    assert settings.etcd.endpoints[1] == "https://10.0.0.8:2379"
    assert settings.worker_count == 3
    assert settings.limits.max_connections == 500
    first, second = settings.instances
    assert first.checked is not None and first.checked.http == HttpCheck(path="/health")
    assert (second.service, second.port, second.checked) == ("shop", 9090, None)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('zone = "north"', 'zoen = "north"', "agent.toml:4: $: no field 'zoen' here (did you mean 'zone'?)"),
        (
            "[etcd]\nendpoints",
            "[etcd]\nendpoint",
            "agent.toml:10: etcd: no field 'endpoint' here (did you mean 'endpoints'?)",
        ),
        ("[limits]", "[limit]", "agent.toml:24: $: no field 'limit' here (did you mean 'limits'?)"),
        ("workers = 3", 'workers = "3"', "agent.toml:5: workers: expected a whole number"),
        ("workers = 3", "workers = 1000", "agent.toml:5: workers: "),
        ("https://10.0.0.8:2379", "10.0.0.8:2379", "agent.toml:10: etcd.endpoints[1]: '10.0.0.8:2379' is no URL"),
        ("127.0.0.1:7001", "localhost", "agent.toml:22: outbound.listen: 'localhost' is nowhere to listen; write"),
        ('head_timeout = "3s"', 'head_timeout = "3 sec"', "agent.toml:26: limits.head_timeout: '3 sec' is no duration"),
        ('lease_ttl = "6s"', "lease_ttl = 1", "agent.toml:7: lease_ttl: 1 s; from 2 s to 3600 s"),
        ("port = 9090", "port = 90900", "agent.toml:37: instances[1].port: "),
        ("port = 9090\n", "", "agent.toml:35: instances[1]: missing field 'port'"),
        (
            'service = "shop"',
            'service = "Sh op"',
            "agent.toml:36: instances[1].service: 'sh op' in 'Sh op' is not a DNS label",
        ),
        (
            'path = "/health"',
            'pth = "/health"',
            "agent.toml:33: instances[0].health.http: no field 'pth' here (did you mean 'path'?)",
        ),
        ('interval = "1s"', 'interval = "1h5"', "agent.toml:33: instances[0].health.interval: '1h5' is no duration"),
        ('address = "10.0.0.5"', 'address = "web-1.local"', "agent.toml:3: address: 'web-1.local' is no IPv4 or IPv6"),
        ('host = "web-1"', 'host = "web 1"', "agent.toml:2: host: 'web 1' is no host name"),
        ('mesh = "shop"', 'mesh = "a/b"', "agent.toml:1: mesh: 'a/b' is no mesh name"),
        ('key = "/etc/shoal/me.key"\n', "", "agent.toml:15: etcd.cert: a client certificate is a pair: key is missing"),
        (
            'user = "agent"\n',
            "",
            "agent.toml:17: etcd.password_file: user and password_file go together: user is missing",
        ),
        (
            'service = "shop"\nport = 9090',
            'service = "pets.production"\nport = 8080',
            "agent.toml:35: instances[1]: the same service and id",
        ),
        (
            "zone = ",
            "zone ",
            "agent.toml: not TOML: expected '=' after a key in a key/value pair (at line 4, column 6)",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(before: str, after: str, told: str) -> None:
    """Unknown and wrong settings are refused, with the file, the line, the setting and what would be right."""
    assert before in FULL
    assert message(FULL.replace(before, after)).startswith(told)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("tcp://127.0.0.1:8081", "a Unix socket, such as unix:///run/spire"),
        ("/run/spire.sock", "a Unix socket, such as unix:///run/spire"),
        ("unix://run/spire.sock", "a Unix socket, such as unix:///run/spire"),
        ("unix:///" + "a" * 200, "longer than 107 bytes"),
    ],
)
def test_a_workload_api_is_a_unix_socket(url: str, told: str) -> None:
    """Over anything else it could not know who asks."""
    assert told in message(f'[identity]\nspiffe_endpoint_socket = "{url}"')
    good = parse('[identity]\nspiffe_endpoint_socket = "unix:///run/spire.sock"', "agent.toml")
    assert good.identity.socket_path == "/run/spire.sock"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing file and one that is no text are errors in one line, not stack traces."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml: No such file or directory"):
        load(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 0"):
        load(binary)


def test_the_environment_fills_in_what_the_file_leaves_out() -> None:
    """SHOAL_ETCD and SHOAL_MESH serve the command line and the agent alike; what the file says comes first."""
    environment = {"SHOAL_ETCD": "http://a:1,http://b:2", "SHOAL_MESH": "shop"}
    assert load(None, environment).etcd.endpoints == ("http://a:1", "http://b:2")
    assert load(None, environment).mesh == "shop"
    assert parse('[etcd]\nendpoints = ["http://c:3"]', "x", environment).etcd.endpoints == ("http://c:3",)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:15001", Address("::1", 15001)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_addresses_to_listen_on(text: str, address: Address) -> None:
    """IPv4, and IPv6 in brackets, and back again."""
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", ":", "15001", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "host:1", "::1:²"])
def test_what_is_no_address(text: str) -> None:
    """Names, missing ports and ports that are none are refused."""
    with pytest.raises(ValueError, match="is nowhere to listen"):
        parse_listen(text)


def test_the_state_directory_follows_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file says, else what systemd says, else a place of the user's own; never two agents in one."""
    assert Settings(state_dir="/x").state_path == Path("/x")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/shoal:/other")
    assert Settings().state_path == Path("/var/lib/shoal")
    monkeypatch.delenv("STATE_DIRECTORY")
    assert Settings(host="a").state_path != Settings(host="b").state_path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[programs]\nuser = "no-such-user"', "agent.toml:2: programs.user: 'no-such-user' is no user of this host"),
        ("[checks]\nports = [0]", "agent.toml:2: checks.ports: 0 is no port and no range of ports, such as 8081"),
        ('[checks]\ncommands = "yes"', "agent.toml:2: checks.commands: expected true or false, got text"),
        ('[hooks.secrets]\ngithub = ["https://x"]', "github: 'https://x' is no host, such as api.github.com"),
        ('[hooks.secrets]\n"../shadow" = ["x"]', "'../shadow' is neither a file's name without slashes"),
    ],
)
def test_what_policies_may_do_is_said_right(text: str, said: str) -> None:
    """A misspelt limit is a limit that is not in force."""
    with pytest.raises(SettingsError) as caught:
        parse(text, "agent.toml")
    assert said in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can become anybody")
def test_an_agent_that_could_not_become_the_user() -> None:
    """Is told so at once, and not at the first program."""
    with pytest.raises(SettingsError, match="cannot run programs as root"):
        parse('[programs]\nuser = "root"', "agent.toml")


CALLERS = (
    '[outbound]\nsocket = "/run/a"\n[local]\nsocket = "/run/b"\n[[callers]]\nservice = "pets"\nlisten = "127.0.0.1:1"\n'
)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("127.0.0.1:1", "10.0.0.5:1", "callers[0].listen: a port of loopback, such as 127.0.0.1:15101, or a path"),
        ("127.0.0.1:1", "0.0.0.0:1", "callers[0].listen: a port of loopback"),
        ("127.0.0.1:1", "127.0.0.1:0", "callers[0].listen: a port of loopback"),
        ("127.0.0.1:1", "payments.sock", "callers[0].listen: 'payments.sock' is nowhere to listen"),
        ("127.0.0.1:1", "127.0.0.1:15001", "callers[0].listen: 127.0.0.1:15001 is where outbound.listen is already"),
        ("127.0.0.1:1", "127.0.0.1:15006", "callers[0].listen: 127.0.0.1:15006 is where inbound.listen is already"),
        ("127.0.0.1:1", "/run/a", "callers[0].listen: /run/a is outbound.socket already; give each its own"),
        ("127.0.0.1:1", "/run/b", "callers[0].listen: /run/b is local.socket already; give each its own"),
        ("127.0.0.1:1", "/" + "x" * 108, "callers[0].listen: longer than 107 bytes"),
        ('"pets"', '"*.pets"', "callers[0].service: "),
        ("/run/a", "run/a", "outbound.socket: a whole path, such as /run/shoal/requests.sock"),
        ("/run/a", "/run/b", "outbound.socket: /run/b is local.socket already; give each its own"),
        ("127.0.0.1:1", '127.0.0.1:1"\nusers = "x', "callers[0]: no field 'users' here"),
    ],
)
def test_where_callers_call_is_told_apart(before: str, after: str, told: str) -> None:
    """A place where the kernel can say who calls, and each its own."""
    assert parse(CALLERS, "agent.toml").callers[0].service == "pets"
    with pytest.raises(SettingsError) as caught:
        parse(CALLERS.replace(before, after), "agent.toml")
    assert told in str(caught.value)
