"""The page in a real Chromium, by real agents under real traffic: each view, what it says, who can use it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import NARROW, browser, findings, fits, tab
from tests.support.mesh import AgentProcess, Mesh, running_mesh

SHOP, PETS = "shop.production", "pets.production"
SPLIT = {
    "rules": [
        {"name": "testers", "match": {"headers": {"x-tester": "yes"}}, "split": [{"version": "v2"}]},
        {"name": "canary", "split": [{"version": "v1", "weight": 75}, {"version": "v2", "weight": 25}]},
    ]
}


class House:
    """Two agents, a shop that calls pets in two versions, and what the traffic is for as long as tests run."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.alpha = mesh.agent("alpha", "127.0.0.1")
        self.beta = mesh.agent("beta", "127.0.0.2")
        mesh.instance(self.alpha, "v1")
        mesh.instance(self.beta, "v2")
        mesh.caller(self.alpha, SHOP)
        mesh.put(f"policies/route/{PETS}", SPLIT)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        number = 0
        while not self._over.wait(0.05):
            number += 1
            self.alpha.ask(SHOP, f"/call?url=http://{PETS}/cats?n={number}")

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def ui(agent: AgentProcess, place: str = "") -> str:
    return f"http://{agent.address}:{agent.admin}/ui/{place}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running_mesh(tmp_path_factory.mktemp("page")) as mesh:
        house = House(mesh)
        try:
            yield house
        finally:
            house.end()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def heading(page: Page, words: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(words)


def test_the_mesh_is_drawn_as_traffic_flows(house: House, chromium: Browser) -> None:
    """Nodes and edges with their figures, live; a click leads on; a filter that leaves nothing says so; a link to a
    view is that view for somebody else."""
    with tab(chromium, ui(house.alpha)) as page:
        heading(page, "Mesh")
        expect(page.locator("header .state")).to_contain_text("live")
        edge = page.locator("g.edge", has_text="/s").filter(has=page.locator(f"title:text('{SHOP} calls {PETS}')"))
        expect(edge).to_be_visible()
        expect(page.locator("svg.graph")).to_contain_text("2/2 healthy")
        expect(page.locator("svg.graph")).to_contain_text("75% v1, 25% v2")
        page.get_by_label("Find a service").fill("nobody-is-called-so")
        expect(page.locator(".empty")).to_contain_text("No service is as the filters say")
        page.get_by_label("Find a service").fill("pets")
        expect(page.locator("svg.graph a")).to_have_count(2)
        page.get_by_label("as a table").check()
        expect(page.get_by_role("table", name="Services")).to_be_visible()
        with tab(chromium, page.url) as other:
            expect(other.get_by_label("Find a service")).to_have_value("pets")
            expect(other.get_by_role("table", name="Services")).to_be_visible()
        page.get_by_role("link", name=PETS).click()
        heading(page, PETS)


def test_a_service_shows_what_is_so_of_it(house: House, chromium: Browser) -> None:
    """Charts, versions and the split as the route has it, instances, policies with their levels, the chain."""
    house.mesh.put("policies/timeout/*.production", {"request": "7s"})
    with tab(chromium, ui(house.beta, f"#/service/{PETS}")) as page:
        heading(page, PETS)
        expect(page.locator(".chart canvas").first).to_be_visible()
        expect(page.locator(".rules")).to_contain_text("75% to version v1")
        expect(page.locator(".rules")).to_contain_text("25% to version v2")
        expect(page.locator(".rules")).to_contain_text("testers")
        tabs = page.get_by_role("navigation", name="Of this service")
        tabs.get_by_role("link", name="Instances").click()
        expect(page.get_by_role("table", name="Instances").locator("tbody tr")).to_have_count(2)
        expect(page.get_by_role("table", name="Instances").locator("tbody tr").first).to_contain_text("s ago in")
        tabs.get_by_role("link", name="Policies").click()
        expect(page.locator("main")).to_contain_text("timeout of *.production (its namespace)")
        tabs.get_by_role("link", name="Chain").click()
        expect(page.locator("main")).to_contain_text("7 s")
        tabs.get_by_role("link", name="Scale").click()
        expect(page.locator(".empty")).to_contain_text("Nobody advises")
        tabs.get_by_role("link", name="Live requests").click()
        expect(page.locator(".empty")).to_contain_text("shoal dashboard")


def test_it_says_why_and_what_a_change_would_do(house: House, chromium: Browser) -> None:
    """Every decision of a request; another document changes what would be decided, and nothing that is."""
    with tab(
        chromium, ui(house.alpha, f"#/why?url=http://{PETS}/cats&caller={SHOP}"), forgiven=["status of 409"]
    ) as page:
        expect(page.locator(".decisions")).to_contain_text(f"route/{PETS}")
        expect(page.locator(".decisions")).to_contain_text("canary")
        page.get_by_text("What would a changed document do?").click()
        page.get_by_label("Kind").fill("route")
        page.get_by_label("Service or pattern").fill(PETS)
        text = page.get_by_label("The document, JSON or YAML")
        expect(text).to_have_value(re.compile("testers"))
        text.fill('{"rules": [{"name": "closed", "respond": {"status": 503}}]}')
        page.get_by_role("button", name="See what it would do").click()
        would = page.locator(".decisions", has=page.get_by_role("heading", name="As it would be"))
        expect(would).to_contain_text("the mesh itself answers 503")
        expect(would.locator(".differs").first).to_contain_text("closed")
        text.fill('{"rules": [{"split": [{"weight": "ten"}]}]}')
        page.get_by_role("button", name="See what it would do").click()
        expect(page.get_by_role("alert")).to_contain_text("$.rules[0].split[0].weight: ")
        expect(page.locator("pre.source mark")).to_contain_text('line 1: {"rules"')
        expect(page.locator("textarea.document.wrong")).to_be_visible()
        expect(would).to_have_count(0)
        expect(page.locator("main")).to_contain_text("shoal policy put FILE --kind route")
    assert house.alpha.ask(PETS, "/cats").status == 200


def test_an_answer_stands_under_its_own_question(house: House, chromium: Browser) -> None:
    """A link, Back and Forward ask anew; one of fields that were edited since says so; an error leaves none."""
    question = f"http://{PETS}/cats"
    with tab(
        chromium, ui(house.alpha, f"#/why?url={question}&caller={SHOP}"), forgiven=["status of 400", "status of 404"]
    ) as page:
        asked = page.locator(".answer h2")
        expect(asked).to_have_text(f"GET {question} as {SHOP}")
        page.evaluate("location.hash = '#/why?url=http://nope.production/'")
        expect(asked).to_have_text("GET http://nope.production/")
        expect(page.locator(".decisions")).to_contain_text("the mesh itself answers 404")
        page.go_back()
        expect(asked).to_have_text(f"GET {question} as {SHOP}")
        expect(page.locator(".decisions")).to_contain_text("it goes to")
        page.go_forward()
        expect(asked).to_have_text("GET http://nope.production/")
        page.get_by_label("URL").fill("http://other.production/")
        expect(page.locator(".answer.outdated")).to_contain_text("ask again")
        expect(asked).to_have_text("GET http://nope.production/")
        assert findings(page) == []
        page.get_by_role("button", name="Ask").click()
        expect(asked).to_have_text("GET http://other.production/")
        page.get_by_label("URL").fill("http://ünknown/")
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_role("alert")).to_contain_text("url")
        expect(page.locator(".decisions")).to_have_count(0)


