"""`shoal dashboard` in a real browser: what a person may there, and that what he puts is what he saw."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import browser, findings, tab
from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, running_mesh

PETS = "pets.production"
SIDES = "# blue and green\nactive: v1\nstandby: v2\n"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


@contextmanager
def dashboard(mesh: Mesh, agent: AgentProcess) -> Iterator[str]:
    """The address that it prints, which counts once."""
    words = ["--etcd", mesh.etcd.url, "--admin", str(agent.socket), "-o", "json", "dashboard", "--no-open"]
    with subprocess.Popen([*SHOAL, *words], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def stands(mesh: Mesh, key: str) -> str:
    return mesh.etcdctl("get", "--print-value-only", f"/shoal/default/{key}")


def why(page: Page, place: str) -> None:
    page.evaluate("place => { location.hash = place }", place)


def test_a_document_is_tried_and_put_and_changed_over(mesh: Mesh, chromium: Browser) -> None:
    """What is put is what was seen, with who and why; somebody who was quicker is heard of; blue and green are changed
    over, and back, as their text was written; live requests are there; what is refused shows its place."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    for version in ("v1", "v2"):
        mesh.instance(alpha, version)
    mesh.put(f"policies/route/{PETS}", SIDES)
    forgiven = ["status of 40", "WebSocket"]
    with dashboard(mesh, alpha) as url, tab(chromium, url, forgiven=forgiven) as page:
        expect(page.locator("header .person")).to_contain_text("operate")
        page.get_by_role("link", name=PETS).first.click()
        page.get_by_role("link", name="open it").click()
        expect(page.locator(".sides")).to_contain_text("v1 serves everybody, v2 waits")
        page.get_by_role("link", name="Switch to v2").click()
        would = page.locator(".decisions", has=page.get_by_role("heading", name="As it would be"))
        expect(would).to_contain_text("version v2")
        text = page.get_by_label("The document, JSON or YAML")
        expect(text).to_have_value("# blue and green\nactive: v2\nstandby: v1\n")
        put = page.get_by_role("button", name="Put it")
        expect(put).to_be_disabled()
        page.get_by_label("Why (it is written").fill("green is well")
        assert findings(page) == []
        mesh.etcdctl("put", f"/shoal/default/policies/route/{PETS}", SIDES + "description: quicker\n")
        put.click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert "quicker" in stands(mesh, f"policies/route/{PETS}")
        page.get_by_role("button", name="As it is in etcd").click()
        expect(text).to_have_value(SIDES + "description: quicker\n")
        assert "swap" not in page.url
        page.get_by_role("button", name="Change blue and green over").click()
        expect(text).to_have_value("# blue and green\nactive: v2\nstandby: v1\ndescription: quicker\n")
        put.click()
        expect(page.locator(".said", has_text="Done: revision")).to_be_visible()
        told = stands(mesh, f"policies/route/{PETS}")
        assert "active: v2" in told and "green is well" in told and "# blue and green" in told and "by:" in told
        expect(page.get_by_label("Why (it is written")).to_have_value("")
        expect(text).to_have_value(told.rstrip("\n") + "\n")
        mesh.shoal("wait")
        assert alpha.ask(PETS, "/cats").version == "v2"

        why(page, f"#/why?url=http://{PETS}/&kind=route&pattern={PETS}")
        expect(text).to_have_value(re.compile("green is well"))
        text.fill('{"rules": [{"split": [{"version": "v9"}]}]}')
        page.get_by_role("button", name="See what it would do").click()
        expect(page.locator(".warned").first).to_contain_text("version v9")
        assert stands(mesh, f"policies/route/{PETS}") == told, "it is only judged"

        why(page, f"#/service/{PETS}?tab=requests")
        expect(page.locator(".empty")).to_contain_text("waits for the next one")
        page.wait_for_timeout(1000)
        alpha.ask(PETS, "/seen-live")
        expect(page.get_by_role("table", name="Live requests")).to_contain_text("/seen-live")

        mesh.etcdctl("put", "/shoal/default/policies/retry/films.production", '{\n "attempts":\n  "many"}')
        why(page, "#/agents")
        expect(page.locator("pre.source mark")).to_contain_text("$.attempts")


