"""What a document may ask for: counted in what stands in it, and refused before it is done: each field of each kind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import BY_NAME, KINDS, parse
from policies.endpoint import Endpoint
from policies.kind import Scope
from policies.kinds.route.decide import compile as compile_route
from policies.language.document import Document, Invalid
from policies.language.matching import linear_regex
from policies.language.plain import MAX_DOCUMENT_BYTES, MAX_VALUES, MAX_YAML_BYTES, Flaw, load
from policies.language.work import MAX_CONDITIONS, MAX_PATTERN, MAX_PATTERNS, unrolled
from tests.policies.expensive import documents

STALL_S = 0.1


def cpu_s(call: Callable[[], Any]) -> float:
    """CPU of this thread, the least of eight: a machine that does other things beside is no slower for it."""
    found = []
    for _ in range(8):
        began = time.thread_time()
        call()
        found.append(time.thread_time() - began)
        if found[-1] < STALL_S:
            break
    return min(found)


def refusal(kind: str, document: Any, key: str = "pets.production") -> str:
    found = parse(kind, key, document if isinstance(document, bytes) else json.dumps(document).encode())
    return f"{found.path}: {found.reason}" if isinstance(found, Invalid) else ""


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS if kind.name != "webhook"])
def test_no_document_of_a_kind_stalls_who_reads_it(kind: str) -> None:
    """Each field as large as its document may be: read or refused within a tenth of a second of CPU. (Webhooks, whose
    templates take longer, are read in a thread, and never by a worker.)"""
    slow = {}
    for name, text in sorted(set(documents(BY_NAME[kind].document))):
        took_s = cpu_s(lambda text=text: parse(kind, "pets.production", text))  # type: ignore[misc]
        if took_s > STALL_S:
            slow[name] = round(took_s, 3)
    assert slow == {}


def texts() -> Iterator[tuple[str, bytes]]:
    """Bytes that are long to read, whatever they say."""
    for size in (MAX_YAML_BYTES - 16, MAX_DOCUMENT_BYTES - 16):
        yield "one text", b"a: " + b"x " * (size // 2 - 2)
        yield "folded", b"a: >\n" + b" x\n\n" * (size // 4 - 2)
        yield "comments", b"#\n" * (size // 2 - 4) + b"a: 1"
        yield "lines", b"a: x" + b"\n" * (size - 8)
        yield "aliases", b"a: &a [x,x]\n" + b"".join(b"b%d: [*a, *a]\n" % n for n in range(size // 18))
        yield "flow", b"a: [" + b"x," * (size // 2 - 4) + b"]"
        yield "braces", b"{a: " * (size // 4)
        yield "brackets", b"[" * size
        yield "questions", b"? " * (size // 2)
        yield "digits", b'{"a": ' + b"1" * (size - 8) + b"}"
        yield "values", b'{"a": [' + b",".join([b"1"] * (min(size // 2, MAX_VALUES) - 8)) + b"]}"
        yield "objects", b'{"a": [' + b",".join([b'{"a":1}'] * (size // 8 - 2)) + b"]}"
        yield "no JSON", b'{"a": [' + b'"x",' * (size // 4 - 3) + b"]}"
        yield "escapes", b'{"a": "' + b"\\u0001" * (size // 6 - 2) + b'"}'


@pytest.mark.parametrize("text", [pytest.param(text, id=f"{name}-{len(text)}") for name, text in texts()])
def test_no_bytes_stall_who_reads_them(text: bytes) -> None:
    """Read or refused; YAML up to a size that its parser reads in one breath."""

    def read() -> None:
        try:
            load(text)
        except Flaw:
            pass

    assert cpu_s(read) < 3 * STALL_S, "three times as long as a worker may take: YAML is only read in a thread"


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("(?:a?){1000}", 1000),
        (".{1000}", 8000),
        (r"\pL{100}", 6000),
        (r"[^a]{1000}", 8000),
        ("((x{10}){10}){10}", 1000),
        ("(?:a|b)*c.{900}", 7000),
        (r"[\pL]{500}", 30_000),
        ("x{1000,}", 1000),
        (")){1000}", 0),
    ],
)  # fmt: skip
def test_repetitions_are_written_out(pattern: str, least: int) -> None:
    """Counted without compiling them."""
    assert unrolled(pattern) >= least


@pytest.mark.parametrize(
    "pattern",
    [
        "/pets/[0-9]+",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        r"v[0-9]{1,3}(\.[0-9]{1,3}){2}",
        ".{1,100}@example[.]com",
        r"(?i)(chrome|firefox)/[0-9]{2,3}",
        "|".join(f"word{n}" for n in range(60)),
    ],
)  # fmt: skip
def test_what_people_write_is_not_too_much(pattern: str) -> None:
    """Ids, versions, alternatives."""
    assert unrolled(pattern) <= MAX_PATTERN
    linear_regex("$", pattern)


@given(st.text(alphabet="a.()[]{}0123456789,|*?+\\pLQE^:$", max_size=80))
def test_the_count_is_never_much_too_low(pattern: str) -> None:
    """Of whatever RE2 takes: its own program has few more steps than were counted."""
    try:
        made = linear_regex("$", pattern)
    except Flaw:
        return
    assert made.programsize <= 16 * unrolled(pattern) + 64


def test_expressions_of_a_document_are_counted_together() -> None:
    """Also a group's, as often as rules name it."""
    regex = {"path": {"regex": "/" + "a?" * 255}}
    assert refusal("route", {"rules": [{"match": regex}] * 30}) == ""
    assert f"more than {MAX_PATTERNS} steps" in refusal("route", {"rules": [{"match": regex}] * 60})
    group = {"groups": {"g": {"header": "x-a", "where": {"regex": "a?" * 255}}}}
    named = {**group, "rules": [{"match": {"groups": ["g"]}}] * 30}
    assert refusal("route", named) == ""
    assert f"more than {MAX_PATTERNS} steps" in refusal(
        "route", {**group, "rules": [{"match": {"groups": ["g"]}}] * 60}
    )