def test_what_would_be_is_what_the_document_changes(house: House, chromium: Browser) -> None:
    """A changed share is a difference, whatever is drawn, and shown with both; what is drawn, and whose turn it is, is
    none; what nobody has put is proposed. It is asked as who calls there."""
    place = f"#/why?url=http://{PETS}/cats&kind=route&pattern={PETS}"
    with tab(chromium, ui(house.alpha, place), forgiven=["status of 404"]) as page:
        text = page.get_by_label("The document, JSON or YAML")
        expect(text).to_have_value(re.compile("canary"))
        expect(page.get_by_label("Caller")).to_have_value(SHOP)
        expect(page.locator("main")).to_contain_text(f"Asked as {SHOP}")
        would = page.locator(".decisions", has=page.get_by_role("heading", name="As it would be"))
        see = page.get_by_role("button", name="See what it would do")
        see.click()
        expect(would).to_contain_text("75% to version v1")
        expect(page.locator(".differs")).to_have_count(0)
        text.fill(text.input_value().replace("75", "50").replace("25", "50"))
        see.click()
        changed = would.locator(".differs", has_text="route")
        expect(changed.first).to_contain_text("50% to version v1 (75% before)")
        expect(changed.first).to_contain_text("50% to version v2 (25% before)")
        expect(changed.first).to_contain_text("(proposed)")
        assert findings(page) == []

        page.get_by_label("Kind").fill("timeout")
        expect(page.locator(".said", has_text="What you typed is kept")).to_be_visible()
        text.fill('{"request": "3s"}')
        for _ in range(12):
            with page.expect_response(lambda answer: "documents" in (answer.request.post_data or "")):
                see.click()
            expect(would.locator(".differs", has_text="timeout")).to_have_count(1)
            expect(page.locator(".differs")).to_have_count(2)


