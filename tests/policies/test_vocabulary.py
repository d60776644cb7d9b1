"""What a version knows, and what of a document it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import KINDS, parse
from policies.language.document import Invalid
from policies.language.plain import load
from policies.vocabulary import MOST_UNKNOWN, Vocabulary, unknown, vocabulary

PAGES = Path(__file__).resolve().parents[2] / "docs" / "policies"
MAX_BYTES = 32 * 1024
"""Of all kinds: an agent's record has 64 KiB at most."""


def without(kind: str, path: str, name: str) -> Vocabulary:
    """A version in which a field, or a word, was not there yet, nor what lies below it."""
    now = vocabulary(kind)
    below = f"{path}.{name}"
    gone = {
        place for place in (*now.fields, *now.words) if place == below or place.startswith((f"{below}.", f"{below}["))
    }
    fields = {p: tuple(n for n in names if (p, n) != (path, name)) for p, names in now.fields.items() if p not in gone}
    words = {p: tuple(w for w in words if (p, w) != (path, name)) for p, words in now.words.items() if p not in gone}
    return Vocabulary(fields, words)


DOCUMENTS: list[tuple[str, str, str, dict[str, Any], list[str]]] = [
    ("ratelimit", "$.limits[]", "burst", {"limits": [{"name": "a", "rate": "1/s", "burst": 2}]}, ["$.limits[].burst"]),
    ("ratelimit", "$.limits[]", "burst", {"limits": [{"name": "a", "rate": "1/s"}]}, []),
    ("ratelimit", "$.limits[]", "burst", {"limits": [{"burst": 2}, {"burst": 3}]}, ["$.limits[].burst"]),
    ("ratelimit", "$.limits[].scope", "mesh", {"limits": [{"scope": "mesh"}]}, ["$.limits[].scope: 'mesh'"]),
    ("ratelimit", "$.limits[].scope", "mesh", {"limits": [{"scope": "agent"}]}, []),
    (
        "shed",
        "$.priorities[].match.headers.*",
        "suffix",
        {"priorities": [{"match": {"headers": {"x-user": {"suffix": "a"}, "x-b": {"suffix": "a"}}}}]},
        ["$.priorities[].match.headers.*.suffix"],
    ),
    ("shed", "$.priorities[].match.headers.*", "suffix", {"priorities": [{"match": {"headers": {"suffix": "a"}}}]}, []),
    ("shed", "$", "adaptive", {"adaptive": {"most": 5}, "concurrency": 1}, ["$.adaptive"]),
    (
        "shed",
        "$.instead[].topic.secret",
        "env",
        {"instead": [{"topic": {"secret": {"env": "A"}}}]},
        ["$.instead[].topic.secret.env"],
    ),
    ("balance", "$.algorithm", "maglev", {"algorithm": "maglev"}, ["$.algorithm: 'maglev'"]),
    ("timeout", "$", "mode", {"mode": "audit"}, ["$.mode"]),
]


@pytest.mark.parametrize(("kind", "path", "name", "document", "found"), DOCUMENTS)
def test_what_an_older_version_does_not_know_is_named(
    kind: str, path: str, name: str, document: dict[str, Any], found: list[str]
) -> None:
    """Nested, in lists, in maps, among words; once each; and only where it is used."""
    older = without(kind, path, name)
    assert older != vocabulary(kind)
    assert unknown(document, older, vocabulary(kind)) == found
    assert unknown(document, vocabulary(kind), older) == []


def test_what_became_an_object_is_not_known() -> None:
    """A field that was text before."""
    assert unknown({"a": {"b": 1}}, Vocabulary({"$": ("a",)}), Vocabulary({"$": ("a",), "$.a": ("b",)})) == ["$.a"]
    assert unknown({"a": "text"}, Vocabulary({"$": ("a",)}), Vocabulary({"$": ("a",), "$.a": ("b",)})) == []


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_this_version_knows_what_its_pages_show(kind: str) -> None:
    """Every example in the documentation that is taken is known, word by word."""
    page = (PAGES / f"{kind}.md").read_text()
    shown = [text for _, text in re.findall(r"^```(json|yaml)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    taken = [text for text in shown if not isinstance(parse(kind, "", text.encode()), Invalid)]
    for text in taken:
        assert unknown(load(text.encode()), vocabulary(kind)) == []


def test_it_is_plain_and_small() -> None:
    """Through JSON and back it is the same; all kinds together fit into a record, with room for more."""
    told = {kind.name: vocabulary(kind.name) for kind in KINDS}
    text = msgspec.json.encode(told)
    assert len(text) < MAX_BYTES
    assert msgspec.json.decode(text, type=dict[str, Vocabulary]) == told
    newer = {"fields": {"$": ["a"]}, "words": {}, "ranges": {"$.a": [1, 2]}}
    assert msgspec.json.decode(json.dumps(newer), type=Vocabulary) == Vocabulary({"$": ("a",)})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["mode", "limits", "match", "headers", "path", "x", ""]), inner, max_size=4
            )
        ),
    )
)
def test_whatever_the_document_is(document: Any) -> None:
    """Nothing is raised, and what is said is bounded."""
    for kind in KINDS:
        found = unknown(document, vocabulary(kind.name))
        assert len(found) <= MOST_UNKNOWN and len(set(found)) == len(found)
