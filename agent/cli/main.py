"""`shoal`: the command line. Each command has its module; here is what they share, and the list of them.

A start takes a tenth of a second because what is heavy (Trio, etcd's client, rich) is imported by the command that
needs it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Annotated

import typer

import agent
from agent import build
from agent.cli import completion
from agent.cli.commands import (
    authz,
    chain,
    diff,
    events,
    explain,
    logs,
    overview,
    policy,
    register,
    replay,
    run,
    serve,
    wait,
)
from agent.cli.commands.apply import apply
from agent.cli.commands.audit import app as audit
from agent.cli.commands.dashboard.dashboard import dashboard
from agent.cli.commands.diagnosis import bundle, check, ready, status
from agent.cli.commands.identity import apikey, ca, host, person, trust
from agent.cli.commands.identity.join import join
from agent.cli.commands.identity.login import login, logout
from agent.cli.commands.mesh import app as mesh
from agent.cli.commands.network.guard import guard
from agent.cli.commands.signals import scale, tap, top, watch
from agent.cli.failure import Exit, Failure
from agent.cli.options import DEFAULT_ETCD, given
from agent.cli.printing import Output, Printer, answered, lines, note, say, stop_printing

TAKE_A_VALUE = frozenset(
    {
        "--etcd",
        "--mesh",
        "--admin",
        "--output",
        "-o",
        "--etcd-user",
        "--etcd-password-file",
        "--etcd-proxy",
        "--etcd-ca",
        "--etcd-cert",
        "--etcd-key",
        "--etcd-timeout",
    }
)
"""The options of every command; they may stand after its name too."""

app = typer.Typer(
    name="shoal",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 etcd or the agent unreachable, 4 not known yet.",
)


def tell_version(asked: bool) -> None:
    """`shoal --version`."""
    if asked:
        say(f"shoal {agent.VERSION} ({build.describe()})")
        raise typer.Exit


@app.callback()
def shared(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version of Shoal and exit.", is_eager=True, callback=tell_version),
    ] = False,
    etcd: Annotated[str, typer.Option(envvar="SHOAL_ETCD", metavar="URL,…", help="Where etcd is.")] = DEFAULT_ETCD,
    mesh: Annotated[str, typer.Option(envvar="SHOAL_MESH", help="Which mesh.")] = "default",
    admin: Annotated[
        str,
        typer.Option(
            envvar="SHOAL_ADMIN",
            metavar="PLACE",
            help="The agent: its socket, its admin port's URL, which only shows, or https://HOST:PORT, by your login.",
        ),
    ] = "",
    output: Annotated[Output, typer.Option("--output", "-o", help="A table for people, JSON for scripts.")] = "table",
    user: Annotated[str, typer.Option("--etcd-user", envvar="SHOAL_ETCD_USER", help="Name in etcd.")] = "",
    password_file: Annotated[
        str,
        typer.Option(
            "--etcd-password-file",
            envvar="SHOAL_ETCD_PASSWORD_FILE",
            metavar="FILE",
            help="Holds the password; or SHOAL_ETCD_PASSWORD.",
        ),
    ] = "",
    ca: Annotated[
        str, typer.Option("--etcd-ca", envvar="SHOAL_ETCD_CA", metavar="FILE", help="CA of etcd (PEM).")
    ] = "",
    certificate: Annotated[
        str, typer.Option("--etcd-cert", envvar="SHOAL_ETCD_CERT", metavar="FILE", help="Client certificate (PEM).")
    ] = "",
    key: Annotated[
        str, typer.Option("--etcd-key", envvar="SHOAL_ETCD_KEY", metavar="FILE", help="Its key (PEM).")
    ] = "",
    proxy: Annotated[
        str,
        typer.Option(
            "--etcd-proxy", envvar="SHOAL_ETCD_PROXY", metavar="URL", help="HTTP proxy that etcd is reached through."
        ),
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--etcd-timeout", min=0.1, help="Seconds for each question to etcd.")
    ] = 5.0,
) -> None:
    """Shoal: a service mesh with no central server. One agent a host, state in etcd, everyone watches.

    Begin with `shoal agent --dev` in one terminal, and `shoal run --service hello -- CMD` in another. The options
    below belong to every command, and may stand before or after its name.
    """
    context.obj = given(
        etcd=etcd,
        mesh=mesh,
        admin=admin,
        output=output,
        user=user,
        password_file=password_file,
        ca=ca,
        certificate=certificate,
        key=key,
        proxy=proxy,
        timeout_s=timeout_s,
    )


RUNNING, LOOKING, CHANGING = "Run", "Look", "Change"
app.command(rich_help_panel=RUNNING)(serve.agent)
app.command(rich_help_panel=RUNNING, context_settings={"allow_interspersed_args": False})(run.run)
app.command(rich_help_panel=RUNNING)(guard)
app.command(rich_help_panel=RUNNING)(join)
app.command(rich_help_panel=RUNNING)(login)
app.command(rich_help_panel=RUNNING)(logout)
app.command(rich_help_panel=RUNNING)(register.register)
app.command(rich_help_panel=RUNNING)(register.deregister)
app.command(rich_help_panel=RUNNING)(register.token)
app.command(rich_help_panel=LOOKING)(dashboard)
app.command(rich_help_panel=LOOKING)(overview.services)
app.command(rich_help_panel=LOOKING)(overview.instances)
app.command(rich_help_panel=LOOKING)(status.status)
app.command(rich_help_panel=LOOKING)(check.check)
app.command(rich_help_panel=LOOKING)(explain.explain)
app.command(rich_help_panel=LOOKING)(logs.logs)
app.command(rich_help_panel=LOOKING)(tap.tap)
app.command(rich_help_panel=LOOKING)(chain.chain)
app.command(rich_help_panel=LOOKING)(diff.diff)
app.command(rich_help_panel=LOOKING)(top.top)
app.command(rich_help_panel=LOOKING)(scale.scale)
app.command(rich_help_panel=LOOKING)(bundle.bundle)
app.command(rich_help_panel=LOOKING)(wait.wait)
app.command(rich_help_panel=LOOKING)(watch.watch)
app.command(rich_help_panel=LOOKING)(ready.ready)
app.add_typer(authz.app, name="authz", rich_help_panel=LOOKING)
app.add_typer(audit.app, name="audit", rich_help_panel=LOOKING)
app.add_typer(events.app, name="events", rich_help_panel=LOOKING)
app.add_typer(policy.app, name="policy", rich_help_panel=CHANGING)
app.add_typer(events.hook_app, name="hook", rich_help_panel=CHANGING, help="Try webhooks out.")
app.add_typer(mesh.app, name="mesh", rich_help_panel=CHANGING)
app.add_typer(ca.app, name="ca", rich_help_panel=CHANGING)
app.add_typer(host.app, name="host", rich_help_panel=CHANGING)
app.add_typer(person.app, name="person", rich_help_panel=CHANGING)
app.add_typer(trust.app, name="trust", rich_help_panel=CHANGING)
app.add_typer(apikey.app, name="apikey", rich_help_panel=CHANGING)
app.command(rich_help_panel=CHANGING)(apply)
app.command(rich_help_panel=CHANGING)(replay.replay)


def hoist(arguments: Sequence[str]) -> list[str]:
    """Puts the shared options first, wherever they stood before a `--`.

    >>> hoist(["instances", "--output", "json"])
    ['--output', 'json', 'instances']
    """
    shared_ones: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif name in TAKE_A_VALUE:
            shared_ones += [word] if equals else [word, *islice(words, 1)]
        else:
            rest.append(word)
    return shared_ones + rest


def checked(arguments: Sequence[str]) -> list[str]:
    """The arguments as the parser shall have them. Raises Failure for a password among them, and for a `run` whose
    program is not set apart.

    Without the `--`, an option of the program could be taken for one of ours.
    """
    ours = list(takewhile(lambda word: word != "--", arguments))
    if any(word.partition("=")[0] == "--etcd-password" for word in ours):
        raise Failure(
            "--etcd-password is not taken, for every user of this host may read a command line; put the password into "
            "a file (--etcd-password-file FILE) or into SHOAL_ETCD_PASSWORD, and change it: it has been seen",
            Exit.USAGE,
        )
    ordered = hoist(arguments)
    asks_for_help = bool({"--help", "-h"} & set(ordered))
    if "run" in ordered and "--" not in ordered and not asks_for_help and _command(ordered) == "run":
        raise Failure("put -- before the program: shoal run --service pets.production -- python app.py", Exit.USAGE)
    return ordered


def _command(hoisted: Sequence[str]) -> str:
    words = iter(hoisted)
    for word in words:
        if word in TAKE_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether an answer is to be JSON, also when it is no."""
    words = hoist(arguments)
    pairs = zip(words, [*words[1:], ""], strict=True)
    return "--output=json" in words or any(word in ("-o", "--output") and value == "json" for word, value in pairs)


def main() -> None:
    """The entry point: whatever goes wrong in an expected way ends as one line and an exit code."""
    try:
        if completion.is_asked():
            completion.widen(typer.main.get_command(app))(prog_name="shoal")
        app(checked(sys.argv[1:]))
    except Failure as failure:
        if not answered and _wants_json(sys.argv[1:]):
            Printer("json").value({"error": failure.message, "exit_code": int(failure.code)})
        note(f"shoal: {failure.message}")
        if failure.more:
            lines(failure.more)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        stop_printing()
        sys.exit(Exit.OK)
    except Exception:  # a mistake of ours; its traceback may hold what others wrote
        lines(traceback.format_exc())
        sys.exit(Exit.NO)