def test_nothing_is_asked_for_a_name_that_is_typed(house: House, chromium: Browser) -> None:
    """Kinds and services are there to choose from; one that is misspelt is told."""
    with tab(chromium, ui(house.alpha, "#/why")) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.get_by_text("What would a changed document do?").click()
        kind, pattern = page.get_by_label("Kind"), page.get_by_label("Service or pattern")
        expect(page.locator("datalist option[value=timeout]")).to_have_count(1)
        expect(page.locator(f"datalist option[value='{PETS}']")).to_have_count(1)
        kind.press_sequentially("timeot")
        pattern.press_sequentially(PETS)
        expect(page.locator(".said")).to_have_text("there is no kind timeot (did you mean timeout?)")
        expect(page.get_by_role("button", name="See what its removal would do")).to_have_count(0)
        kind.fill("")
        kind.press_sequentially("route")
        expect(page.get_by_label("The document, JSON or YAML")).to_have_value(re.compile("canary"))
        assert len([each for each in asked if "/policies/" in each]) == 1, asked


PASTE = """(field, text) => {
    const data = new DataTransfer();
    data.setData("text", text);
    return field.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


def test_a_request_is_pasted(house: House, chromium: Browser) -> None:
    """As it stands in a terminal; what proves who somebody is does not get into the address, which is shared."""
    with tab(chromium, ui(house.alpha, "#/why")) as page:
        field = page.get_by_label("URL")
        line = f"curl -X POST -H 'x-tier: free' -H 'Authorization: Bearer secret' http://{PETS}/cats"
        assert field.evaluate(PASTE, line) is False
        expect(field).to_have_value(f"http://{PETS}/cats")
        expect(page.get_by_label("Method")).to_have_value("POST")
        expect(page.get_by_label("Headers, one a line")).to_have_value("x-tier: free")
        expect(page.get_by_text("Left out of what was pasted")).to_contain_text("authorization")
        assert "secret" not in page.url
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_role("heading", name=f"POST http://{PETS}/cats, with x-tier: free")).to_be_visible()
        assert field.evaluate(PASTE, f"http://{PETS}/dogs") is True, "that the browser does itself"


def test_whom_a_document_touches(house: House, chromium: Browser) -> None:
    """Every document, with those for whom it counts, and not those whose own is more specific."""
    house.mesh.put("policies/balance/*.production", {"algorithm": "round-robin"})
    house.mesh.put(f"policies/balance/{PETS}", {"algorithm": "least-request"})
    with tab(chromium, ui(house.alpha, "#/policies")) as page:
        page.get_by_label("Find a kind or a name").fill("balance")
        rows = page.get_by_role("table", name="Documents").locator("tbody tr")
        expect(rows).to_have_count(2)
        page.get_by_role("link", name="balance/*.production").click()
        heading(page, "balance/*.production")
        expect(page.locator(".names a")).to_have_text([SHOP])
        page.get_by_role("link", name="See what a change of it would do").click()
        expect(page.get_by_label("The document, JSON or YAML")).to_have_value(re.compile("round-robin"))


def test_agents_and_alerts(house: House, chromium: Browser) -> None:
    """What each runs, and what is refused, with its place; the same findings as the command line has."""
    house.mesh.etcdctl("put", "/shoal/default/policies/retry/films.production", '{"attempts": "many"}')
    try:
        with tab(chromium, ui(house.alpha, "#/agents")) as page:
            expect(page.get_by_role("table", name="Agents").locator("tbody tr")).to_have_count(2)
            expect(page.locator(".said")).to_contain_text("every agent runs it")
            expect(page.locator("article.card")).to_contain_text("$.attempts")
            changes = page.get_by_role("table", name="The last changes")
            expect(changes.locator("tbody tr").first).to_contain_text("retry/films.production")
            expect(changes.locator("tbody tr").first).to_contain_text("refused by alpha, beta")
            page.get_by_role("table", name="Agents").get_by_role("link", name="beta").click()
            heading(page, "beta")
            expect(page.locator("main")).to_contain_text("refused: $.attempts")
            page.get_by_role("link", name="Alerts").click()
            page.locator(".alerts").get_by_role("link", name="retry/films.production").click()
            expect(page.locator(".refused")).to_contain_text("$.attempts")
            page.go_back()
            expect(page.locator("header .count")).to_be_visible()
    finally:
        house.mesh.etcdctl("del", "/shoal/default/policies/retry/films.production")


PLACES = ["#/mesh", "#/mesh?as=table", f"#/service/{PETS}", f"#/service/{PETS}?tab=policies", "#/agents", "#/alerts"]
PLACES += ["#/policies", f"#/policies/route/{PETS}"]
PLACES += [f"#/service/{PETS}?tab=chain", f"#/why?url=http://{PETS}/&kind=route&pattern={PETS}", "#/nowhere"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), NARROW], ids=["wide", "narrow"])
def test_everybody_can_use_it(house: House, chromium: Browser, size: tuple[int, int], scheme: str) -> None:
    """axe finds nothing in any view, and nothing is wider than the window, in either scheme."""
    with tab(chromium, ui(house.alpha), size=size, color_scheme=scheme) as page:
        for place in PLACES:
            page.goto(ui(house.alpha, place))
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            expect(page.locator(".waiting")).to_have_count(0)
            assert findings(page) == [], place
            assert fits(page), place


def test_by_keyboard_alone(house: House, chromium: Browser) -> None:
    """Tab leads to a service in the picture, Enter opens what is around it; the focus follows to a new view."""
    with tab(chromium, ui(house.alpha)) as page:
        page.locator("svg.graph a").first.wait_for()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('svg.graph') !== null"):
                break
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("focus="))
        page.get_by_role("link", name="open it").focus()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()


PICTURES = {
    "mesh": "#/mesh",
    "service": f"#/service/{PETS}",
    "why": f"#/why?url=http://{PETS}/cats&caller={SHOP}&kind=route&pattern={PETS}",
    "agents": "#/agents",
}


def test_pictures_of_the_docs(house: House, chromium: Browser) -> None:
    """docs/dashboard.md shows what it looks like; SHOAL_PICTURES=1 has this test take the pictures anew."""
    folder = Path(__file__).parent.parent.parent / "docs" / "pictures"
    text = (folder.parent / "dashboard.md").read_text()
    for name, place in PICTURES.items():
        picture = folder / f"dashboard-{name}.png"
        if os.environ.get("SHOAL_PICTURES"):
            with tab(chromium, ui(house.alpha, place), size=(1280, 800)) as page:
                expect(page.locator(".waiting")).to_have_count(0)
                page.wait_for_timeout(12_000)
                page.screenshot(path=str(picture))
        assert f"pictures/{picture.name}" in text and picture.stat().st_size > 10_000
