from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.kinds.shadow.answer import Answer
from policies.kinds.shadow.comparison import (
    MAX_FIELDS,
    Compiled,
    Example,
    Field,
    Tally,
    _tail,
    judge,
    merge,
    note,
    observe,
    outcome,
    trimmed,
)
from policies.kinds.shadow.difference import MAX_DIFFERENCES, Comparer, Difference, Parsed
from policies.kinds.shadow.document import Compare, Place, Thresholds
from policies.kinds.shadow.fieldpath import FieldSet, field_name, parse_field, step

JSON = ("content-type", "application/json")


def rules(**fields: Any) -> Compiled:
    return Compiled(Compare(candidate=Place(version="v2"), primary="v1", **fields))


def answer(body: Any = None, status: int = 200, headers: tuple[tuple[str, str], ...] = (JSON,), **more: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, headers, raw, **more)


def found(left: Answer, right: Answer, **fields: Any) -> dict[str, tuple[str, str]]:
    different = Comparer(**fields).differences(Parsed(left), Parsed(right))
    return {name: (difference.left, difference.right) for name, difference in different.items()}


# What differs.


@pytest.mark.parametrize(
    ("left", "right", "fields"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {}),
        ({"a": 1}, {"a": 1.0}, {}),
        ({"a": 1}, {"a": True}, {"$.a": ("1", "true")}),
        ({"a": 0}, {"a": False}, {"$.a": ("0", "false")}),
        ({"a": None}, {}, {"$.a": ("null", "(none)")}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, {"$.a.b": ("1", "2")}),
        ({"a": {"b": 1, "c": 2}}, {}, {"$.a": ("an object of 2", "(none)")}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"$.a[*]": ("2", "3")}),
        ({"a": [1, 2]}, {"a": [1]}, {"$.a": ("a list of 2", "a list of 1")}),
        ({"items": [{"p": 1}, {"p": 2}]}, {"items": [{"p": 5}, {"p": 6}]}, {"$.items[*].p": ("2", "6")}),
        ({"u": {"17": 1}}, {"u": {"17": 2}}, {"$.u.*": ("1", "2")}),
        ({"a b": 1}, {"a b": 2}, {'$["a b"]': ("1", "2")}),
        ([], {}, {"$": ("a list of 0", "an object of 0")}),
        ("x\ny", "x\nz", {"$": (r"x\ny", r"x\nz")}),
        ({"a": "1"}, {"a": 1}, {"$.a": ("1", "1")}),
    ],
)
def test_json_is_compared_by_place(left: Any, right: Any, fields: dict[str, tuple[str, str]]) -> None:
    """As JSON and not as text; where the difference is, and not all that is below."""
    assert found(answer(left), answer(right)) == fields


@pytest.mark.parametrize(
    ("left", "right", "fields"),
    [
        (answer(b"abc", headers=()), answer(b"abc", headers=()), set()),
        (answer(b"abc", headers=()), answer(b"abd", headers=()), {"body"}),
        (answer(b'{"a": 1}'), answer(b'{"a": 1'), {"body"}),
        (answer(b'{"a":1}'), answer(b'{ "a" : 1 }'), set()),
        (answer(b"abc", truncated=True), answer(b"abcd", truncated=True), set()),
        (answer(b"abc", truncated=True), answer(b"abc"), {"body"}),
        (answer({}, 200), answer({}, 201), {"status"}),
        (answer({"a": 1}, 200), answer({"a": 2}, 201), {"status", "$.a"}),
        (answer({"a": 1}, 200), answer({"a": 2}, 500), {"status"}),
        (answer({"a": 1}), answer(b"", 0, (), error="no answer in time"), {"answer"}),
        (answer(b"", 0, (), error="reset"), answer(b"", 0, (), error="refused"), set()),
    ],
)
def test_the_rest_of_an_answer(left: Answer, right: Answer, fields: set[str]) -> None:
    """Other bodies by what they are as a whole; with an error, only that."""
    assert set(found(left, right)) == fields


