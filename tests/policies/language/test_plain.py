"""Text to plain data: what is accepted, what is refused, and that nothing else can happen."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.language.plain import MAX_DOCUMENT_BYTES, MAX_VALUES, Flaw, below, load


def objects(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | text
    plain = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
    )
    return st.dictionaries(text, plain, max_size=4)


def refused(text: bytes) -> str:
    with pytest.raises(Flaw) as caught:
        load(text)
    return str(caught.value)


@given(objects(st.text(max_size=12)), st.booleans())
def test_json_reads_as_it_was_written(value: dict[str, Any], ascii_only: bool) -> None:
    """Whatever JSON can hold comes back the same."""
    assert load(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(objects(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=12)))
def test_block_yaml_reads_as_json_does(value: dict[str, Any]) -> None:
    """Fields on lines of their own, their values in flow style, mean what JSON means."""
    text = "".join(f"{json.dumps(name)}: {json.dumps(inner)}\n" for name, inner in value.items())
    assert load(b"---\n" + text.encode()) == (value or None)


@given(st.binary(max_size=200) | st.text("{}[]:,&*!|>-?#'\"% \nabon019.e~", max_size=60).map(str.encode))
def test_any_bytes_are_plain_data_or_a_fault(text: bytes) -> None:
    """Nothing else is raised, whatever is put into etcd."""
    try:
        found = load(text)
    except Flaw as fault:
        assert fault.path.startswith("$")
        assert fault.reason
    else:
        json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on: [reset]", {"on": ["reset"]}),
        ("country: no", {"country": "no"}),
        ("a: true\nb: False", {"a": True, "b": False}),
        ("a: 010", {"a": "010"}),
        ("a: 1_000", {"a": "1_000"}),
        ("a: 12:30", {"a": "12:30"}),
        ("a: 2026-11-23", {"a": "2026-11-23"}),
        ("a: 1e3", {"a": 1000.0}),
        ("a: -.5", {"a": -0.5}),
        ("a: +7", {"a": 7}),
        ("a: '7'", {"a": "7"}),
        ("a: ~\nb:", {"a": None, "b": None}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("{a: 1, b: [x, y]}", {"a": 1, "b": ["x", "y"]}),
        ('{"a": 1,}', {"a": 1}),
        ("# a comment\na: 1 # another\n", {"a": 1}),
    ],
)
def test_yaml_is_read_by_the_core_schema(text: str, value: Any) -> None:
    """Of YAML 1.2: what looks like text is text."""
    found = load(text.encode())
    assert found == value
    assert [type(inner) for inner in found.values()] == [type(inner) for inner in value.values()]


def test_a_byte_order_mark_is_passed_over() -> None:
    """Editors of one system put it there."""
    assert load(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "$: empty; to remove a policy delete its key"),
        (b" \n\t", "$: empty; to remove a policy delete its key"),
        (b"a: \xff", "$: not UTF-8 at byte 3"),
        (b'{"a": ', "$: not JSON: Expecting value at line 1, column 7"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "$.a: the field 'b' stands twice in one object"),
        (b"a:\n  b: 1\n  b: 2", "$.a: the field 'b' stands twice in one object (line 3)"),
        (b"a: &x 1\nb: [1, *x]", "$.b[1]: YAML aliases are not accepted; write the value out (line 2)"),
        (b'a: !!int ""', "$.a: YAML tags are not accepted (line 1)"),
        (b"!!python/object:os.system {}", "$: YAML tags are not accepted (line 1)"),
        (b"a: 1\n---\nb: 2", "$: a second document; a key holds one (line 2)"),
        (b"a: {1: x}", "$.a: a field name that is not text, but a number; put it in quotes (line 1)"),
        (b"a: {[x]: y}", "$.a: a field name that is not text, but a list; put it in quotes (line 1)"),
        (b'{"a": [1, NaN]}', "$.a[1]: not a finite number"),
        (b'{"a": -Infinity}', "$.a: not a finite number"),
        (b'{"a": 1e999}', "$.a: not a finite number"),
        (b"a: " + b"9" * 5000, "$.a: a whole number of more than 64 bits"),
        (b"a: .inf", "$.a: not a finite number"),
        (b"a: 1e999", "$.a: not a finite number"),
        (b'{"a": 18446744073709551616}', "$.a: a whole number of more than 64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "$: a number of thousands of digits"),
        (b'{"a": "\\ud800"}', "$.a: half of a surrogate pair, which no text can hold"),
        (b'{"\\udfff": 1}', "$: half of a surrogate pair in a field name"),
        (b'{"a b\\n": NaN}', '$["a b\\n"]: not a finite number'),
        (b'{"' + b"k" * 300 + b'": 1}', "$: a field name of 300 characters; at most 256"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_ambiguous_or_broken_is_refused(text: bytes, said: str) -> None:
    """With its place and the reason."""
    assert refused(text) == said


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 50_000, b"- " * 15_000, b"{a: " * 50_000])
def test_depth_is_bounded(text: bytes) -> None:
    """No nesting can exhaust the stack."""
    assert "nested deeper than 32" in refused(text) or "not JSON" in refused(text)


def test_depth_is_the_same_in_both() -> None:
    """32 levels are read, 33 are not; the path leads there."""
    for text in ("[" * 32 + "1" + "]" * 32, "a: " + "[" * 31 + "x" + "]" * 31):
        load(text.encode())
    for text in ('{"a": ' + "[" * 32 + "1" + "]" * 32 + "}", "a: " + "[" * 32 + "x" + "]" * 32):
        assert refused(text.encode()).startswith("$.a" + "[0]" * 31)


def test_size_is_bounded() -> None:
    """In bytes, and in values; a long name over many values costs nothing."""
    assert refused(b" " * (2 * MAX_DOCUMENT_BYTES)) == "$: 524288 bytes; a document has at most 262144"
    assert refused(b"[" + b"1," * MAX_VALUES + b"1]") == f"$: more than {MAX_VALUES} values"
    assert "write it as JSON" in refused(b"- 1\n" * 7_000)
    assert "write it as JSON" in refused(b"- 1\n" * 30_000)
    name = b"k" * 200_000
    assert "at most 256" in refused(b'{"' + name + b'": [' + b"0," * 15_000 + b"0]}")


def test_many_aliases_cannot_multiply() -> None:
    """A billion laughs are none."""
    laughs = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
    assert "aliases" in refused(laughs.encode())


def test_paths_quote_what_is_no_word() -> None:
    """So that a path is one line and can be followed."""
    assert below("$", "rules", 0, "match", "x-user") == "$.rules[0].match.x-user"
    assert below("$", "a b", '"', "") == '$["a b"]["\\""][""]'
    assert len(below("$", "x" * 1000)) < 80


def test_numbers_keep_their_kind() -> None:
    """A whole number is one, and a fraction is not."""
    found = load(b"a: -9223372036854775808\nb: 1.0")
    assert found["a"] == -(2**63)
    assert type(found["b"]) is float
