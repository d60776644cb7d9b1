"""Who may import whom. The rooms and the doors between them; ARCHITECTURE.md says why."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("policies", "registry", "agent")

# What decides what is sent sends nothing itself.
PURE = ("registry", "trio", "socket", "time", "random", "grpc", "etcd3", "httpx", "starlette", "subprocess")
# What the code of a room may not import, with the exceptions. The longest matching room of a module counts.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "policies": ("registry", "agent", "trio", "socket", "time", "random", "grpc", "etcd3", "httpx", "starlette"),
    "registry": ("agent", "policies"),
    "agent.proxy": (
        "registry",
        "agent.control",
        "agent.cli",
        "agent.hooks",
        "agent.events",
        "grpc",
        "etcd3",
        "starlette",
        "hypercorn",
        "httpx",
    ),
    "agent.control": ("agent.proxy", "agent.cli"),
    "agent.topics": ("registry", "agent", "grpc", "etcd3", "starlette", "hypercorn", "httpx"),
    "agent.cli": ("agent.proxy",),
    "agent.frames": ("registry", "agent", "trio"),
    "agent.events": (*PURE, "agent"),
    "agent.hooks": (*PURE, "agent"),
}
ALLOWED = {
    "registry": ("policies.language.names",),
    "agent.events": ("registry.keys", "registry.records"),
    "agent.topics": ("registry.backoff", "agent.topics"),
    "agent.hooks": ("registry.keys", "registry.records", "agent.hooks", "agent.events"),
}
# Imported for its types only: policies are handed their generator, and never make or seed one.
TYPES_ONLY = {"policies": ("random",)}


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Every module that a tree imports, with relative ones resolved and `from a import b` told as a.b too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(module: str, tree: ast.AST) -> list[str]:
    room = max((room for room in FORBIDDEN if within(module, room)), key=len, default="")
    excused = ALLOWED.get(room, ()) + TYPES_ONLY.get(room, ())
    return [
        f"{module} imports {name}"
        for name in imports(module, tree)
        if any(within(name, bad) for bad in FORBIDDEN.get(room, ())) and not any(within(name, good) for good in excused)
    ]


def test_no_room_imports_what_it_must_not() -> None:
    """Every import statement in the tree, those inside functions too, keeps to the doors."""
    found = [breach for module, path in modules() for breach in breaches(module, ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("policies.kinds.route", "import registry.keys"),
        ("policies.kinds.route", "def f():\n    from agent import frames"),
        ("registry.store", "from policies import document"),
        ("agent.proxy.worker", "import grpc"),
        ("agent.proxy.worker", "from agent.control.table import Table"),
        ("agent.control.main", "from agent.proxy import worker"),
        ("agent.hooks.bodies", "import httpx"),
        ("agent.proxy.worker", "from agent.hooks import bodies"),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    """The check itself notices what it is there for."""
    assert breaches(module, ast.parse(source))


def test_a_policy_does_not_make_chance() -> None:
    """`random` is imported by policies for the type of what they are handed: nothing of it is called but on that."""
    for module, path in modules():
        if within(module, "policies"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner = node.func.value
                    assert not (isinstance(owner, ast.Name) and owner.id == "random"), f"{module}:{node.lineno}"


WRITES = ("print", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "typer.echo", "typer.secho")
"""What puts something on a terminal by itself; so do rich, click and os.write."""
PRINTS = "agent.cli.printing"


def written(tree: ast.AST) -> list[str]:
    """What in a module writes to a terminal."""
    names = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)]
    found = [name for name in names if name in (*WRITES, "os.write")]
    return found + [name for name in imports("", tree) if within(name, "rich") or within(name, "click")]


def test_one_place_prints() -> None:
    """What a command says goes through agent.cli.printing, which shows what others wrote as text.

    `shoal run` leaves its own standard output to the program that it runs; typer prints help and wrong usage, which is
    what the person typed.
    """
    for module, path in modules():
        if within(module, "agent.cli") and module != PRINTS:
            assert written(ast.parse(path.read_text())) == [], module
    assert written(ast.parse((ROOT / "agent/cli/printing.py").read_text()))
    for source in (
        "print(1)",
        "import sys\nsys.stdout.write('')",
        "def f():\n    from rich import print",
        "import click",
    ):
        assert written(ast.parse(source)), source


def test_a_worker_stays_small() -> None:
    """Importing the whole worker loads none of the modules that only control needs: memory is per worker."""
    heavy = ("registry", "grpc", "etcd3", "starlette", "hypercorn", "httpx", "rich", "typer")
    code = f"import sys, agent.proxy.worker; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