def test_conditions_of_a_document_are_counted_together() -> None:
    """Each may be asked of each request."""
    rule = {"match": {"headers": {f"x-{n}": "1" for n in range(100)}}}
    assert refusal("route", {"rules": [rule] * 40}) == ""
    assert refusal("route", {"rules": [rule] * 41}) == (
        f"$.rules[40].match: more than {MAX_CONDITIONS} conditions on requests in a document"
    )


def test_who_reads_cookies_and_parameters_reads_them_once() -> None:
    """A thousand rules that look at a long query cost about as much as one."""
    import random

    from policies.request import Request

    rules = [{"match": {"query": {f"q{n}": "1"}, "cookies": {f"c{n}": "1"}}} for n in range(1000)]
    document = parse("route", "pets", json.dumps({"rules": rules}).encode())
    assert isinstance(document, Document)
    route = compile_route(document, Scope("pets"))  # type: ignore[arg-type]
    query = "&".join(f"q{n}=0" for n in range(4000))
    cookies = "; ".join(f"c{n}=0" for n in range(4000))
    request = Request("GET", f"/?{query}", {"cookie": cookies})
    assert cpu_s(lambda: route.decide(request, random.Random(1))) < STALL_S


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
@pytest.mark.parametrize("endpoints", [1, 3, 5000])
def test_no_ring_nor_table_stalls_who_draws_it(algorithm: str, endpoints: int) -> None:
    """As large as one may be asked for, with weights of every kind."""
    import random

    from policies.kinds.balance.decide import make

    asked = {"ring_min": 65_536} if algorithm == "ring-hash" else {"table": 65_537}
    text = json.dumps({"algorithm": algorithm, "hash": [{"path": True}], **asked}).encode()
    document = parse("balance", "pets", text)
    assert not isinstance(document, Invalid)
    made = [Endpoint("s", f"e{n}", "127.0.0.1", 80, weight=1 + n % 7) for n in range(endpoints)]

    def draw() -> None:
        make(document, made).pick(1, 0.0, random.Random(1))  # type: ignore[arg-type]

    assert cpu_s(draw) < 2 * STALL_S  # an interpreter takes twice as long as what is shipped, which is compiled


def test_every_kind_is_tried() -> None:
    """A new kind has to be here too."""
    for kind in KINDS:
        assert issubclass(kind.document, msgspec.Struct)
        assert len(list(documents(kind.document))) > 5
