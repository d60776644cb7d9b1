"""docs/command-line.md says what the code does: every command and option is on it, and nothing that does not exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from agent.cli.failure import Exit
from agent.cli.main import app, checked
from policies.catalogue import KINDS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "command-line.md").read_text()
SHARED = "Options of every command"
ROOT: Any = typer.main.get_command(app)


def commands(command: Any, name: str) -> dict[str, Any]:
    """Every command by its whole name, `shoal policy put`; the root among them."""
    found = {name: command}
    for word, inner in getattr(command, "commands", {}).items():
        found |= commands(inner, f"{name} {word}")
    return found


COMMANDS = commands(ROOT, "shoal")
SECTIONS = {title.strip("`"): text for title, text in re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)}
EXAMPLES = re.findall(r"^\$ (?:.*&& )?(shoal .*)$", PAGE, re.M)


def rows(section: str) -> dict[str, list[str]]:
    """The rows of a section's tables whose first cell is an option, by its first spelling."""
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| `-.*$", section, re.M)]
    return {cell[0].split(",")[0].strip("`"): cell for cell in cells}


def options(command: Any) -> dict[str, Any]:
    return {param.opts[0]: param for param in command.params if param.param_type_name == "option"}


def section_of(name: str) -> str:
    return SECTIONS[SHARED if name == "shoal" else name]


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    """Nothing is missing, and nothing is invented."""
    assert {title for title in SECTIONS if title.startswith("shoal")} == set(COMMANDS) - {"shoal"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_are_those_of_its_table(name: str) -> None:
    """Each spelling, and no other; what the text mentions belongs to the command or to all."""
    told, known = rows(section_of(name)), options(COMMANDS[name])
    assert set(told) == set(known)
    for option, cells in told.items():
        assert cells[0] == ", ".join(f"`{spelling}`" for spelling in known[option].opts)
    everywhere = {spelling for param in [*known.values(), *options(ROOT).values()] for spelling in param.opts}
    for mentioned in re.findall(r"`(--[\w-]+)`", section_of(name)):
        assert mentioned in everywhere, mentioned


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_are_those_of_the_page(name: str) -> None:
    """A default that is written down is the one that is used; what has none says so; what is needed says that."""
    told = rows(section_of(name))
    for option, param in options(COMMANDS[name]).items():
        cell = told[option][-2]
        if param.required:
            assert cell == "needed", option
        elif param.default in (None, "") or param.default is False:
            assert not cell.startswith("`") or cell == "`<host>-<port>`", option
        else:
            assert cell == f"`{param.default}`", option


def test_the_environment_variables_are_those_of_the_page() -> None:
    """Each beside its option."""
    told = rows(SECTIONS[SHARED])
    for option, param in options(ROOT).items():
        assert told[option][1].strip("`") == (param.envvar or ""), option


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.count(" ")])
def test_the_arguments_of_a_command_are_in_its_usage(name: str) -> None:
    """`shoal wait [REVISION]`: brackets where one may be left out."""
    arguments = [param for param in COMMANDS[name].params if param.param_type_name == "argument"]
    if not arguments or name == "shoal run":
        return
    words = [param.metavar or param.name.upper() for param in arguments]
    usage = " ".join(
        word if param.required else f"[{word}]" for word, param in zip(words, arguments, strict=True)
    ).replace("KIND PATTERN", "KIND SERVICE")
    assert f"`{name} {usage}`" in section_of(name)


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_understood(line: str) -> None:
    """The parser takes every command line of the page as it stands."""
    words = checked(shlex.split(line.partition(" > ")[0])[1:])
    command, context = ROOT, ROOT.make_context("shoal", words)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, words, parent=context)


def test_the_exit_codes_are_those_of_the_page() -> None:
    """And those of `shoal --help`."""
    told = re.findall(r"^\| (\d) \|", SECTIONS["Exit codes"], re.M)
    assert [int(code) for code in told] == [code.value for code in Exit]
    assert re.findall(r"\b(\d) ", app.info.epilog or "") == told


def test_the_kinds_are_those_of_the_page() -> None:
    """The sample of `shoal policy kinds` is its real output."""
    for kind in KINDS:
        assert re.search(rf"^{kind.name} +{re.escape(kind.summary)}$", SECTIONS["shoal policy kinds"], re.M), kind.name


def test_what_asks_nobody_prints_what_the_page_says(tmp_path: Path) -> None:
    """`policy check`, word for word, with the line's end left out where the page does."""
    (tmp_path / "pets.yaml").write_text("kind: route\nservice: pets.production\nactive: v1\n")
    (tmp_path / "bad.yaml").write_text("kind: route\nservice: pets.production\nactive: v1\nstandbi: v2\n")
    rego = {"bundles": ["groups"], "modules": {"lamps.rego": "package shoal\nallow if data.groups.staff"}}
    bundle = {"modules": {"groups.rego": "package groups\nstaff if nobody.knows(this)"}}
    for name, document in (("lamps", {"kind": "authz", "rego": rego}), ("groups", {"kind": "rego", **bundle})):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"service": name, **document}))
    sample = re.findall(r"^\$ (shoal policy check .*)\n(.*)$", SECTIONS["shoal policy check"], re.M)
    assert len(sample) == 3
    for line, answer in sample:
        program = [sys.executable, "-c", "from agent.cli.main import main; main()", *shlex.split(line)[1:]]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.stdout + done.stderr).startswith(answer.removesuffix("…"))
