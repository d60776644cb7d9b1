"""A provider that is not ours, and a browser that is real."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from tests.support.browser import browser as chromium

from .conftest import Doors, begun, browser


def test_a_provider_of_pypi(office: Doors, provider: str) -> None:
    """oidc-provider-mock: its own form is filled in, as a person would."""
    with browser(office, office.second_port) as ann:
        place, asked = begun(ann)
        assert place.startswith(f"{provider}/oauth2/authorize?") and asked["scope"] == "openid profile"
        agreed = httpx.post(place, data={"sub": "ann"}, trust_env=False)
        assert agreed.status_code == 302, agreed.text
        back = urlsplit(agreed.headers["location"])
        answer = ann.get(f"{back.path}?{back.query}")
        assert answer.status_code == 303, answer.text
        me = ann.get("/api/v1/me").json()
        assert (me["who"], me["role"]) == ("person oidc:ann", "operate")
        assert ann.get(f"{back.path}?{back.query}").status_code == 403, "once"


def test_a_real_browser_logs_in_at_another_site_and_comes_back(office: Doors, provider: str) -> None:
    """With cookies as browsers send them: the page has its login, also where a link of another site leads to it; that
    site's own requests have none of it; and out."""
    agent = f"https://localhost:{office.second_port}"
    who = "fetch('/api/v1/me').then(r => r.json()).then(me => me.who)"
    evil = (
        f"fetch('{agent}/api/v1/me', {{credentials: 'include', mode: 'no-cors'}}).then(() => 'read', () => 'refused')"
    )
    with chromium() as found:
        context = found.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(f"{agent}/ui/login")
        assert page.url.startswith(f"{provider}/oauth2/authorize?")
        page.locator("input[name=sub][type=text]").fill("ann")
        page.locator("input[name=sub][type=text]").press("Enter")
        page.wait_for_url(f"{agent}/ui/**")
        assert page.evaluate(who) == "person oidc:ann"
        assert page.evaluate("document.cookie") == ""
        page.goto(f"{provider}/")
        assert page.evaluate(evil) == "refused"
        page.evaluate(f"location.href = '{agent}/ui/'")
        page.wait_for_url(f"{agent}/ui/**")
        assert page.evaluate(who) == "person oidc:ann"
        assert page.evaluate("fetch('/ui/logout', {method: 'POST'}).then(r => r.status)") == 204
        assert page.evaluate(who) == ""
        context.close()
