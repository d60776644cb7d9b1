"""A real OPA beside our Rego and our CEL: the same policy, the same inputs, the same decisions. `scripts/interop opa`
builds it; without it these are left out."""

from __future__ import annotations

import json
import os
import random
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.rego.proving import begin
from agent.rego.words import Answered, Ask, Load, Loaded, Reader, Said, encode
from policies.catalogue import parse
from policies.claim import said
from policies.kinds.authz import decide
from policies.kinds.authz.document import Authz
from policies.kinds.authz.input import EVERYTHING, Inputs, untold
from policies.request import Request
from registry.etcd.server import free_port
from tests.support.mesh import until

OPA = os.environ.get("SHOAL_OPA", "")
INPUTS = 1000
pytestmark = pytest.mark.skipif(not OPA, reason="scripts/interop builds a real OPA")

REGO = """
package shoal

default allow := false

allow if {
    input.method == "GET"
    startswith(input.path, "/lamps/")
    input.source.service in data.readers
}

allow if {
    input.method in {"PUT", "POST"}
    input.headers["x-tier"] == "gold"
    not startswith(input.path, "/lamps/closed")
}

allow if {
    input.path == "/list"
    to_number(input.query.limit) <= 100
}
"""
CEL = (
    '(request.method == "GET" && request.path.startsWith("/lamps/") && '
    '(source.service == "shop.production" || source.service == "web.production")) || '
    '((request.method == "PUT" || request.method == "POST") && request.headers["x-tier"] == "gold" && '
    '!request.path.startsWith("/lamps/closed")) || '
    '(request.path == "/list" && int(request.query["limit"]) <= 100)'
)
DATA = {"readers": ["shop.production", "web.production"], "roles": {"shop.production": ["reader", "admin"]}}

# Ways to say things, each beside the others' package.
CORPUS = {
    "some": 'allow if { some role in data.roles[input.source.service]; role == "admin" }',
    "not": "allow if { not denied }\ndenied if { input.claims.sub }\ndenied if { input.headers.accept }",
    "every": 'allow if { every group in input.claims.groups { startswith(group, "g") } }',
    "comprehension": 'allow if { count([g | some g in input.claims.groups; contains(g, "o")]) == 1 }',
    "set": 'allow if { {g | some g in input.claims.groups} & {"gold", "staff"} != set() }',
    "object": 'allow if { object.get(input, ["headers", "x-tier"], "none") != "none" }',
    "function": 'f(x) := 1 if x == "gold"\nf(x) := 2 if x == "silver"\nallow if f(input.headers["x-tier"]) == 1',
    "else": 'n := 3 if { input.claims.sub } else := 2 if { input.headers["x-tier"] } else := 1\nallow if { n >= 2 }',
    "regex": "allow if { regex.match(`^/lamps/[0-9]+$`, input.path) }",
    "glob": 'allow if { glob.match("*.production", ["."], input.source.service) }',
    "segments": 'allow if { input.parsed_path[0] == "lamps"; count(input.parsed_path) == 2 }',
    "split": 'allow if { parts := split(input.path, "/"); parts[1] == "lamps"; to_number(parts[2]) % 2 == 0 }',
    "strings": 'allow if { lower(trim_prefix(input.path, "/")) == "list"; upper(input.method) == "GET" }',
    "sprintf": 'allow if { sprintf("%s:%s", [input.method, input.path]) == "GET:/list" }',
    "with": 'base if { input.method == "GET" }\nallow if { base with input.method as "GET"; input.path == "/list" }',
    "partial": 'names contains g if { some g in input.claims.groups }\nallow if { "gold" in names }',
    "map": "level[name] := n if { some n, name in input.claims.groups }\nallow if { level.gold == 0 }",
    "compare": 'allow if { input.path < "/m"; input.method != "GET" }',
    "default": "default allow := true\nallow := false if { input.claims.sub }",
    "union": 'allow if { object.union({"a": 1}, {"b": 2}).b == 2; json.unmarshal("[1]")[0] == 1; input.claims.sub }',
    "walk": 'allow if { some p, v; walk(input, [p, v]); v == "gold" }',
    "aggregate": "allow if { sum([1 | some g in input.claims.groups]) >= 2; max([1, 2]) == 2 }",
    "whole": 'allow if { "x-tier" in object.keys(input.headers) }',
}