def test_headers_are_compared_but_for_those_that_follow_from_something_else() -> None:
    """By name in any spelling, several of one name as one."""
    common = [("Date", "a"), ("ETag", "x"), ("Content-Length", "5"), ("X-Request-Id", "1"), ("X-Shoal-Via", "a")]
    left = answer({}, headers=(*common, ("X-Total", "1"), ("vary", "a"), ("Vary", "b"), ("set-cookie", "s=1")))
    right = answer({}, headers=(("x-total", "2"), ("vary", "a, b"), ("x-new", "1"), ("Set-Cookie", "s=2")))
    assert found(left, right) == {
        "headers.set-cookie": ("(redacted)", "(redacted)"),
        "headers.x-new": ("(none)", "1"),
        "headers.x-total": ("1", "2"),
    }


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_looked_into(encoding: str, pack: Any) -> None:
    """But a bomb is not."""
    packed = [
        answer(pack(json.dumps({"a": n, "b": "x"}).encode()), headers=(("content-encoding", encoding),)) for n in (1, 2)
    ]
    assert found(*packed) == {"$.a": ("1", "2")}
    bombs = [answer(pack(b"[" + b" " * 50_000_000 + b"%d]" % n), headers=packed[0].headers) for n in (1, 2)]
    assert set(found(*bombs)) == {"body"}
    broken = [answer(b"\x1f\x8bno gzip%d" % n, headers=packed[0].headers) for n in (1, 2)]
    assert set(found(*broken)) == {"body"}


CATS: list[Any] = [{"id": n, "at": n * 7, "tags": ["a", "b"]} for n in range(3)]
LATER: list[Any] = [{"id": n, "at": n * 7 + 1, "tags": ["b", "a"]} for n in (2, 0, 1)]


@pytest.mark.parametrize(
    ("left", "right", "unordered", "ignore", "fields"),
    [
        ([1, 2, 3], [3, 1, 2], ["$"], [], {}),
        ([1, 2, 3], [3, 1, 2], [], [], {"$[*]": ("3", "2")}),
        ([1, 1, 2], [1, 2, 2], ["$"], [], {"$[*]": ("1", "2")}),
        ([1, 1, 2], [2, 1], ["$"], [], {"$": ("a list of 3", "a list of 2")}),
        ([1.0, 2, True], [True, 2.0, 1], ["$"], [], {}),
        ([1, True], [1, 1], ["$"], [], {"$[*]": ("true", "1")}),
        ({"a": [1, 2], "b": [1, 2]}, {"a": [2, 1], "b": [2, 1]}, ["$.a"], [], {"$.b[*]": ("2", "1")}),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}, ["$.a"], [], {"$.a.b[*]": ("2", "1")}),
        ({"x": [1, 2], "y": [3, 4]}, {"x": [2, 1], "y": [4, 3]}, ["$.*"], [], {}),
        ([[1, 2], [3]], [[3], [2, 1]], ["$", "$[*]"], [], {}),
        ([[1, 2], [3]], [[2, 1], [3]], ["$[*]"], [], {}),
        (CATS, LATER, ["$", "$[*].tags"], ["$[*].at"], {}),
        (CATS, LATER, ["$"], ["$[*].at", "$[*].tags"], {}),
        (CATS, [*LATER[:2], {**LATER[2], "id": 9}], ["$", "$[*].tags"], ["$[*].at"], {"$[*].id": ("1", "9")}),
        ({"a": [1, 2]}, {"a": {"b": 1}}, ["$.a"], [], {"$.a": ("a list of 2", "an object of 1")}),
    ],
)
def test_lists_whose_order_says_nothing(
    left: Any, right: Any, unordered: list[str], ignore: list[str], fields: dict[str, tuple[str, str]]
) -> None:
    """Multisets, at exactly the places that are named; what is ignored tells none apart; what is left is paired."""
    assert found(answer(left), answer(right), unordered=unordered, ignore=ignore) == fields


@pytest.mark.parametrize("size", [20_000, 30_000])
def test_what_is_too_much_to_put_in_order_is_compared_as_a_whole(size: int) -> None:
    """No more values are looked at than without."""
    one, other = list(range(size)), list(range(size))[::-1]
    assert found(answer(one), answer(other), unordered=["$"]) == {"$": (f"a list of {size}", f"a list of {size}")}
    assert found(answer(one), answer(list(one)), unordered=["$"]) == {}
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    assert found(answer([deep, 1]), answer([2, deep]), unordered=["$"])


