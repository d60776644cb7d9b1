"""Section `page`: the page in a real Chromium with a thousand services and three thousand ways between them.

No agent is asked: what a page would hear is told by this section, so that it is the page that is measured. An hour of
live figures, 360 windows, is told as fast as the page draws it; what it keeps after that is looked at once more after
its garbage is collected.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from agent import ui
from scripts.benchmark.goal import Goal
from scripts.benchmark.processes import Failed
from scripts.benchmark.run import Run

SERVICES: Final = 1000
NAMESPACES: Final = 25
EDGES: Final = 3000
WINDOWS: Final = 360
PLACE: Final = "http://shoal.test/ui/"
LIVE_S: Final = 5.0
LIVE_EACH_S: Final = 0.25
SOCKET: Final = """
window.WebSocket = class {
  constructor() { window.socket_ = this; setTimeout(() => this.onopen(), 0) }
  send(text) { window.said_(text).then(told => told && this.onmessage({data: told})) }
  close() {}
}
"""
"""In place of a browser's."""
WINDOW: Final = """
() => {
  window.until_ = (window.until_ ?? told_[0].body.until) + 10
  for (const frame of told_) {
    for (const row of frame.body.items) row.rate = -Math.log(1 - Math.random()) * 50
    frame.body.until = until_
    socket_.onmessage({data: JSON.stringify(frame)})
  }
}
"""
"""Another window, made beside the page: what is handed over by whoever drives a browser is kept there."""
ME: Final = {
    "who": "",
    "by_way_of": "admin",
    "role": "look",
    "may": {"read": False, "tap": False, "operate": False, "write": False},
    "write": "",
    "mesh": "bench",
    "host": "here",
    "login": "",
    "logout": "",
}


class Result(msgspec.Struct, frozen=True):
    """Of the view of the mesh."""

    first_ms: list[float]
    """From the navigation to the first picture, by namespace."""
    opened_ms: list[float]
    """From a click on a namespace of forty services to its picture."""
    frames_per_s: float
    """While figures come four times a second."""
    heap_mib: tuple[float, float]
    """Of scripts, before and after the hour."""
    nodes: tuple[int, int]
    """Of the document, likewise."""


class Mesh:
    """What would be so."""

    def __init__(self) -> None:
        self._random = random.Random(17)
        self.names = [f"s{n}.n{n % NAMESPACES}" for n in range(SERVICES)]
        self._ways = [tuple(self._random.sample(self.names, 2)) for _ in range(EDGES)]
        self.until = 1_795_751_400

    def told(self, path: str) -> Any:
        """An answer of the API; of figures another one each time."""
        if path.startswith("/services"):
            items = [self._service(name) for name in self.names]
        elif path.startswith("/figures"):
            rows = self._ways if "by=edge" in path else [("", name) for name in self.names]
            items = [self._figure(caller, service) for caller, service in rows]
        elif path.startswith("/mesh"):
            return {"name": "bench", "host": "here", "revision": 1, "age_s": 0.1, "etcd_connected": True}
        else:
            items = []
        return {"items": items, "total": len(items), "revision": 1, "until": self.until, "covered_s": 60, "folded": 0}

    def _service(self, name: str) -> dict[str, Any]:
        return {"name": name, "instances": 3, "healthy": 3, "draining": 0, "versions": {"v1": 3}, "policies": []}

    def _figure(self, caller: str, service: str) -> dict[str, Any]:
        rate = self._random.expovariate(0.02)
        known = {"service": service, "caller": caller, "route": "", "version": "", "instance": ""}
        times = {"p50_s": 0.002, "p95_s": self._random.random() / 50, "p99_s": 0.03, "in_flight": 0.1, "pending": 0}
        failing = self._random.random() / 40 if self._random.random() < 0.1 else 0
        more = {"requests": 1 + int(rate * 60), "rate": rate, "errors": failing, "statuses": {}}
        return {**known, **times, **more, "refused": {}, "shed": {}}


