"""SPIFFE ids are read strictly: one name, one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.spiffe import MAX_HOST, PERSON_USER, SpiffeId, agent_id, parse_id, person_id, service_id

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
SERVICES = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
DOMAINS = st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True)
HOSTS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", fullmatch=True)


@given(DOMAINS, SERVICES)
def test_a_service_comes_back(domain: str, service: str) -> None:
    """What is written is read as the same, and says which service it is."""
    made = service_id(domain, service)
    assert parse_id(str(made)) == made
    assert (made.service, made.host) == (service, "")


@given(DOMAINS, HOSTS)
def test_an_agent_comes_back(domain: str, host: str) -> None:
    """So does an agent's."""
    made = agent_id(domain, host)
    assert parse_id(str(made)) == made
    assert (made.service, made.host) == ("", host)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"spiffe://default.shoal/{text}"))
def test_one_spelling(text: str) -> None:
    """Whatever is read is said again letter by letter; everything else is refused with words."""
    try:
        found = parse_id(text)
    except ValueError as error:
        assert str(error)
    else:
        assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pets.production",
        "https://default.shoal/svc/pets",
        "SPIFFE://default.shoal/svc/pets",
        "spiffe:default.shoal/svc/pets",
        "spiffe:///svc/pets",
        "spiffe://Default.shoal/svc/pets",
        "spiffe://default.shoal:443/svc/pets",
        "spiffe://me@default.shoal/svc/pets",
        "spiffe://default.shoal/",
        "spiffe://default.shoal/svc/pets/",
        "spiffe://default.shoal//svc/pets",
        "spiffe://default.shoal/svc/../agent/web-1",
        "spiffe://default.shoal/svc/./pets",
        "spiffe://default.shoal/svc/pets?x=1",
        "spiffe://default.shoal/svc/pets#x",
        "spiffe://default.shoal/svc/p%65ts",
        "spiffe://default.shoal/svc/pets\n",
        "spiffe://default.shoal/svc/pets\0.evil",
        "spiffe://default.shoal/svc/Pets",
        "spiffe://default.shoal/svc/pets/production",
        "spiffe://default.shoal/svc/a.b.c.d.e.f",
        "spiffe://default.shoal/agent/",
        "spiffe://default.shoal/agent/-web",
        "spiffe://default.shoal/agent/web-1/admin",
        "spiffe://d\u00e9fault.shoal/svc/pets",
        "spiffe://default.shoal/" + "a" * 2048,
    ],
)
def test_what_is_no_id(text: str) -> None:
    """Upper case, ports, users, dots, empty parts, queries, escapes, and services spelled otherwise."""
    with pytest.raises(ValueError, match=r"."):
        parse_id(text)


def test_another_domains_path_is_neither_service_nor_agent() -> None:
    """It may be anything that the standard allows."""
    found = parse_id("spiffe://partner.example/ns/shop/sa/web")
    assert found == SpiffeId("partner.example", "/ns/shop/sa/web")
    assert (found.service, found.host) == ("", "")
    assert parse_id("spiffe://partner.example/svcs/x").service == ""


@pytest.mark.parametrize("name", ["ada", "a", "ada.lovelace", "on-call_2", "root", "web-1", "a" * 57])
def test_a_person_is_nothing_else(name: str) -> None:
    """Neither a service nor an agent of that name; and etcd's user of it is no host's, since that has no colon."""
    found = parse_id(str(person_id("default.shoal", name)))
    assert (found.person, found.service, found.host, found.member) == (name, "", "", False)
    assert len(PERSON_USER + name) <= MAX_HOST, "it fits into a common name"
    with pytest.raises(ValueError, match="cannot be proven"):
        agent_id("default.shoal", PERSON_USER + name)


@pytest.mark.parametrize(
    "name", ["", "Ada", "ada@corp", "ada/x", ".ada", "ada-", "a" * 58, "ada\n", "\u00e4", "a:b", "*"]
)
def test_a_name_that_is_no_persons(name: str) -> None:
    """Refused, also in a certificate: one name has one spelling."""
    with pytest.raises(ValueError, match=r"."):
        person_id("default.shoal", name)
    with pytest.raises(ValueError, match=r"."):
        parse_id(f"spiffe://default.shoal/person/{name}")


@pytest.mark.parametrize("path", ["/person", "/people/ada", "/svc/person", "/agent/person", "/x/person/ada"])
def test_a_path_that_looks_like_a_persons(path: str) -> None:
    """Is none."""
    assert not parse_id(f"spiffe://default.shoal{path}").person