def test_what_is_ignored_and_what_is_never_shown() -> None:
    """By the very names that are reported, with all below them."""
    left = answer({"at": 1, "user": {"name": "Ann", "mail": "a@x"}, "m": {"k": 1}, "items": [{"id": 1, "p": 1}]})
    right = answer({"at": 2, "user": {"name": "Bob", "mail": "b@x"}, "m": {"k": 2}, "items": [{"id": 2, "p": 2}]})
    assert found(left, right, ignore=["$.at", "$.items[*].id", "$.m.*"], redact=["$.user"]) == {
        "$.user.name": ("(redacted)", "(redacted)"),
        "$.user.mail": ("(redacted)", "(redacted)"),
        "$.items[*].p": ("1", "2"),
    }
    assert found(left, right, ignore=["$"]) == {}
    whole = found(answer({"user": {"mail": "a@x"}}), answer({"user": "b@x"}), redact=["$.user"])
    assert whole == {"$.user": ("(redacted)", "(redacted)")}
    assert "a@x" not in str(found(answer({"user": {"mail": "a@x"}}), answer({}), redact=["$.user.mail"]))
    assert found(answer({}, 200), answer({}, 404), ignore=["status"]) == {}


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@example(["\x1f\x07" * 20] * 3)
@given(
    st.lists(st.one_of(st.just("[*]"), st.just("*"), NAMES.filter(lambda name: name not in ("*", "[*]"))), max_size=4)
)
def test_what_is_reported_can_be_written_into_a_document(steps: list[str]) -> None:
    """The name of a place is read as that place."""
    taken = tuple(one if one in ("[*]", "*") else step(one) for one in steps)
    assert FieldSet([field_name(taken)]).covers(("$", *taken))
    read = parse_field(field_name(taken))
    assert read == ("$", *taken)[: len(read)]
    assert len(read) == len(taken) + 1 or len(field_name(taken)) > 100, "only what is long is cut"


HOSTILE = [
    b"[" * 100_000,
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"NaN",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": 1, "a": 2}',
    b"[" + b"9" * 5000 + b"]",
    b'{"a": "\\ud800"}',
    b'{"a": "\xff"}',
    b"{" + b",".join(b'"k%dx": %d' % (n, n) for n in range(60_000)) + b"}",
    b"{" + b",".join(b'"k%dx": %d' % (n, n + 1) for n in range(60_000)) + b"}",
    b"[" + b"1," * 400_000 + b"1]",
    b"[" + b"2," * 400_000 + b"1]",
    b'{"%s": 1}' % (b"x" * 500_000),
    b"",
    b"\0" * 1000,
]


@pytest.mark.parametrize("left", range(len(HOSTILE)))
def test_hostile_bodies_do_no_harm(left: int) -> None:
    """Against each other: an answer, of bounded size."""
    for right in HOSTILE:
        fields = found(answer(HOSTILE[left]), answer(right))
        assert len(fields) <= MAX_DIFFERENCES
        assert all(len(name) <= 300 and len(a) <= 160 and len(b) <= 160 for name, (a, b) in fields.items())
    assert found(answer(HOSTILE[left]), answer(HOSTILE[left])) == {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(VALUES, max_size=6), st.randoms(use_true_random=False))
def test_a_shuffled_list_is_the_same(values: list[Any], rng: Any) -> None:
    """Whatever it holds; and one more or one other of its elements is a difference."""
    shuffled = list(values)
    rng.shuffle(shuffled)
    assert found(answer(values), answer(shuffled), unordered=["$"]) == {}
    assert found(answer(values), answer([*shuffled, "more"]), unordered=["$"]).keys() >= {"$"}
    if values:
        assert found(answer(values), answer([*shuffled[1:], "another one"]), unordered=["$"])


@settings(max_examples=50)
@given(VALUES, VALUES)
def test_something_differs_when_the_values_do(left: Any, right: Any) -> None:
    """In either direction the same fields, and nothing between a value and itself."""
    there, back = found(answer(left), answer(right)), found(answer(right), answer(left))
    assert set(there) == set(back)
    assert found(answer(left), answer(left)) == {}
    if not there:
        assert left == right


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_a_body(left: bytes, right: bytes) -> None:
    """Whatever they are."""
    assert found(answer(left), answer(left)) == {}
    found(answer(left, headers=(("content-encoding", "gzip"),)), answer(right))


# What counts.


