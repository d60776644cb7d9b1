"""Section `live`: what pages that stay open cost control: none, one, a hundred, and none again.

Three agents and a hundred services, which are asked all the while. Each page watches, as a browser, what the views of
the mesh, of its agents and of a service do together, and its alerts.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

import msgspec
import trio
from rich.console import Console
from rich.table import Table
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from registry.keys import Keys
from scripts.benchmark import mesh
from scripts.benchmark.agents import Agent, running_agent
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.processes import Failed
from scripts.benchmark.run import Run

PAGES: Final = 100
SERVICES: Final = 100
HOSTS: Final = ("one", "two", "three")
NAME: Final = "live"
REQUESTS_PER_S: Final = 50
WATCHED: Final = (
    "/mesh",
    "/services?limit=1000",
    "/policies?kind=route&limit=1000",
    "/policies/refused?scope=mesh&limit=1000",
    "/figures?scope=mesh&by=service&limit=1000",
    "/figures?scope=mesh&by=edge&limit=1000",
    "/figures/series?scope=mesh&last_s=900&step_s=30",
    "/alerts?limit=1000",
    "/agents?scope=mesh",
    "/changes?scope=mesh&limit=1000",
    "/events?scope=mesh",
)
EVERY_S: Final = 5
SETTLE_S: Final = 4.0


class Result(msgspec.Struct, frozen=True):
    """Processor time of control, in parts of a core."""

    before: float
    one: float
    many: float
    after: float
    kib_a_page_and_s: float
    """That a page hears."""


def measure(run: Run) -> Result:
    """In turn: nobody, one page, a hundred, nobody."""
    with ExitStack() as stack:
        url = stack.enter_context(serving_etcd(run.workdir))
        mesh.put_all(url, mesh.crowd(Keys(NAME), SERVICES, 2))
        agents = [stack.enter_context(running_agent(run.workdir, host, url, mesh=NAME)) for host in HOSTS]
        return trio.run(_measure, run, agents)


async def _measure(run: Run, agents: list[Agent]) -> Result:
    seconds = run.seconds(40, 20)
    found: list[float] = []
    heard: list[float] = []
    async with trio.open_nursery() as nursery:
        for agent in agents:
            nursery.start_soon(_ask, agent)
        await trio.sleep(12)  # a window of figures
        rows = agents[0].told("/api/v1/figures?scope=mesh&by=edge&limit=1000")["total"]
        if rows < SERVICES:
            raise Failed(f"figures have {rows} edges, and {SERVICES} services are asked")
        for pages in (0, 1, PAGES, 0):
            async with trio.open_nursery() as watching:
                sizes = [[0] for _ in range(pages)]
                for size in sizes:
                    watching.start_soon(_page, agents[0], size)
                await trio.sleep(SETTLE_S)
                began, before_s, before = time.monotonic(), _control_s(agents[0]), sum(size for (size,) in sizes)
                await trio.sleep(seconds)
                took_s = time.monotonic() - began
                found.append((_control_s(agents[0]) - before_s) / took_s)
                heard.append((sum(size for (size,) in sizes) - before) / took_s / max(1, pages) / 1024)
                watching.cancel_scope.cancel()
            run.say(f"live: {pages} pages: {100 * found[-1]:.1f}% of a core, {heard[-1]:.1f} KiB/s each")
            await trio.sleep(SETTLE_S)
        nursery.cancel_scope.cancel()
    return Result(*found, heard[2])


def _control_s(agent: Agent) -> float:
    roles = agent.roles()
    return sum(cpu_s for pid, cpu_s in agent.program.cpu_s().items() if roles.get(pid) == "control")


async def _ask(agent: Agent) -> None:
    """All services in turn, by way of an agent: whatever comes of it is counted."""
    async with await trio.open_tcp_stream("127.0.0.1", agent.outbound) as stream:
        number = 0
        while True:
            name = f"crowd-{number % SERVICES}.production"
            await stream.send_all(f"GET / HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
            if not await stream.receive_some(65536):
                raise Failed("an agent closed a connection on which services are asked")
            number += 1
            await trio.sleep(1 / REQUESTS_PER_S)


async def _page(agent: Agent, heard: list[int]) -> None:
    """Watches until it is cancelled; `heard` has how many bytes came."""
    page = WSConnection(ConnectionType.CLIENT)
    place = f"127.0.0.1:{agent.admin}"
    async with await trio.open_tcp_stream("127.0.0.1", agent.admin) as stream:
        asked = Request(host=place, target="/api/v1/live", extensions=[PerMessageDeflate()])
        await stream.send_all(page.send(asked))
        page.receive_data(await stream.receive_some(65536))
        if not any(isinstance(event, AcceptConnection) for event in page.events()):
            raise Failed("an agent takes no page that watches")
        for path in WATCHED:
            said = msgspec.json.encode({"watch": path, "path": path, "every_s": EVERY_S}).decode()
            await stream.send_all(page.send(TextMessage(data=said)))
        while data := await stream.receive_some(65536):
            heard[0] += len(data)
        raise Failed("an agent closed a page that watches")


def goals(result: Result) -> list[Goal]:
    """A hundred pages cost little, and what nobody watches nothing."""
    return [
        Goal(
            "control with a hundred pages, less what it takes with none", 100 * (result.many - result.before), 10, "%"
        ),
        Goal("control when all have gone, less what it took before", 100 * (result.after - result.before), 0.5, "%"),
    ]


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"Pages that watch {len(HOSTS)} agents and {SERVICES} services: control of the agent asked")
    table.add_column("")
    table.add_column("of a core", justify="right")
    for name, value in (
        ("nobody", result.before),
        ("one page", result.one),
        (f"{PAGES} pages", result.many),
        ("nobody again", result.after),
    ):
        table.add_row(name, f"{100 * value:.1f}%")
    console.print(table)
    console.print(f"a page hears {result.kib_a_page_and_s:.1f} KiB a second")
