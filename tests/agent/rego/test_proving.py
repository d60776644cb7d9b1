"""Whether Rego compiles, asked of a process that may be killed: places of errors, what OPA would refuse, and bombs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from agent.rego import proving
from agent.rego.proving import Prover, prove
from agent.rego.words import MISSING
from policies.catalogue import parse
from policies.kinds.authz.document import Authz
from policies.language.document import Invalid

AT = '$.rego.modules["x.rego"]'


def proved(*lines: str, **more: Any) -> str:
    """Why a module, or several, are refused; empty: they are not."""
    modules = more.pop("modules", None) or {"x.rego": "\n".join(["package shoal", *lines])}
    text = json.dumps({"rego": {"modules": modules, **more}}).encode()
    found = prove("authz", "lamps.production", parse("authz", "lamps.production", text))
    assert isinstance(found, Authz | Invalid)
    return f"{found.path}: {found.reason}" if isinstance(found, Invalid) else ""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["allow if { input.x == }"], f"{AT}:2:20: no Rego: Invalid boolean operator"),
        (["# é", "allow if { é }"], f"{AT}:3:11: no Rego: Syntax error"),
        (["allow if {", "  foo(1)", "}"], f"{AT}:3:3: foo() is defined nowhere, and is no function that is known here"),
        (["allow if { not x == 1 }"], f"{AT}:2:16: a variable that has no value there (unsafe), so that it would say"),
        (["f(n) := f(n+1)", "allow if { f(1) }"], f"{AT}:2:9: data.shoal.f calls itself"),
        (["allow if { b }", "b if { c }", "c if { b }"], f"{AT}:4:8: data.shoal.b calls itself"),
        (["other if { true }"], "$.rego.query: no module defines data.shoal.allow"),
        (["allow if { opa.runtime().env.PATH }"], f"{AT}:2:12: opa.runtime() tells what this host is"),
        (['allow if { http.send({"url": "http://x"}) }'], f"{AT}:2:12: http.send() asks the network"),
        (['allow if { rand.intn("x", 3) == 1 }'], f"{AT}:2:12: rand.intn() tells what this host is"),
        (
            ['allow if { net.cidr_is_valid("10.0.0.0/8") }'],
            f"{AT}:2:12: net.cidr_is_valid() is defined",
        ),
        (["allow if { data.shoal[input.path] }", "b if true"], f"{AT}:2:12: it comes to CallDynamicStmt"),
        (['allow if { input.path == "\\u0041" }'], f"{AT}:2:26: \\u is not taken for its character; write that"),
    ],
)
def test_what_is_refused(lines: list[str], said: str) -> None:
    """With its place."""
    assert proved(*lines).startswith(said)


@pytest.mark.parametrize(
    "lines",
    [
        ['allow if { input.method == "GET"; startswith(input.path, "/lamps/") }'],
        ["import rego.v1", "default allow := false", "allow if { input.source.service in data.readers }"],
        ["allow if { some r in data.roles[input.source.service]; r == input.claims.role }"],
        ["f(x) := x == 1", "allow if { f(1); every v in input.query { v != 2 } }"],
        ["allow if { not denied }", 'denied if { input.method == "DELETE" }', 'denied if { input.headers["x-a"] }'],
    ],
)
def test_what_is_not(lines: list[str]) -> None:
    """Rego as people write it."""
    assert proved(*lines, data={"readers": ["shop.production"], "roles": {}}) == ""


def test_several_modules() -> None:
    """See each other."""
    modules = {
        "lamps/allow.rego": "package shoal\nimport data.lib\nallow if lib.ok",
        "lib.rego": 'package lib\nok if input.method == "GET"',
    }
    assert proved(modules=modules) == ""
    modules["lib.rego"] = "package lib\nok if input.method =="
    assert proved(modules=modules).startswith('$.rego.modules["lib.rego"]:2:')


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"shoal": {"allow": True}}, "$.rego.data.shoal.allow: the modules define data.shoal.allow"),
        ({"shoal": 1}, "$.rego.data.shoal: the modules define data.shoal.allow"),
        ({"shoal": {"other": True}}, ""),
    ],
)
def test_data_stands_beside_the_modules(data: Any, said: str) -> None:
    """Never in their place."""
    found = proved("allow if { data.x }", data=data)
    assert found.startswith(said) and bool(found) == bool(said)


@pytest.mark.parametrize(
    "bomb",
    [
        "allow := " + "+".join(["1"] * 12000),
        "allow := " + '"a" | ' * 10000 + '"b"',
        "allow := input" + ".a" * 20000,
    ],
    ids=["a sum", "a union", "a path"],
)
def test_a_bomb_is_refused(bomb: str) -> None:
    """And whoever is next is none the worse for it."""
    assert "it took more than compiling may take" in proved(bomb)
    assert proved(f"allow if {{ input.method; {time.monotonic_ns()} > 0 }}") == ""


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document is refused, and says what is missing."""
    monkeypatch.setattr(proving, "find_spec", lambda name: None)
    found = proved(f"allow if {{ {time.monotonic_ns()} > 0 }}")
    assert found == f"$.rego: {MISSING}"


def test_an_evaluator_goes_when_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another comes with the next question."""
    monkeypatch.setattr(proving, "IDLE_S", 0.05)
    document = parse("authz", "a", b'{"rego": {"modules": {"x.rego": "package shoal\\nallow if true"}}}')
    assert isinstance(document, Authz) and document.rego is not None
    prover = Prover()
    assert not prover.ask(document.rego).reason
    process = prover._process
    assert process is not None
    process.wait(60)
    while prover._process is not None:
        time.sleep(0.01)
    assert not prover.ask(document.rego).reason
    prover._end_idle()
