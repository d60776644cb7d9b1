"""The page in bad weather: agents that die under it, etcd away, a thousand services, names that others choose."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, expect

from registry.keys import Keys
from scripts.benchmark.mesh import put_all
from tests.support.browser import browser, findings, tab
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

PETS = "pets.production"
BOMB = "<img src=x onerror=window.pwned=1>"
"""What would run, were it taken for markup."""
AWAY = ["ERR_CONNECTION_RESET", "WebSocket connection", "ERR_CONNECTION_REFUSED", "503 (Service Unavailable)"]
"""What a browser says of an agent that is not there."""


def ui(agent: AgentProcess, place: str = "") -> str:
    return f"http://{agent.address}:{agent.admin}/ui/{place}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


def test_an_agent_dies_under_the_page_and_comes_back(mesh: Mesh, chromium: Browser) -> None:
    """What was seen stays, and is said to be old; with the agent the page is live again, by itself. Another agent that
    dies is named; etcd away is said, and that it is back."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    beta = mesh.agent("beta", "127.0.0.2")
    mesh.instance(beta)
    with tab(chromium, ui(alpha, "#/agents"), forgiven=AWAY) as page:
        rows = page.get_by_role("table", name="Agents").locator("tbody tr")
        expect(rows).to_have_count(2)
        state = page.locator("header .state")
        expect(state).to_contain_text("live")
        alpha.tell(signal.SIGKILL)
        alpha.stop(signal.SIGKILL)
        expect(state).to_contain_text("connection lost: what you see is old")
        expect(rows).to_have_count(2)
        alpha.start()
        expect(state).to_contain_text(re.compile("live$"))
        beta.stop(signal.SIGKILL)
        expect(rows).to_have_count(1)
        mesh.etcd.stop()
        expect(state).to_contain_text("etcd is away")
        expect(page.get_by_role("alert").first).to_contain_text("hears of no change")
        mesh.etcd.start()
        expect(state).not_to_contain_text("etcd is away")


def test_names_that_somebody_chooses_are_text(mesh: Mesh, chromium: Browser) -> None:
    """Versions, metadata, documents and their keys, paths, headers, links: whatever stands in them is
    shown, and nothing of it runs."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    port = mesh.instance(alpha)
    instance = {"address": "127.0.0.1", "port": port, "version": "v1", "metadata": {"note": BOMB}}
    mesh.etcdctl("put", f"/shoal/default/instances/{PETS}/by-hand", json.dumps(instance))
    mesh.put(f"policies/route/{PETS}", {"description": BOMB, "rules": [{"name": BOMB, "split": [{"version": "v1"}]}]})
    mesh.etcdctl("put", f"/shoal/default/policies/retry/{BOMB}", "{}")
    mesh.etcdctl("put", "/shoal/default/policies/timeout/films.production", json.dumps({BOMB: BOMB}))
    alpha.ask(PETS, f"/{quote(BOMB)}?{quote(BOMB)}")
    bomb = quote(BOMB)
    places = [
        "#/mesh",
        f"#/service/{PETS}",
        f"#/service/{PETS}?tab=policies",
        f"#/service/{PETS}?tab=instances",
        f"#/service/{bomb}",
        f"#/service/{PETS}?tab={bomb}",
        f"#/mesh?find={bomb}&namespace={bomb}&focus={bomb}&open={bomb}&span={bomb}&ago={bomb}",
        f"#/why?url=http://{PETS}/{bomb}&caller={bomb}&headers={bomb}&claims={bomb}&kind={bomb}&pattern={bomb}",
        f"#/why?url=javascript:window.pwned=1&kind=route&pattern={PETS}",
        f"#/agents/{bomb}",
        "#/agents",
        "#/alerts",
        f"#/{bomb}",
    ]
    with tab(chromium, ui(alpha), forgiven=["40"]) as page:
        for place in places:
            page.goto(ui(alpha, place))
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            page.wait_for_timeout(300)
            assert page.evaluate("window.pwned") is None, place
            assert page.locator("img").count() == 0, place
            links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
            assert all(link is None or link.startswith(("#", "/ui/")) for link in links), links
        page.goto(ui(alpha, f"#/service/{PETS}"))
        expect(page.locator(".rules")).to_contain_text(BOMB)
        page.goto(ui(alpha, "#/agents"))
        expect(page.locator("main")).to_contain_text(BOMB)


def test_nothing_runs_that_is_not_the_pages_own(mesh: Mesh, chromium: Browser) -> None:
    """The policy of the page, as a browser keeps it: no inline script, no eval, nobody else's frame."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    with tab(chromium, ui(alpha), forgiven=["Content Security Policy", "Refused to", "violates the following"]) as page:
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.evaluate(
            """() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 1';
                       document.body.append(s); }"""
        )
        assert page.evaluate("window.pwned") is None
        framed = page.evaluate(
            """() => new Promise(done => { const f = document.createElement('iframe'); f.src = '/ui/';
                   f.onload = () => { let seen = 'closed'; try { seen = f.contentDocument.body.innerText } catch {}
                                      done(seen) }; document.body.append(f); })"""
        )
        assert "Mesh" not in framed


def test_a_thousand_services(mesh: Mesh, chromium: Browser) -> None:
    """They are drawn as what there is room for, found by their name, and the page answers meanwhile."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    keys = Keys()
    puts = {
        keys.instance(f"s{n}.n{n % 8}", "one"): json.dumps(
            {"address": "127.0.0.1", "port": 9, "version": "v1"}
        ).encode()
        for n in range(1000)
    }
    put_all(mesh.etcd.url, puts)
    until("they are known", lambda: alpha.state()["table"]["services"] >= 1000)
    with tab(chromium, ui(alpha)) as page:
        expect(page.locator(".said")).to_contain_text("1000 services of 1000")
        expect(page.locator("svg.graph a")).to_have_count(8)
        assert findings(page) == []
        page.get_by_label("Find a service").fill("s77.")
        expect(page.locator("svg.graph a")).to_have_count(1)
        page.get_by_label("Find a service").fill("")
        page.locator("svg.graph a").first.click()
        expect(page.locator(".said")).to_contain_text("are not drawn, for want of room")
        page.get_by_label("as a table").check()
        expect(page.get_by_role("table", name="Services").locator("tbody tr")).to_have_count(200)