class Evaluated:
    """A policy in an evaluator of its own: the library gets on with no other one of C++ in a process."""

    def __init__(self, source: str, query: str) -> None:
        self._wire, self._process = begin()
        self._reader = Reader(Said)
        self._number = 0
        loaded = self._says(Load(1, {"x.rego": source}, DATA, query))
        assert isinstance(loaded, Loaded) and not loaded.reason, loaded
        self.reads = loaded.reads

    def ask(self, told: Any) -> Answered:
        self._number += 1
        said = self._says(Ask(self._number, 1, told))
        assert isinstance(said, Answered) and said.number == self._number
        return said

    def _says(self, word: Load | Ask) -> Loaded | Answered:
        self._wire.sendall(encode(word))
        while True:
            data = self._wire.recv(64 * 1024)
            assert data, "the evaluator has ended"
            for found in self._reader.feed(data):
                return found  # type: ignore[no-any-return]

    def __enter__(self) -> Evaluated:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()
        self._process.wait(60)


class Asked(NamedTuple):
    request: Request
    input: dict[str, Any]


def inputs(number: int, seed: int) -> list[Asked]:
    chance = random.Random(seed)
    found = []
    while len(found) < number:
        headers = {}
        if chance.random() < 0.6:
            headers["x-tier"] = chance.choice(["gold", "silver", "Gold", "gold "])
        if chance.random() < 0.3:
            headers["accept"] = "text/html"
        path = chance.choice(["/lamps/7", "/lamps/8", "/lamps/closed/7", "/lamps", "/list", "/", "/lamps/x", "/LIST"])
        limit = chance.choice(["", "?limit=7", "?limit=100", "?limit=101", "?limit=x", "?limit=", "?limit=-1", "?a=b"])
        claims = {}
        if chance.random() < 0.5:
            claims["sub"] = chance.choice(["haxor69", "ann"])
        if chance.random() < 0.6:
            claims["groups"] = said(chance.sample(["gold", "staff", "guinea", "ops", "g"], chance.randint(0, 3)))
        caller = chance.choice(["shop.production", "web.production", "web.staging", "shop", ""])
        request = Request(chance.choice(["GET", "PUT", "POST", "DELETE"]), path + limit, headers, caller, claims)
        every = Inputs(EVERYTHING)
        told = every.document(every.values(request, "lamps.production"))
        assert not untold(told)
        found.append(Asked(request, told))
    return found


@pytest.fixture(scope="module")
def opa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL; with all policies, each in a package of its own."""
    folder: Path = tmp_path_factory.mktemp("opa")
    (folder / "shoal.rego").write_text(REGO)
    for name, rules in CORPUS.items():
        (folder / f"{name}.rego").write_text(f"package corpus.{named(name)}\n{rules}\n")
    (folder / "data.json").write_text(json.dumps(DATA))
    port = free_port()
    command = [OPA, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error", str(folder)]
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until("OPA", lambda: urllib.request.urlopen(f"{url}/health", timeout=5).status == 200)
            yield url
        finally:
            process.terminate()


def named(name: str) -> str:
    """No keyword of Rego's."""
    return f"p_{name}"


def says(url: str, path: str, told: Any) -> bool:
    """What the real one does."""
    body = json.dumps({"input": told}).encode()
    request = urllib.request.Request(f"{url}/v1/data/{path}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read()).get("result") is True


def test_three_say_the_same(opa: str) -> None:
    """A thousand times: our Rego, our CEL, and OPA."""
    document = parse("authz", "a", json.dumps({"rules": [{"allow": "anybody", "when": CEL}]}).encode())
    assert isinstance(document, Authz)
    rules = decide.compile(document)
    counted = {True: 0, False: 0}
    with Evaluated(REGO, "data.shoal.allow") as ours:
        for asked in inputs(INPUTS, 1):
            real = says(opa, "shoal/allow", asked.input)
            answer = ours.ask(asked.input)
            assert answer.allows is real and not answer.failed, (asked.input, answer)
            assert rules.judge(asked.request).allows is real, asked.input
            counted[real] += 1
    assert min(counted.values()) > INPUTS / 10, counted


@pytest.mark.parametrize("name", list(CORPUS))
def test_ways_to_say_things(opa: str, name: str) -> None:
    """Each is understood as OPA does; and what it is found to read is all that counts."""
    package = f"corpus.{named(name)}"
    counted = {True: 0, False: 0}
    with Evaluated(f"package {package}\n{CORPUS[name]}", f"data.{package}.allow") as ours:
        told = Inputs(ours.reads)
        for asked in inputs(100, 2):
            real = says(opa, f"{package.replace('.', '/')}/allow", asked.input)
            answer = ours.ask(asked.input)
            assert answer.allows is real, (asked.input, answer)
            assert ours.ask(told.document(told.values(asked.request, "lamps.production"))).allows is real
            counted[real] += 1
    assert all(counted.values()), counted