class Build:
    """A service with noise: a time of one-second steps, an id, a list in any order, and now and then a failure."""

    def __init__(self, rng: random.Random, **changed: Any) -> None:
        self._rng = rng
        self._changed = changed

    def answer(self, number: int, now: float) -> Answer:
        rng = self._rng
        tags = ["a", "b", "c"]
        rng.shuffle(tags)
        body = {
            "id": f"{rng.getrandbits(64):016x}",
            "at": int(now + rng.random() * 0.05),
            "tags": tags,
            "served": rng.choice(["one", "two"]),
            "rare": rng.random() < 0.0005,
            "seldom": rng.random() < 0.005,
            "pets": [{"name": f"pet {number}", "price": number * 2} for _ in range(3)],
            **self._changed,
        }
        status = 503 if rng.random() < 0.001 else 200
        headers = (JSON, ("date", str(int(now))), ("x-served-by", rng.choice("ab")), ("set-cookie", str(rng.random())))
        return answer(body, status, headers, latency_s=0.01 + rng.random() / 100)


def tallied(primary: Build, secondary: Build, candidate: Build, count: int, **fields: Any) -> Tally:
    tally, mine = Tally(), rules(**fields)
    for n in range(count):
        now = n * 0.013
        three = [build.answer(n, now) for build in (primary, secondary, candidate)]
        observe(tally, mine, f"GET /pets/{n}", str(n), *three)
    return tally


@pytest.mark.parametrize("seed", range(3))
def test_two_equal_builds_have_no_regression(seed: int) -> None:
    """Over 10,000 requests, with noise from dates, ids, orders, and events of all rarities."""
    rng = random.Random(seed)
    tally = tallied(Build(rng), Build(rng), Build(rng), 10_000)
    assert tally.total == 10_000
    assert {"$.id", "$.at", "$.tags[*]", "$.served", "$.rare", "headers.x-served-by", "status"} <= set(tally.fields)
    assert [verdict.field for verdict in judge(tally, Thresholds()) if verdict.regression] == []
    assert outcome(tally, Thresholds()) == "equal"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"price": 1}, "$.price"),
        ({"pets": [{"name": "x", "price": 1}] * 4}, "$.pets"),
        ({"served": "three"}, "$.served"),
    ],
)
def test_one_changed_field_is_reported_and_no_other(changed: dict[str, Any], field: str) -> None:
    """Also one that is noisy anyway, once it differs more than it did."""
    rng = random.Random(3)
    tally = tallied(Build(rng), Build(rng), Build(rng, **changed), 3000)
    verdicts = [verdict for verdict in judge(tally, Thresholds()) if verdict.regression]
    assert field in [verdict.field for verdict in verdicts]
    assert all(verdict.field.startswith(field) for verdict in verdicts)
    assert outcome(tally, Thresholds()) == "regression"
    assert verdicts[0].examples and verdicts[0].examples[0].request.startswith("GET /pets/")


@pytest.mark.parametrize(
    ("raw", "noise", "both", "total", "regression"),
    [
        (100, 0, 0, 1000, True),
        (0, 100, 0, 1000, False),
        (100, 100, 100, 1000, False),
        (1000, 700, 0, 100_000, False),  # relative 17.6%
        (1000, 600, 0, 100_000, True),  # relative 25%
        (29, 0, 0, 100_000, False),  # absolute 0.029%
        (31, 0, 0, 100_000, True),
        (9, 0, 0, 1000, False),  # luck: 1 in 512
        (10, 0, 0, 1000, True),
        (100, 0, 0, 99, False),  # too few requests
        (5, 1, 0, 1000, False),
        (600, 300, 300, 1000, True),
    ],
)
def test_the_law(raw: int, noise: int, both: int, total: int, regression: bool) -> None:
    """Raw beyond noise, relatively and absolutely, and not by luck."""
    tally = Tally(total=total, fields={"$.a": Field(raw, noise, both)})
    (verdict,) = judge(tally, Thresholds())
    assert verdict.regression is regression
    assert outcome(tally, Thresholds()) == ("unknown" if total < 100 else "regression" if regression else "equal")


def test_thresholds_can_be_set() -> None:
    """Each of them."""
    tally = Tally(total=1000, fields={"$.a": Field(6, 1, 0)})
    lax = Thresholds(luck_percent=100, min_requests=1)
    assert outcome(tally, lax) == "regression"
    for stricter in ({"relative_percent": 72}, {"absolute_percent": 0.6}, {"luck_percent": 1}):
        assert outcome(tally, msgspec.structs.replace(lax, **stricter)) == "equal"
    assert outcome(tally, msgspec.structs.replace(lax, min_requests=1001)) == "unknown"


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_luck_is_a_chance(heads: int, tails: int) -> None:
    """Between nothing and certainty, and smaller the more of them fell to the candidate."""
    assert 0 <= _tail(heads + 1, tails) <= _tail(heads, tails) + 1e-3
    assert _tail(heads, tails) <= 1


