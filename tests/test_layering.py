"""Who may import whom. The rooms and the doors between them; ARCHITECTURE.md says why."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("policies", "registry", "agent")

# What decides what is sent sends nothing itself.
PURE = ("registry", "trio", "socket", "time", "random", "grpc", "etcd3", "httpx", "starlette", "subprocess")
# What only control needs: memory is per worker.
NOT_IN_A_WORKER = (
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
)


def inner(folders: str) -> tuple[str, ...]:
    """Rooms inside the proxy. Its arrows run one way: engine, messages, stream, http1, what decides (phases, table),
    runtime, request, worker. Protocols are named where connections are made: by the listener, and for the pool."""
    return tuple(f"agent.proxy.{folder}" for folder in folders.split())


def control(folders: str) -> tuple[str, ...]:
    """Rooms inside of control. Its arrows run one way too: host, workers, mesh, three side by side (instances, traffic,
    events), updates, parts, admin, main."""
    return tuple(f"agent.control.{folder}" for folder in folders.split())


# What no part of control has to do with but one: HTTP is served in admin.
NOT_IN_CONTROL = ("agent.proxy", "agent.cli", "starlette", "hypercorn")

# What the code of a room may not import, with the exceptions. The longest matching room of a module counts.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "policies": ("registry", "agent", "trio", "socket", "time", "random", "grpc", "etcd3", "httpx", "starlette"),
    "registry": ("agent", "policies", "registry.etcd", "grpc", "etcd3"),
    "registry.etcd": ("agent", "policies"),
    "agent.proxy": NOT_IN_A_WORKER,
    "agent.proxy.engine": (
        *NOT_IN_A_WORKER,
        "policies",
        *inner("messages peer stream http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.messages": (
        *NOT_IN_A_WORKER,
        *inner("peer stream http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.peer": (
        *NOT_IN_A_WORKER,
        *inner("stream http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.proof.security": (
        *NOT_IN_A_WORKER,
        *inner("peer stream http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.proof.origins": (
        *NOT_IN_A_WORKER,
        *inner("peer stream http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.proof.arrival": (
        *NOT_IN_A_WORKER,
        *inner("stream http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.proof.custody": (*NOT_IN_A_WORKER, *inner("listener phases table control request runtime worker")),
    "agent.proxy.proof.securing": (*NOT_IN_A_WORKER, *inner("listener phases control request worker")),
    "agent.proxy.stream": (
        *NOT_IN_A_WORKER,
        *inner("http1 listener phases table control report request runtime worker"),
    ),
    "agent.proxy.http1": (*NOT_IN_A_WORKER, *inner("listener phases table control report request runtime worker")),
    "agent.proxy.judges": (*NOT_IN_A_WORKER, *inner("listener phases table control report request runtime worker")),
    "agent.proxy.phases": (*NOT_IN_A_WORKER, *inner("http1 listener control request runtime worker")),
    "agent.proxy.table": (*NOT_IN_A_WORKER, *inner("http1 listener control request runtime worker")),
    "agent.proxy.control": (*NOT_IN_A_WORKER, *inner("http1 listener phases table request runtime worker")),
    "agent.proxy.report": (*NOT_IN_A_WORKER, *inner("http1 listener phases control request worker")),
    "agent.proxy.runtime": (*NOT_IN_A_WORKER, *inner("listener request worker")),
    "agent.proxy.request": (*NOT_IN_A_WORKER, *inner("http1 listener doors worker")),
    "agent.proxy.doors": (*NOT_IN_A_WORKER, *inner("http1 listener worker")),
    "agent.proxy.worker": (*NOT_IN_A_WORKER, *inner("http1 process")),
    "agent.proxy.process": (*NOT_IN_A_WORKER, *inner("http1")),
    "agent.settings": ("agent.control", "agent.cli", "agent.proxy", "agent.frames", "trio"),
    "agent.control": ("agent.proxy", "agent.cli"),
    "agent.control.host": (
        *NOT_IN_CONTROL,
        *control("workers mesh identity instances traffic events updates parts admin main"),
    ),
    # Knows what may be called, and nothing of who wants to.
    "agent.control.outgoing": (
        *NOT_IN_CONTROL,
        *control("host workers mesh identity instances traffic events updates parts admin main"),
    ),
    # Knows documents' sources, and nothing of a mesh.
    "agent.control.issuers": (
        *NOT_IN_CONTROL,
        *control("workers mesh identity instances traffic events updates parts admin main"),
    ),
    "agent.control.identity": (
        *NOT_IN_CONTROL,
        *control("workers mesh instances traffic events updates parts admin main"),
    ),
    "agent.control.records": (
        *NOT_IN_CONTROL,
        *control("workers mesh identity instances traffic asking events updates parts admin main"),
    ),
    "agent.control.workers": (
        *NOT_IN_CONTROL,
        *control("mesh identity instances traffic asking records events updates parts admin main"),
    ),
    "agent.control.mesh": (*NOT_IN_CONTROL, *control("identity instances traffic events updates parts admin main")),
    "agent.control.mesh.table": (
        *NOT_IN_CONTROL,
        *("trio", "time", "random"),
        *control("workers identity instances traffic events updates parts admin main"),
    ),
    "agent.control.instances": (*NOT_IN_CONTROL, *control("workers identity traffic events updates parts admin main")),
    "agent.control.audit": (
        *NOT_IN_CONTROL,
        *control("workers instances traffic events updates parts admin main"),
    ),
    "agent.control.traffic": (*NOT_IN_CONTROL, *control("instances events updates parts admin main")),
    "agent.control.asking": (*NOT_IN_CONTROL, *control("workers traffic instances events updates parts admin main")),
    "agent.control.output": (
        *NOT_IN_CONTROL,
        *control("workers mesh identity instances traffic events updates parts admin main"),
    ),
    "agent.control.output.kept": (*PURE, *NOT_IN_CONTROL, *control("asking host workers mesh instances traffic admin")),
    # Started alone, without any of us.
    "agent.process.copying": ("registry", "policies", "agent", "trio", "msgspec"),
    "agent.control.figures": (*NOT_IN_CONTROL, *control("traffic events updates parts admin main")),
    "agent.control.events": (*NOT_IN_CONTROL, *control("workers identity instances traffic updates parts admin main")),
    "agent.control.scaling": (*NOT_IN_CONTROL, *control("workers identity traffic events updates parts admin main")),
    "agent.control.updates": (*NOT_IN_CONTROL, *control("traffic parts admin main")),
    "agent.control.parts": (*NOT_IN_CONTROL, *control("admin main")),
    "agent.control.admin": ("agent.proxy", "agent.cli", *control("main")),
    "agent.topics": ("registry", "agent", "grpc", "etcd3", "starlette", "hypercorn", "httpx"),
    # What commands share knows none of them, and asks etcd or the agent by its API; only the agent's own command is it.
    "agent.cli": ("agent.proxy", "agent.control", "agent.cli.commands"),
    "agent.cli.main": ("agent.proxy", "agent.control"),
    "agent.cli.commands": ("agent.proxy", "agent.control", "agent.cli.main"),
    "agent.cli.commands.serve": ("agent.proxy", "agent.cli.main"),
    # Joining leaves what the agent reads at its start, and asks over TLS as it does.
    "agent.cli.commands.identity.join": ("agent.cli.main",),
    "agent.cli.commands.identity.login": ("agent.control", "agent.cli.main"),
    # A process that may be killed, and those who start it: what is in it, strangers could reach.
    "agent.rego": ("registry", "agent", "trio", "random"),
    "agent.frames": ("registry", "agent", "trio"),
    "agent.carried": ("registry", "agent", "trio"),
    "agent.framing": ("registry", "agent", "trio"),
    "agent.questions": ("registry", "agent", "trio"),
    "agent.requests": (*PURE, "agent"),
    "agent.events": (*PURE, "agent"),
    "agent.findings": (*PURE, "policies", "agent"),
    "agent.findings.of_mesh": (*PURE, "agent"),
    "agent.figures": (*PURE, "policies", "agent"),
    "agent.figures.compared": (*PURE, "agent"),
    "agent.ui": (*PURE, "policies", "agent"),
    "agent.hooks": (*PURE, "agent"),
    "agent.identity": (*PURE, "ssl", "secrets", "os", "agent"),
    "agent.audit": (*PURE, "ssl", "secrets", "os", "agent"),
}
ALLOWED = {
    # Who asks for an explanation writes the request down as HTTP/1 does.
    "agent.proxy.request": ("agent.proxy.http1.asked_head.request_of",),
    "registry": ("policies.language.names", "policies.language.document.why_not"),
    "agent.events": ("registry.keys", "registry.records"),
    "agent.frames": ("agent.carried", "agent.requests"),
    "agent.requests": ("agent.requests", "agent.questions", "agent.visible"),
    "agent.framing": ("agent.frames",),
    "agent.topics": ("registry.backoff", "agent.topics", "agent.process"),
    "agent.findings": ("agent.findings",),
    "agent.findings.of_mesh": (
        *("agent.findings", "policies"),
        *("registry.census", "registry.identity_records", "registry.keys", "registry.records"),
        *("registry.etcd.members.Member", "registry.etcd.releases"),
    ),
    "agent.figures": ("agent.figures", "agent.questions", "policies.language.names"),
    "agent.figures.compared": ("registry.keys", "registry.records", "registry.store"),
    "agent.questions": ("agent.carried",),
    "agent.ui": ("agent.ui",),
    "agent.hooks": ("registry.keys", "registry.records", "agent.hooks", "agent.events"),
    "agent.identity": ("agent.identity",),
    "agent.audit": ("agent.audit", "agent.questions"),
    "agent.rego": ("agent.rego", "registry.store"),
}
# Imported for its types only: policies are handed their generator, and never make or seed one.
TYPES_ONLY = {"policies": ("random",)}

# How large a room may be, and a module.
MOST_MODULES = 14
MOST_LINES = 450

# Inside of policies: what each room may import of the others. The longest matching room of a module counts.
SHARED = (
    *("policies.claim", "policies.decision", "policies.endpoint", "policies.hashing", "policies.kind"),
    *("policies.language", "policies.request", "policies.rego", "policies.stranger", "policies.together"),
)
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "policies.request": ("policies.stranger",),
    "policies.stranger": (),
    "policies.claim": (),
    "policies.hashing": (),
    "policies.together": ("policies.hashing",),
    "policies.rego": ("policies.language",),
    "policies.language": ("policies.request", "policies.stranger"),
    "policies.kind": ("policies.language",),
    "policies.endpoint": (
        # An endpoint carries what two kinds have learnt of it; both are leaves.
        "policies.kinds.breaker.circuit",
        "policies.kinds.outlier.ejector",
    ),
    # A rule of a route may bring retries of its own; a leaf too.
    "policies.decision": ("policies.endpoint", "policies.kinds.retry.policy", "policies.language", "policies.request"),
    "policies.kinds": SHARED,
    "policies.kinds.route": (*SHARED, "policies.kinds.retry"),
    "policies.chain": ("policies.kinds.retry", "policies.kinds.timeout"),
    "policies.hops": (
        *("policies.chain", "policies.language"),
        *(f"policies.kinds.{kind}" for kind in ("breaker", "retry", "route", "shed", "timeout")),
    ),
    "policies.catalogue": ("policies.kind", "policies.language"),
    "policies.vocabulary": ("policies.catalogue", "policies.language"),
}


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
        ("agent.proxy.worker", "from agent.control.mesh.table import Table"),
        ("registry.lease", "from registry.etcd.renewer import EtcdRenewer"),
        ("agent.settings.check", "from agent.control.host import sockets"),
        ("agent.control.main", "from agent.proxy import worker"),
        ("agent.control.identity.engaged", "from agent.control.mesh.table import Table"),
        ("agent.control.host.rights", "from agent.control.mesh.table import Table"),
        ("agent.control.workers.fleet", "from agent.control.mesh.table import Table"),
        ("agent.control.mesh.table", "from agent.control.workers.fleet import Fleet"),
        ("agent.control.mesh.reports", "from agent.control.instances.registrar import Registrar"),
        ("agent.control.instances.registrar", "from agent.control.events.detector import EventDetector"),
        ("agent.control.traffic.shadow", "from starlette.responses import Response"),
        ("agent.control.events.delivery", "from agent.control.traffic.shadow import ShadowTallies"),
        ("agent.control.updates", "from agent.control.parts import Parts"),
        ("agent.control.parts", "from agent.control.admin.api import application"),
        ("agent.control.admin.state", "from agent.control.main import Control"),
        ("agent.cli.documents", "from agent.cli.commands.policy import parsed_pattern"),
        ("agent.cli.commands.wait", "from agent.control.main import main"),
        ("agent.hooks.bodies", "import httpx"),
        ("agent.figures.tally", "import time"),
        ("agent.control.figures.sampler", "from agent.control.traffic.peers import Peers"),
        ("agent.identity.verification", "import time"),
        ("agent.identity.certificates", "import secrets"),
        ("agent.proxy.worker", "from agent.hooks import bodies"),
        ("agent.proxy.phases.limits", "from agent.proxy.request.exchange import Exchange"),
        ("agent.proxy.http1.server", "from agent.proxy.runtime import Runtime"),
        ("agent.proxy.engine.reactor", "from agent.proxy.http1 import head"),
        ("agent.proxy.messages.head", "from agent.proxy.http1.head import parse_field"),
        ("agent.proxy.peer", "from agent.proxy.stream import Stream"),
        ("agent.proxy.stream", "from agent.proxy.http1.client import ClientStream"),
        ("agent.proxy.request.exchange", "from agent.proxy.http1.server import ServerStream"),
        ("agent.proxy.request.relay", "from agent.proxy.http1.framing import chunk"),
        ("agent.proxy.phases.limits", "from agent.proxy.http1 import answers"),
        ("agent.proxy.table.plan", "from agent.proxy.http1.client import ClientConnection"),
        ("agent.proxy.control.peers", "from agent.proxy.http1.server import ServerConnection"),
        ("agent.proxy.report.state", "from agent.proxy.http1.pool import Pool"),
        ("agent.proxy.worker", "from agent.proxy.http1.server import ServerConnection"),
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


@pytest.mark.parametrize(
    ("process", "heavy"),
    [
        ("agent.proxy.worker", ("registry", "grpc", "etcd3", "starlette", "hypercorn", "httpx", "rich", "typer")),
        ("agent.control.main", ("cryptography", "typer")),
    ],
)
def test_a_process_loads_what_it_needs(process: str, heavy: tuple[str, ...]) -> None:
    """A worker none of the modules that only control needs, for memory is per worker; control no library for
    certificates, for a mesh may have none."""
    code = f"import sys, {process}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


# Inside of the rooms.


def arrows() -> dict[str, set[str]]:
    """Which of our modules each of them imports; for its types only, and inside of functions, counts too."""
    known = dict(modules())
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        names = imports(module, ast.parse(path.read_text()))
        found[module] = {name if name in known else name.rpartition(".")[0] for name in names} & known.keys() - {module}
    return found


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The modules that import each other, by way of any others."""
    reached = {module: reach(arrows, module) for module in arrows}
    found = {frozenset(other for other in reached[m] if m in reached[other]) for m in arrows if m in reached[m]}
    return sorted(sorted(circle) for circle in found)


