"""The frame: what every kind's documents have in common."""

import json
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.catalogue import KINDS, parse, schema
from policies.kinds.retry.document import Retry
from policies.kinds.route.document import Route
from policies.kinds.timeout.document import Timeout
from policies.language.document import Document, Invalid, convert
from policies.language.plain import Flaw
from tests.support.tokens import provider

NAMES = [kind.name for kind in KINDS]


def said(kind: str, text: str | bytes, key: str = "pets.production") -> str:
    found = parse(kind, key, text if isinstance(text, bytes) else text.encode())
    assert isinstance(found, Invalid), found
    assert (found.kind, found.key) == (kind, key)
    return f"{found.path}: {found.reason}"


@pytest.mark.parametrize("text", ['{"attempts": 3}', "attempts: 3", "# three\nattempts: 3\n", "{attempts: 3}"])
def test_json_and_yaml_mean_the_same(text: str) -> None:
    """One document, however it is written."""
    assert parse("retry", "pets.production", text.encode()) == Retry(service="pets.production", attempts=3)


def test_the_frame_is_in_every_kind() -> None:
    """Mode, kind, service and description."""
    for kind in KINDS:
        assert issubclass(kind.document, Document)
        text = f'{{"kind": "{kind.name}", "service": "*/production", "mode": "loud"}}'
        assert said(kind.name, text).startswith("$.mode: 'loud' is none of: audit, enforce")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"kind": "route"}', "$.kind: 'route', but the key says 'retry'; leave it out or make them agree"),
        ('{"service": "dogs"}',
         "$.service: 'dogs', but the key says 'pets.production'; leave it out or make them agree"),
        ('{"service": "a b"}', "$.service: 'a b' in 'a b' is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', "
         "beginning and ending with a letter or digit"),
        ('{"mode": "audti"}', "$.mode: 'audti' is none of: audit, enforce (did you mean 'audit'?)"),
        ('{"description": 7}', "$.description: expected text, got a whole number; put it in quotes"),
        ('{"attempt": 3}', "$: no field 'attempt' here (did you mean 'attempts'?); there are: mode, kind, service, "
         "description, attempts, on, statuses, methods, backoff, budget, max_body, another_endpoint, hedge"),
        ('{"backoff": {"bose": 1}}', "$.backoff: no field 'bose' here (did you mean 'base'?); there are: base, max"),
        ('{"budget": {"ratio": "x"}}', "$.budget.ratio: expected a number, got text"),
        ('{"budget": 3}', "$.budget: expected true or false or an object, got a whole number"),
        ('{"on": "reset"}', "$.on: expected a list, got text"),
        ('{"on": ["resets"]}', "$.on[0]: 'resets' is none of: 429, 5xx, connect-failure, gateway-error, reset, timeout "
         "(did you mean 'reset'?)"),
        ("[]", "$: a document is an object with fields, not a list"),
        ("garbage", "$: a document is an object with fields, not text"),
        ("null", "$: a document is an object with fields, not null"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, expected: str) -> None:
    """And with what would be right."""
    assert said("retry", text) == expected


def test_a_service_may_be_spelt_either_way() -> None:
    """`pets/production` is `pets.production`, in the document as in the key."""
    assert isinstance(parse("retry", "pets.production", b'{"service": "Pets/Production", "kind": "retry"}'), Retry)
    assert isinstance(parse("retry", "*.production", b'{"service": "*/production"}'), Retry)


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    """And with the one that was meant."""
    assert said("retri", "{}").startswith(
        "$: no policy kind 'retri' (did you mean 'retry'?); there are: isolation, export, tls, egress, path, authn, "
    )


def test_a_key_inside_of_an_object_is_named() -> None:
    """Exact paths, also where fields are free: the entry that is wrong among many."""
    headers = {f"x-{n}": "yes" for n in range(100)} | {"x-50": {"exakt": "1"}}
    text = json.dumps({"rules": [{}, {"match": {"headers": headers}}]})
    assert said("route", text).startswith(
        "$.rules[1].match.headers.x-50: no field 'exakt' here (did you mean 'exact'?)"
    )
    groups = {"free": {"header": "a", "percent": 5}, "guinea pigs": {"header": "b", "where": {"in": ["x", 7]}}}
    assert said("route", json.dumps({"groups": groups})) == (
        '$.groups["guinea pigs"].where.in[1]: expected text, got a whole number; put it in quotes'
    )


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(le=9)] = 0
    inner: dict[str, "Inner"] = msgspec.field(default_factory=dict)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4), st.lists(st.text(max_size=5), max_size=6), st.data())