def test_a_link_that_changes_over_does_so_once(mesh: Mesh, chromium: Browser) -> None:
    """Once put, it is gone from the address: who looks again sees what stands there, laid out."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    for version in ("v1", "v2"):
        mesh.instance(alpha, version)
    mesh.put(f"policies/route/{PETS}", {"active": "v1", "standby": "v2"})
    with dashboard(mesh, alpha) as url, tab(chromium, url, forgiven=["WebSocket"]) as page:
        expect(page.locator("header .person")).to_contain_text("operate")
        why(page, f"#/why?url=http://{PETS}/&kind=route&pattern={PETS}&swap=1")
        text = page.get_by_label("The document, JSON or YAML")
        expect(text).to_have_value('{\n  "active": "v2",\n  "standby": "v1"\n}\n')
        page.get_by_label("Why (it is written").fill("green is well")
        page.get_by_role("button", name="Put it").click()
        expect(page.locator(".said", has_text="Done: revision")).to_be_visible()
        assert "swap" not in page.url
        page.reload()
        expect(text).to_have_value(re.compile('^{\n  "by": ".*",\n  "reason": "green is well",\n  "active": "v2",'))


def test_who_was_overtaken_is_shown_by_whom_and_keeps_what_he_has_typed(mesh: Mesh, chromium: Browser) -> None:
    """What stands there now, with who put it and why; his own can be put on top of it. What he has typed no other name
    takes away."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    mesh.instance(alpha, "v1")
    mesh.put(f"policies/timeout/{PETS}", {"request": "7s"})
    with dashboard(mesh, alpha) as url, tab(chromium, url, forgiven=["status of 40", "WebSocket"]) as page:
        expect(page.locator("header .person")).to_contain_text("operate")
        why(page, f"#/why?url=http://{PETS}/&kind=timeout&pattern={PETS}")
        text = page.get_by_label("The document, JSON or YAML")
        expect(text).to_have_value(re.compile("7s"))
        mine = '{"request": "5s"}'
        text.fill(mine)
        mesh.put(f"policies/timeout/{PETS}", {"by": "ann", "reason": "it is slow", "request": "9s"})
        page.get_by_label("Why (it is written").fill("it is quick")
        page.get_by_role("button", name="Put it").click()
        clash = page.locator(".clash")
        expect(clash).to_contain_text("put by ann: “it is slow”")
        expect(clash.locator("pre")).to_contain_text("9s")
        assert findings(page) == []
        expect(text).to_have_value(mine)
        clash.get_by_role("button", name="Take mine again").click()
        expect(clash).to_have_count(0)
        page.get_by_role("button", name="Put it").click()
        expect(page.locator(".said", has_text="Done: revision")).to_be_visible()
        told = json.loads(stands(mesh, f"policies/timeout/{PETS}"))
        assert told["request"] == "5s" and told["reason"] == "it is quick" and told["by"] != "ann"

        expect(text).to_have_value(re.compile("it is quick"))
        text.fill('{"attempts": 4}')
        kind = page.get_by_label("Kind")
        kind.fill("retry")
        expect(page.locator(".said", has_text="What you typed is kept")).to_be_visible()
        expect(text).to_have_value('{"attempts": 4}')
        expect(page.get_by_role("button", name="See what its removal would do")).to_have_count(0)
        kind.fill("timeout")
        expect(page.get_by_role("button", name="See what its removal would do")).to_be_visible()
        expect(text).to_have_value('{"attempts": 4}')
        page.get_by_role("button", name="As it is in etcd").click()
        expect(text).to_have_value(re.compile("5s"))


def test_the_address_opens_one_browser(mesh: Mesh, chromium: Browser) -> None:
    """Whoever has it later, or asks without, gets nothing of the mesh."""
    alpha = mesh.agent("alpha", "127.0.0.1")
    with dashboard(mesh, alpha) as url, tab(chromium, url, forgiven=["WebSocket"]) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("Mesh")
        with tab(chromium, url, forgiven=["status of 40", "WebSocket"]) as other:
            expect(other.locator("body")).not_to_contain_text("alpha")
            assert other.locator("svg.graph").count() == 0
        expect(page.locator("header .state")).to_contain_text("live")


def test_a_page_that_is_loaded_while_its_agent_is_away_comes_by_itself(mesh: Mesh, chromium: Browser) -> None:
    """It says who does not answer, and neither a reload nor a click is needed once he does; so it is of views that are
    opened meanwhile, and of what one may write while etcd is away."""
    alpha = mesh.agent("alpha", "127.0.0.1", lease_ttl="60s")
    mesh.instance(alpha, "v1")
    with dashboard(mesh, alpha) as url, tab(chromium, url, forgiven=["status of", "WebSocket", "net::"]) as page:
        expect(page.locator("header .person")).to_contain_text("operate")
        alpha.stop()
        expect(page.locator("header .state")).to_contain_text("connection lost")
        why(page, "#/agents")
        expect(page.locator("main")).to_contain_text("The agent does not answer")
        page.reload()
        expect(page.locator("main")).to_contain_text("It is asked again by itself")
        alpha.start()
        expect(page.get_by_role("table", name="Agents").locator("tbody tr")).to_have_count(1)

        mesh.etcd.stop()
        why(page, "#/alerts")
        expect(page.locator(".alerts")).to_contain_text("could not be looked at by alpha", timeout=60_000)
        expect(page.locator(".alerts")).to_contain_text("has lost etcd")
        why(page, f"#/why?url=http://{PETS}/&kind=timeout&pattern={PETS}")
        page.reload()
        expect(page.locator("main")).to_contain_text("etcd cannot be asked")
        mesh.etcd.start()
        expect(page.get_by_role("button", name="Put it")).to_be_visible(timeout=60_000)
