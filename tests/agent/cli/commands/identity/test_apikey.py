"""`shoal apikey new`: what it prints can be put as it stands, and the key that it shows counts by it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from policies.catalogue import parse
from policies.kinds.authn.decide import compile
from policies.kinds.authn.document import Authn
from policies.request import Request


def new(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "agent", "apikey", "new", *words]
    return subprocess.run(program, capture_output=True, text=True, timeout=60)


def test_what_it_prints_is_a_key_and_its_entry() -> None:
    """Another key each time."""
    words = ("ci-2026", "--sub", "ci", "--claim", "tier=gold", "--not-after", "2127-06-01T00:00:00Z")
    key, entry = new(*words).stdout.splitlines()
    document = parse("authn", "lamps", json.dumps({"api_keys": {"keys": [json.loads(entry)]}}).encode())
    assert isinstance(document, Authn)
    assert compile(document).claims(Request(headers={"x-api-key": key}), 1_800_000_000) == {"sub": "ci", "tier": "gold"}
    told = json.loads(new(*words, "--output", "json").stdout)
    assert told["key"] != key and told["entry"]["id"] == "ci-2026" and told["key"] not in json.dumps(told["entry"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("CI",), "'CI' is no id"),
        (("ci", "--not-after", "tomorrow"), "not_after: 'tomorrow' is no time"),
        (("ci", "--not-after", "2020-06-01T00:00:00Z"), "--not-after: 2020-06-01T00:00:00Z is over"),
        (("ci", "--claim", "tier"), "--claim 'tier' is none"),
        (("ci", "--claim", "sub=root"), "--sub says whose it is"),
    ],
)
def test_what_is_wrong_is_said(words: tuple[str, ...], said: str) -> None:
    done = new(*words)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""