def test_a_candidate_that_fails_is_one_finding() -> None:
    """Not one for each of its fields; and what it did not say is no noise either."""
    rng = random.Random(5)
    good, tally, mine = Build(rng), Tally(), rules()
    for n in range(500):
        bad = Answer(error="no answer in time") if n % 2 else answer({"error": "oh"}, 500)
        observe(tally, mine, "GET /", str(n), good.answer(n, n), good.answer(n, n), bad)
    regressions = [verdict.field for verdict in judge(tally, Thresholds()) if verdict.regression]
    assert sorted(regressions) == ["answer", "status"]


# Bounds.


def test_a_tally_is_bounded() -> None:
    """In fields and examples; what has no room is counted."""
    tally = Tally(max_samples=2)
    for n in range(3000):
        note(tally, "GET /" + "x" * 1000, str(n), {f"$.f{n}": Difference(f"$.f{n}", "1", "2")}, {})
        note(tally, "GET /", f"a{n}", {"$.f0": Difference("$.f0", "1", "2")}, {})
    assert len(tally.fields) == MAX_FIELDS
    assert tally.omitted == 2000
    assert (tally.fields["$.f0"].raw, len(tally.fields["$.f0"].examples)) == (3001, 2)
    assert all(len(example.request) <= 160 for field in tally.fields.values() for example in field.examples)


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    """The worst fields stay, each with an example; a tally that fits stays as it is."""
    tally = Tally(total=10)
    for n in range(900):
        name = f"$.field{n}"
        example = Example(n, "GET /" + "x" * 100, "a" * 100, "b" * 100)
        tally.fields[name] = Field(n, 1, 0, [example] * 3)
    small = trimmed(tally, 60_000)
    assert len(msgspec.json.encode(small)) <= 60_000
    assert "$.field899" in small.fields and "$.field0" not in small.fields
    assert small.omitted == sum(f.raw + 1 for name, f in tally.fields.items() if name not in small.fields)
    assert trimmed(tally, 10_000_000) is tally
    assert trimmed(tally, 10).fields == {}


def test_the_latencies_of_each_role() -> None:
    """As medians, within 5%; of none there is none."""
    tally = Tally()
    for n in range(101):
        three = [answer({}, latency_s=latency) for latency in (n / 1000, 0.5, 20.0)]
        observe(tally, rules(), "GET /", str(n), *three)
    medians = [tally.median_s(role) for role in ("primary", "secondary", "candidate")]
    assert medians == [pytest.approx(value, rel=0.05) for value in (0.05, 0.5, 20.0)]
    assert Tally().median_s("primary") is None


# Adding up.

COUNT = st.integers(0, 50)
EXAMPLES = st.lists(
    st.builds(Example, st.integers(0, 99), st.sampled_from("ab"), st.just("1"), st.just("2")), max_size=3
).map(sorted)
TALLIES = st.builds(
    Tally,
    total=COUNT,
    skipped=st.dictionaries(st.sampled_from(["x", "y"]), COUNT),
    fields=st.dictionaries(
        st.sampled_from(["status", "$.a", "$.b[*]"]), st.builds(Field, COUNT, COUNT, COUNT, EXAMPLES), max_size=3
    ),
    omitted=COUNT,
    latency=st.dictionaries(st.sampled_from(["primary", "candidate"]), st.dictionaries(st.integers(0, 5), COUNT)),
)


@settings(max_examples=200)
@given(TALLIES, TALLIES, TALLIES)
def test_tallies_add_up(a: Tally, b: Tally, c: Tally) -> None:
    """In any order and grouping; nothing is nothing; and what arrives is what was sent."""
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, Tally()) == a
    assert msgspec.json.decode(msgspec.json.encode(a), type=Tally) == a


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=30), st.integers(0, 30))
def test_two_tallies_are_what_one_would_have_been(seen: list[tuple[str, bool, bool]], cut: int) -> None:
    """Wherever the requests were divided, examples included."""

    def of(part: list[tuple[int, tuple[str, bool, bool]]]) -> Tally:
        tally = Tally()
        for n, (name, raw, noise) in part:
            difference = {name: Difference(name, "1", "2")}
            note(tally, f"GET /{n}", str(n), difference if raw else {}, difference if noise else {})
        return tally

    numbered = list(enumerate(seen))
    assert merge(of(numbered[:cut]), of(numbered[cut:])) == of(numbered)