def reach(arrows: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_no_modules_import_each_other() -> None:
    """A circle is one module in several files: none of them can be read, tested or replaced by itself."""
    assert circles(arrows()) == []


def test_a_circle_is_seen() -> None:
    """Of two, of three, and no way that only leads into one."""
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def outside(arrows: dict[str, set[str]]) -> list[str]:
    """Imports inside of policies that lead from a room to where it may not look."""
    found = []
    for module, others in arrows.items():
        home = max((room for room in MAY_IMPORT if within(module, room)), key=len, default=None)
        own = ".".join(module.split(".")[:3]) if within(module, "policies.kinds") else home
        if home is None or own is None:
            continue
        may = (own, *MAY_IMPORT[home])
        found += [f"{module} imports {other}" for other in others if not any(within(other, room) for room in may)]
    return found


def test_kinds_do_not_know_each_other() -> None:
    """A kind is taken out, or put in, without a word to the others; what they share stands above them."""
    assert outside({m: others for m, others in arrows().items() if within(m, "policies")}) == []


def test_an_import_of_another_kind_is_seen() -> None:
    """And one upwards."""
    assert outside({"policies.kinds.shed.decide": {"policies.kinds.fault.document"}})
    assert outside({"policies.language.names": {"policies.decision"}})
    assert outside({"policies.kinds.shed.decide": {"policies.catalogue"}})
    assert not outside({"policies.kinds.route.decide": {"policies.kinds.retry.decide", "policies.kinds.route.rules"}})


def test_every_module_of_policies_has_a_room() -> None:
    """So that none escapes the table."""
    rooms = [module for module, _ in modules() if within(module, "policies")]
    bare = ("policies", "policies.kinds")
    assert [m for m in rooms if m not in bare and not any(within(m, room) for room in MAY_IMPORT)] == []


def test_folders_are_small() -> None:
    """What is in one can be seen at a glance."""
    sizes = Counter(path.parent for _, path in modules() if path.name != "__init__.py")
    names = {".".join(folder.relative_to(ROOT).parts): size for folder, size in sizes.items()}
    assert {name: size for name, size in names.items() if size > MOST_MODULES} == {}


def test_modules_are_short() -> None:
    """What is longer is about more than one thing."""
    lines = {module: len(path.read_text().splitlines()) for module, path in modules()}
    long = {module: n for module, n in lines.items() if n > MOST_LINES}
    assert long == {}


def test_what_is_private_stays_so() -> None:
    """In policies nobody imports another module's private name."""
    found = [
        f"{module} imports {name}"
        for module, path in modules()
        if within(module, "policies")
        for name in imports(module, ast.parse(path.read_text()))
        if within(name, "policies") and name.rpartition(".")[2].startswith("_")
    ]
    assert found == []