def test_the_path_leads_to_what_is_wrong(way: list[str], others: list[str], data: st.DataObject) -> None:
    """However deep it is and whatever the keys are called: following the path finds the bad value."""
    raw: dict[str, Any] = {"size": 10}
    for name in reversed(way):
        entries = [(other, {"size": 1}) for other in others if other != name]
        entries.insert(data.draw(st.integers(0, len(entries))), (name, raw))
        raw = {"inner": dict(entries)}
    with pytest.raises(Flaw) as caught:
        convert(raw, Inner)
    path = caught.value.path
    for name in way:
        simple = name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
        step = ".inner" + (f".{name}" if simple else f"[{json.dumps(name)}]")
        assert path.removeprefix("$").startswith(step)
        path = path.removeprefix("$")[len(step) :]
    assert path == ".size"


@given(st.sampled_from([*NAMES, "nonsense"]), st.binary(max_size=100))
def test_any_bytes_are_a_document_or_invalid(kind: str, text: bytes) -> None:
    """Parse never raises, and what it says fits on a line."""
    found = parse(kind, "pets.production", text)
    if isinstance(found, Invalid):
        assert f"{found}".isprintable()
        assert len(found.path) <= 300
        assert len(found.reason) <= 1000


fields = sorted({field.encode_name for kind in KINDS for field in msgspec.structs.fields(kind.document)})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "/", "5s", "v1", "x", "{a}", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*fields, "match", "split", "header", "path", "weight", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@settings(max_examples=300)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(fields), values, max_size=3))
def test_any_fields_are_a_document_or_invalid(kind: str, raw: dict[str, Any]) -> None:
    """The same for documents that are nearly right: the right fields with any values."""
    found = parse(kind, "pets.production", json.dumps(raw).encode())
    assert isinstance(found, Document | Invalid)


def test_a_reason_is_never_endless() -> None:
    """A value of a megabyte is not put back into etcd as its own reason, and no terminal is painted."""
    found = parse("route", "pets", b'{"mode": "' + b"m" * 1_000_000 + b'"}')
    assert isinstance(found, Invalid)
    assert len(str(found)) < 1500
    assert "\x1b" not in said("route", '{"a\\u001b[31m": 1}')
    assert "\\u202e" in said("route", b'{"\xe2\x80\xae": 1}')


@pytest.mark.parametrize("kind", NAMES)
def test_there_is_a_json_schema(kind: str) -> None:
    """Valid itself, and as strict about fields as the parser."""
    found = schema(kind)
    jsonschema.Draft202012Validator.check_schema(found)
    validator = jsonschema.Draft202012Validator(found)
    assert not validator.is_valid({"no-such-field": 1})
    assert not validator.is_valid({"mode": "loud"})
    needed = {"fault": {"expires": "2099-01-01T00:00:00Z", "rules": [{"reset": True}]}, "egress": {"allow": []}}
    needed["authn"] = {"providers": [provider()]}
    needed |= {"isolation": {"allow": []}, "export": {"to": []}, "tls": {"mtls": "off"}, "authz": {"rules": []}}
    needed["import"] = {"trust_domain": "eu.shoal", "remote_service": "pets", "gateways": ["192.0.2.7:15006"]}
    assert validator.is_valid({"mode": "audit", "kind": kind, **needed.get(kind, {})})


def test_the_schema_agrees_with_the_parser() -> None:
    """On documents of each kind that the types alone can judge."""
    good = [
        (Route, {"active": "v1"}),
        (Timeout, {"try": "1s"}),
        (Retry, {"budget": False}),
        (Retry, {"statuses": [409]}),
    ]
    bad = [(Retry, {"attempts": 11}), (Timeout, {"try": []}), (Route, {"rules": [{"match": {"path": {"exact": "x"}}}]})]
    for document, raw in [*good, *bad]:
        name = next(kind.name for kind in KINDS if kind.document is document)
        valid = jsonschema.Draft202012Validator(schema(name)).is_valid(raw)
        assert valid == isinstance(parse(name, "pets", json.dumps(raw).encode()), document)
        assert valid == ((document, raw) in good)


def test_the_catalogue_names_each_kind_once() -> None:
    """With a summary for the command line."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind.summary for kind in KINDS)
