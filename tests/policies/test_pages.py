"""docs/policies says what is so: each example can be pasted, each refusal is said word by word, no field is missing."""

import re
import shlex
from pathlib import Path

import jsonschema
import msgspec
import pytest

from policies.catalogue import BY_NAME, KINDS, parse, schema
from policies.language.document import Document, Invalid
from policies.language.names import parse_pattern
from policies.language.plain import load

DOCS = Path(__file__).parents[2] / "docs/policies"
PAGES = {path.stem: path.read_text() for path in sorted(DOCS.glob("*.md"))}
KEY = re.compile(r"/shoal/default/(?:policies|audits)/([a-z]+)/(\S+)\Z")
PUT = re.compile(r"^    (etcdctl put [^\n']*'?[^\n' ]+'? '[^']*')$", re.MULTILINE)
REFUSAL = re.compile(r"^\| `([^`]*)` \| `(\$.*)` \|$", re.MULTILINE)

PUTS = [(name, command) for name, page in PAGES.items() for command in PUT.findall(page)]
REFUSALS = [
    ("retry" if name == "README" else name, *row) for name, page in PAGES.items() for row in REFUSAL.findall(page)
]


@pytest.mark.parametrize("name", [*BY_NAME, "README"])
def test_every_page_has_examples_and_refusals(name: str) -> None:
    """And all of them were found, so that none escapes the tests below."""
    page = PAGES[name]
    assert len(PUT.findall(page)) == page.count("etcdctl put ") >= 4
    assert len(REFUSAL.findall(page)) >= 6


@pytest.mark.parametrize(("name", "command"), PUTS, ids=lambda value: str(value)[-60:])
def test_every_example_can_be_pasted(name: str, command: str) -> None:
    """A shell reads it as a key of a valid pattern and a valid document, which the schema accepts too."""
    _, _, key, value = shlex.split(command)
    found = KEY.match(key)
    assert found is not None, key
    kind, service = found.groups()
    if "*" in service:
        assert f"'{key}'" in command
    document = parse(kind, parse_pattern(service), value.encode())
    assert isinstance(document, BY_NAME[kind].document), document
    assert document != parse(kind, "", b"{}") or '"least-request"' in value
    jsonschema.Draft202012Validator(schema(kind)).validate(load(value.encode()))


@pytest.mark.parametrize(("kind", "text", "said"), REFUSALS)
def test_every_refusal_is_said_so(kind: str, text: str, said: str) -> None:
    """Word by word."""
    found = parse(kind, "pets.production", text.encode())
    assert isinstance(found, Invalid), found
    assert f"{found.path}: {found.reason}" == said


def test_refusals_that_no_table_can_show_are_said_so() -> None:
    """Of several lines, empty, or too large."""
    for text, row in (
        (b"a: &x [1]\nb: *x", "| `a: &x [1]` ⏎ `b: *x` |"),
        (b"", "| nothing |"),
        (b" " * 2**21, "| 2 MiB |"),
    ):
        found = parse("retry", "pets.production", text)
        assert isinstance(found, Invalid)
        assert f"{row} `{found.path}: {found.reason}` |" in PAGES["README"]


def fields_of(document: type[msgspec.Struct], place: str = "") -> list[tuple[str, msgspec.structs.FieldInfo]]:
    """Every field of a document and of what is in it, by the place that pages write: `rules[].split[].weight`."""
    found = []
    for field in msgspec.structs.fields(document):
        name = f"{place}{field.encode_name}"
        inner = msgspec.inspect.type_info(field.type)
        suffix = "."
        while True:
            if isinstance(inner, msgspec.inspect.Metadata):
                inner = inner.type
            elif isinstance(inner, msgspec.inspect.UnionType):
                structs = [one for one in inner.types if isinstance(one, msgspec.inspect.StructType)]
                inner = (structs or [None])[0]
            elif isinstance(inner, msgspec.inspect.VarTupleType):
                inner, suffix = inner.item_type, f"[]{suffix}"
            elif isinstance(inner, msgspec.inspect.DictType):
                inner, suffix = inner.value_type, f".*{suffix}"
            else:
                break
        found.append((name, field))
        if isinstance(inner, msgspec.inspect.StructType) and inner.cls.__name__ not in ("Match", "Text"):
            found += fields_of(inner.cls, name + suffix)
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "balance"], ids=lambda kind: kind.name)
def test_every_field_is_on_its_page(kind: object) -> None:
    """With its default where that is a plain value."""
    assert hasattr(kind, "document") and hasattr(kind, "name")
    rows = [line for line in PAGES[kind.name].splitlines() if line.startswith("| `")]
    for name, field in fields_of(kind.document):
        name = name.replace("headers.response.", "headers.request.")
        mine = [row for row in rows if f"`{name}`" in row.split(" | ")[0]]
        deeper = [row for row in rows if f"`{name}." in row.split(" | ")[0] or f"`{name}[]" in row.split(" | ")[0]]
        assert mine or deeper, name
        if (
            mine
            and field.default not in (msgspec.NODEFAULT, "", (), None, 0)
            and isinstance(field.default, str | int | float)
        ):
            assert f"`{str(field.default).lower()}`" in mine[0].split(" | ")[1].lower(), name


def test_every_condition_is_on_the_page() -> None:
    """What `match` can ask, and what can be asked of a value."""
    from policies.language.matching import Match, PathMatch, Text

    page = PAGES["route"].partition("### Conditions")[2].partition("### ")[0]
    for name in [field.encode_name for field in msgspec.structs.fields(Match) if field.name != "path"]:
        assert re.search(rf"`{name}(\.\*)?`", page), name
    for name in [field.encode_name for field in msgspec.structs.fields(PathMatch)]:
        assert f"`path.{name}`" in page, name
    for name in [field.encode_name for field in msgspec.structs.fields(Text)]:
        assert f"`{name}`" in page, name


def test_the_frame_lists_every_kind_in_order() -> None:
    """With its summary and its page."""
    assert set(PAGES) == {*BY_NAME, "README"}
    rows = re.findall(r"^\| `([a-z]+)` \| (.*) \| \[\1\]\(\1\.md\) \|$", PAGES["README"], re.MULTILINE)
    assert rows == [(kind.name, kind.summary) for kind in KINDS]
    for field in msgspec.structs.fields(Document):
        assert f"| `{field.encode_name}` |" in PAGES["README"]


def test_links_lead_somewhere() -> None:
    """Between the pages."""
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)", page):
            assert (DOCS / target).is_file(), f"{name}: {target}"
