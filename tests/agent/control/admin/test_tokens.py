"""People who show an agent's API a token: who counts as whom, by what its issuer wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.control.admin.tokens import TokenPeople, Unknown
from agent.identity.verdict import Refused, Visitor
from agent.settings.document import Oidc
from agent.settings.file import SettingsError, parse
from policies.kinds.authn.keyring import Keyring
from tests.policies.kinds.authn.test_authn import ATTACKS, EC, NOW, signed

URL = "https://login/jwks"
WHOLE = 'issuer = "https://i"\naudiences = ["a"]\nview = ["a"]\n'
LOGIN = f'{WHOLE}client_id = "a"\nredirect = "https://a:15443"\n'
BASE: dict[str, Any] = {"issuer": "https://login", "audiences": ("lamps",), "jwks_url": URL}


def people(now_s: float = NOW, keys: bool = True, **oidc: Any) -> TokenPeople:
    keyring = Keyring()
    if keys:
        keyring.put(URL, [EC.as_dict(private=False)])
    roles = {"view": ("dev",), "tap": ("on-call",), "operate": ("sre",), **oidc}
    return TokenPeople(Oidc(**{**BASE, **roles}), keyring, lambda: now_s)


def seen(people: TokenPeople, claims: dict[str, Any] | None = None, scheme: str = "Bearer ") -> Any:
    return people.visitor(f"{scheme}{signed(claims)}")


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["dev"], "view"),
        (["sre", "x"], "operate"),
        ("sre", "operate"),
        (["dev", "sre"], "operate"),
        (["on-call", "dev"], "tap"),
        (["on-call", "sre"], "operate"),
        ([], ""),
        (["SRE", "sre ", "dev,sre"], ""),
        ('["sre"]', ""),
        ([["sre"]], ""),
        ({"sre": True}, ""),
        (None, ""),
        (7, ""),
    ],
)
def test_a_role_is_what_the_claim_says_as_its_issuer_wrote_it(groups: Any, role: str) -> None:
    """To the letter; a text that looks like a list is a text."""
    found = seen(people(), {"groups": groups})
    if role:
        assert isinstance(found, Visitor) and (found.person, found.role) == ("oidc:ann", role)
        assert (found.operates, found.taps) == (role == "operate", role != "view")
    else:
        assert isinstance(found, Refused) and "ann has nothing in groups" in found.reason


def test_the_claim_may_be_inside_of_another_and_anybody_may_look() -> None:
    """As Keycloak has it; `*` is whoever has a token that counts."""
    inside = {"realm": {"roles": ["sre"]}}
    assert seen(people(claim=("realm", "roles")), inside).operates
    assert isinstance(seen(people(claim="realm.roles"), inside), Refused)
    assert isinstance(seen(people(claim=("realm", "roles", "x")), inside), Refused)
    anybody = seen(people(view=("*",), operate=()))
    assert isinstance(anybody, Visitor) and not anybody.operates


@pytest.mark.parametrize("name", [None, "", 7, ["a"], "a" * 201, "a\nb", "\u202egnp"])
def test_who_has_no_name_that_a_log_could_show_is_nobody(name: Any) -> None:
    assert isinstance(seen(people(), {"sub": name, "groups": "sre"}), Refused)


def test_a_token_ends_when_it_says() -> None:
    """On the next request, though it counted a moment ago; clocks may differ by five seconds."""
    now = [float(NOW)]
    keyring = Keyring()
    keyring.put(URL, [EC.as_dict(private=False)])
    found = TokenPeople(Oidc(**BASE, operate=("*",)), keyring, lambda: now[0])
    token = f"Bearer {signed({'exp': NOW + 10})}"
    assert isinstance(found.visitor(token), Visitor)
    now[0] = NOW + 14.9
    assert isinstance(found.visitor(token), Visitor)
    now[0] = NOW + 15
    refused = found.visitor(token)
    assert isinstance(refused, Refused) and "has expired" in refused.reason
    keyring.put(URL, [])
    assert isinstance(found.visitor(f"Bearer {signed()}"), Refused)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_gets_in(attack: str) -> None:
    """By the very code that judges requests."""
    for scheme in ("Bearer ", "bearer ", "Bearer   "):
        assert isinstance(people(view=("*",)).visitor(f"{scheme}{ATTACKS[attack]}"), Refused)
    assert isinstance(people(view=("*",)).visitor(f"Bearer  {signed()}  "), Visitor)


def test_who_shows_nothing_is_told_what_to_show() -> None:
    for shown in (None, "", "Basic YTpi", "Negotiate x"):
        refused = people().visitor(shown)
        assert isinstance(refused, Refused) and "shoal login" in refused.reason
    assert isinstance(people(keys=False).visitor(f"Bearer {signed()}"), Unknown)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('claim = "roles"', "people.oidc.issuer: missing"),
        ('issuer = "https://i"\nview = ["a"]', "people.oidc.audiences: missing"),
        ('issuer = "https://i"\naudiences = ["a"]', "people.oidc: lets nobody in"),
        ('issuer = "login"\naudiences = ["a"]\nview = ["a"]', "people.oidc.issuer: no URL"),
        ('issuer = "i"\njwks_url = "x"\naudiences = ["a"]\nview = ["a"]', "people.oidc.jwks_url: no URL"),
        ('issuer = "https://i"\naudiences = ["a"]\nview = ["a"]\nalgorithms = ["HS256"]', "'HS256' is none of"),
        ('issuer = "https://i"\naudiences = ["a"]\nview = ["a"]\nclaim = []', "people.oidc.claim: the name of a claim"),
        ('issuer = "https://i"\naudiences = ["a"]\nview = ["a"]\nname = ""', "people.oidc.name: the name of a claim"),
        (f'{WHOLE}redirect = "https://a"', "people.oidc.client_id: missing"),
        (f'{WHOLE}client_id = "b"', "people.oidc.audiences: has to name b"),
        (f'{WHOLE}client_id = "a"', "people.oidc.redirect: how browsers call"),
        (f'{WHOLE}client_id = "a"\nredirect = "http://a"', "people.oidc.redirect: how browsers call"),
        (f'{WHOLE}client_id = "a"\nredirect = "https://a/x"', "people.oidc.redirect: how browsers call"),
        (f'{WHOLE}client_id = "a"\nredirect = "https://u:p@a"', "people.oidc.redirect: how browsers call"),
        (f'{LOGIN}client_secret_file = "secret"', "people.oidc.client_secret_file: a whole path"),
        (f'{LOGIN}scopes = ["groups"]', "people.oidc.scopes: has to name openid"),
        (f'{LOGIN}scopes = ["openid", "a b"]', "people.oidc.scopes: words such as"),
    ],
)
def test_settings_that_would_let_nobody_or_everybody_in_are_refused(lines: str, said: str) -> None:
    """With the line."""
    text = f'[people]\nlisten = "127.0.0.1:15443"\n[people.oidc]\n{lines}\n'
    with pytest.raises(SettingsError) as refused:
        parse(text, "agent.toml")
    assert said in str(refused.value) and "agent.toml:" in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('listen = "127.0.0.1:1"\nnames = ["mesh.corp.example:15443"]', "people.names[0]: a name without a port"),
        ('listen = "127.0.0.1:1"\nnames = ["a.example", "10.0.0.1"]', "people.names[1]: a name"),
        ('listen = "127.0.0.1:1"\nnames = ["*.corp.example"]', "people.names[0]: a name"),
        ('listen = "127.0.0.1:1"\ncertificate = "/a.pem"', "people.names: missing"),
        ('listen = "127.0.0.1:1"\nkey = "/a.key"', "people.certificate: missing"),
        ('listen = "127.0.0.1:1"\nnames = ["a.example"]\ncertificate = "a.pem"', "people.certificate: a whole path"),
        ('names = ["mesh.corp.example"]', "people.names: nobody could call the agent so"),
    ],
)
def test_names_for_browsers_that_are_none(lines: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(f"[people]\n{lines}\n", "agent.toml")
    assert said in str(refused.value)


def test_tokens_want_a_port() -> None:
    whole = '[people.oidc]\nissuer = "https://i"\naudiences = ["a"]\nview = ["a"]\n'
    with pytest.raises(SettingsError) as refused:
        parse(whole, "agent.toml")
    assert "people.listen says where" in str(refused.value)
    found = parse(f'[people]\nlisten = "127.0.0.1:15443"\n{whole}', "agent.toml")
    assert found.people.oidc.path == ("groups",) and json.dumps(found.people.oidc.algorithms) == '["RS256", "ES256"]'
