from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent import build
from agent.cli.failure import Exit, Failure
from agent.cli.main import checked, hoist
from agent.control.host.sockets import listening
from agent.settings.address import Address
from tests.support.proxy import refusing_port

SHOAL = str(Path(sys.executable).with_name("shoal"))
WHY = "a checkout that is not compiled as it stands; scripts/setup does that"
NOBODY = "http://127.0.0.1:1"


def shoal(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a person starts it."""
    command = [sys.executable, "-c", "from agent.cli.main import main; main()", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", **environment}
    )


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["instances", "--output", "json"], ["--output", "json", "instances"]),
        (["instances", "-o", "json", "pets"], ["-o", "json", "instances", "pets"]),
        (["wait", "--etcd=http://a:1", "7"], ["--etcd=http://a:1", "wait", "7"]),
        (
            ["run", "--service", "x", "--", "cmd", "--output", "o"],
            ["run", "--service", "x", "--", "cmd", "--output", "o"],
        ),
        (["wait", "--etcd"], ["--etcd", "wait"]),
    ],
)
def test_shared_options_may_stand_anywhere_before_the_program(typed: list[str], parsed: list[str]) -> None:
    """`shoal instances --output json` is what people type; what follows `--` is the program's own."""
    assert hoist(typed) == parsed


def test_a_program_has_to_be_set_apart() -> None:
    """Without `--` an option of the program could be taken for one of ours; so it is refused, and says so."""
    with pytest.raises(Failure) as caught:
        checked(["run", "--service", "x", "python", "app.py", "--output", "json"])
    assert caught.value.code is Exit.USAGE
    assert "put -- before the program" in caught.value.message


def test_run_is_only_a_word_to_other_commands() -> None:
    """An instance may be called `run`."""
    assert checked(["--etcd", "run", "deregister", "pets", "run"]) == ["--etcd", "run", "deregister", "pets", "run"]


def test_the_version_is_told() -> None:
    """The first thing that a bug report has to say; and whether it is compiled, and if not, why and what that costs."""
    told = shoal("--version")
    built = "compiled" if build.kind() == "compiled" else f"interpreted, at more than twice the CPU a request: {WHY}"
    assert (told.returncode, told.stdout) == (Exit.OK, f"shoal {agent.VERSION} ({built})\n")


def test_patterns_in_help_keep_their_stars() -> None:
    """Markdown would take them for emphasis."""
    assert "'*.production' or '*'" in shoal("policy", "rm", "--help", COLUMNS="120").stdout


@pytest.mark.parametrize("what", [["--dev"], []])
def test_a_second_agent_is_told_at_once_and_in_one_line(what: list[str], tmp_path: Path) -> None:
    """Also with --dev: no second etcd waits for the data of the first one."""
    address = Address("127.0.0.1", refusing_port())
    (claim,) = listening(address, (), 1)
    config = tmp_path / "agent.toml"
    config.write_text(f'state_dir = "{tmp_path}"\n[outbound]\nlisten = "{address}"\n')
    with claim:
        told = shoal("agent", "--config", str(config), *what)
    assert told.returncode == Exit.USAGE
    assert told.stderr == (
        f"shoal: the agent cannot start: cannot listen on {address}: Address already in use "
        f"(process {os.getpid()} of the user {pwd.getpwuid(os.geteuid()).pw_name!r})\n"
    )
    assert not (tmp_path / "dev-etcd").exists()


def test_a_state_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """Which file is in the way, and no traceback."""
    config = tmp_path / "agent.toml"
    listeners = "".join(f'[{name}]\nlisten = "127.0.0.1:0"\n' for name in ("outbound", "inbound", "admin"))
    state = tmp_path / "state"
    state.write_text("in the way")
    config.write_text(f'state_dir = "{state}"\n{listeners}')
    told = shoal("agent", "--dev", "--config", str(config))
    assert told.returncode == Exit.USAGE
    assert told.stderr.splitlines()[-1] == f"shoal: the agent cannot start: {state / 'dev-etcd'}: Not a directory"


def test_help_names_every_command() -> None:
    """A newcomer sees what there is, and the exit codes, without asking anybody."""
    told = shoal("--help")
    assert told.returncode == Exit.OK
    words = "agent run register deregister services instances status explain wait policy apply Exit"
    for word in words.split():
        assert word in told.stdout


@pytest.mark.parametrize(
    "command",
    ["agent", "run", "register", "deregister", "services", "instances", "status", "explain", "wait", "policy", "apply"],
)
def test_every_command_explains_itself(command: str) -> None:
    """`--help` works on each, asks nobody, and is more than a list of options."""
    told = shoal(command, "--help")
    assert told.returncode == Exit.OK
    assert "Usage" in told.stdout


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["explain", "GET", "http://pets/"], "start one with `shoal agent`, or name it with --admin"),
        (["register", "--service", "pets", "--port", "80"], "start one with `shoal agent`, or name it with --admin"),
        (["instances"], "name it with --etcd or SHOAL_ETCD"),
        (["wait"], "name it with --etcd or SHOAL_ETCD"),
    ],
)
def test_nobody_there_is_exit_code_3_and_one_line(words: list[str], fix: str) -> None:
    """Who cannot be reached, and how to say where he is; never a traceback."""
    told = shoal(*words, "--etcd-timeout", "1", SHOAL_ETCD=NOBODY, SHOAL_ADMIN=NOBODY)
    assert told.returncode == Exit.UNREACHABLE
    assert told.stdout == ""
    assert told.stderr.startswith("shoal: ")
    assert fix in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["register", "--service", "pets_shop", "--port", "80"], "not a DNS label"),
        (["register", "--service", "pets", "--port", "80", "-m", "free"], "NAME=VALUE such as tier=free"),
        (["register", "--service", "pets", "--port", "80", "--health", "health"], "no path such as /health"),
        (["explain", "-H", "x-tier", "GET", "http://pets/"], "no header such as 'x-tier: free'"),
        (["services", "--etcd", "ftp://x"], "no URLs such as http://127.0.0.1:2379"),
        (
            ["explain", "GET", "http://pets/", "--admin", "localhost:15000"],
            "no path of a socket such as",
        ),
        (["policy", "schema", "rout"], "there are: isolation, export, tls, egress, path"),
        (["policy", "get", "route", "pets_shop"], "not a DNS label"),
        (["apply", "/nowhere"], "is no directory"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_would_be_right(words: list[str], fix: str) -> None:
    """One line, with the fix in it."""
    told = shoal(*words)
    assert (told.returncode, told.stdout) == (Exit.USAGE, "")
    assert fix in told.stderr
    assert told.stderr.count("\n") == 1


def test_policy_check_needs_neither_etcd_nor_agent(tmp_path: Path) -> None:
    """It says file, path and reason, and its exit code is 1 when something is wrong."""
    (tmp_path / "good.yaml").write_text("kind: route\nservice: pets\nactive: v1\n")
    (tmp_path / "bad.yaml").write_text("kind: route\nservice: pets\nactiv: v1\n")
    assert shoal("policy", "check", str(tmp_path / "good.yaml")).returncode == Exit.OK
    told = shoal("policy", "check", str(tmp_path / "bad.yaml"))
    assert told.returncode == Exit.NO
    assert told.stderr.startswith(f"{tmp_path / 'bad.yaml'}:$: ")
    assert "'active'" in told.stderr


@pytest.mark.parametrize("words", [["--etcd-password", "hunter2", "status"], ["status", "--etcd-password=hunter2"]])
def test_a_password_on_the_command_line_is_refused(words: list[str]) -> None:
    """It says what to use instead, and does not repeat it; what belongs to a program is the program's."""
    told = shoal(*words)
    assert (told.returncode, told.stdout) == (Exit.USAGE, "")
    assert "--etcd-password-file FILE" in told.stderr and "SHOAL_ETCD_PASSWORD" in told.stderr
    assert "hunter2" not in told.stderr
    assert checked(["run", "--service", "x", "--", "app", "--etcd-password", "x"])[-1] == "x"


def test_a_password_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Without its name: whoever takes the option for the old one types a password there."""
    told = shoal("services", "--etcd-password-file", "hunter2", "--etcd-user", "x")
    assert told.returncode == Exit.USAGE
    assert told.stderr == "shoal: the file that --etcd-password-file names: No such file or directory\n"


def test_a_command_begins_without_what_it_may_not_need() -> None:
    """Documents, their kinds, Trio and etcd's client take a while: who asks for help, or completes a word, waits."""
    code = "import sys, agent.cli.main; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    late = ("policies.language.document", "policies.catalogue", "registry.etcd.store", "grpc", "cryptography", "trio")
    assert [module for module in late if module in told] == []