def measure(run: Run) -> Result:
    """As many first pictures as rounds, and one hour."""
    from playwright.sync_api import sync_playwright

    from tests.support.browser import find_chromium

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--js-flags=--expose-gc", "--enable-precise-memory-info"],
        )
        try:
            first, opened = [], []
            for number in range(1, run.rounds + 1):
                tab = _Tab(chromium)
                first.append(tab.first_ms())
                opened.append(tab.opened_ms())
                run.say(f"page {number}/{run.rounds}: first picture {first[-1]:.0f} ms, opened {opened[-1]:.0f} ms")
                tab.close()
            tab = _Tab(chromium)
            tab.first_ms()
            frames = tab.frames_per_s()
            for _ in range(10):  # what is made once is there then
                tab.tell()
                tab.drawn()
            before = tab.kept()
            for window in range(WINDOWS // 10 if run.quick else WINDOWS):
                tab.tell()
                tab.drawn()
                if window % 60 == 59:
                    run.say(f"page: window {window + 1}: {tab.kept()[0]:.1f} MiB")
            after = tab.kept()
            tab.close()
        finally:
            chromium.close()
    return Result(first, opened, frames, (before[0], after[0]), (before[1], after[1]))


class _Tab:
    def __init__(self, chromium: Any) -> None:
        self._mesh = Mesh()
        self._context = chromium.new_context(viewport={"width": 1280, "height": 900})
        self._page = self._context.new_page()
        self._watched: dict[str, str] = {}
        self._begun = False
        self._page.route("**/*", self._answer)
        self._page.expose_function("said_", self._said)
        self._page.add_init_script(SOCKET)

    def close(self) -> None:
        self._context.close()

    def _answer(self, route: Any) -> None:
        path = route.request.url.partition("shoal.test")[2].partition("?")[0]
        if path == "/api/v1/me":
            route.fulfill(json=ME)
            return
        found = ui.built().get(path.removeprefix("/ui/"))
        if found is None:
            route.fulfill(status=404, body="")
        else:
            route.fulfill(body=found.body, content_type=found.kind)

    def _said(self, text: str) -> str:
        """By the page, on its socket; what is answered at once."""
        asked = json.loads(text)
        if "path" not in asked:
            self._watched.pop(asked.get("unwatch"), None)
            return ""
        self._watched[asked["watch"]] = asked["path"]
        return self._frame(asked["watch"])

    def _frame(self, name: str) -> str:
        return json.dumps({"watch": name, "status": 200, "body": self._mesh.told(self._watched[name])})

    def tell(self) -> None:
        """Another window."""
        if not self._begun:
            figures = [name for name, path in self._watched.items() if path.startswith("/figures")]
            frames = "[" + ",".join(map(self._frame, figures)) + "]"
            self._page.evaluate("text => { window.told_ = JSON.parse(text) }", frames)
            self._begun = True
        self._page.evaluate(WINDOW)

    def drawn(self) -> None:
        """Two frames later."""
        self._page.evaluate("() => new Promise(d => requestAnimationFrame(() => requestAnimationFrame(() => d())))")

    def first_ms(self) -> float:
        began = time.monotonic()
        self._page.goto(PLACE)
        self._page.locator("svg.graph g.node.namespace").first.wait_for()
        return (time.monotonic() - began) * 1000

    def opened_ms(self) -> float:
        name = self._page.locator("svg.graph a").first
        began = time.monotonic()
        name.click()
        self._page.locator("svg.graph g.node.service").first.wait_for()
        return (time.monotonic() - began) * 1000

    def frames_per_s(self) -> float:
        self._page.evaluate(
            "() => { window.frames_ = 0; const f = () => { window.frames_++; requestAnimationFrame(f) }; f() }"
        )
        began = time.monotonic()
        while (passed := time.monotonic() - began) < LIVE_S:
            self.tell()
            self._page.wait_for_timeout(LIVE_EACH_S * 1000)
        frames: int = self._page.evaluate("window.frames_")
        return frames / passed

    def kept(self) -> tuple[float, int]:
        """MiB of the heap after a collection, and nodes of the document."""
        found = self._page.evaluate(
            "() => { gc(); return [performance.memory.usedJSHeapSize, document.querySelectorAll('*').length] }"
        )
        if not found:
            raise Failed("the browser says nothing of its memory")
        return found[0] / 2**20, found[1]


def goals(result: Result) -> list[Goal]:
    """What is drawn stays of a size."""
    return [Goal("Heap of the page after an hour, of that before", result.heap_mib[1] / result.heap_mib[0], 1.5, "x")]


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"The page with {SERVICES:,} services and {EDGES:,} ways between them")
    for heading in ("first picture, ms", "a namespace opened, ms", "frames/s while live", "heap, MiB", "nodes"):
        table.add_column(heading, justify="right")
    table.add_row(
        _interval(result.first_ms),
        _interval(result.opened_ms),
        f"{result.frames_per_s:.0f}",
        f"{result.heap_mib[0]:.1f}, after an hour {result.heap_mib[1]:.1f}",
        f"{result.nodes[0]:,}, {result.nodes[1]:,}",
    )
    console.print(table)


def _interval(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:,.0f} ({ordered[0]:,.0f}..{ordered[-1]:,.0f})"
