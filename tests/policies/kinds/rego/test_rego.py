"""Bundles: bounded, named exactly, and read before anybody compiles them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.catalogue import parse
from policies.kinds.rego.document import MAX_MODULES, MAX_SOURCE, Bundle
from policies.language.document import Invalid
from policies.rego import MAX_NESTING


def read(document: Any, name: str = "groups") -> Any:
    return parse("rego", name, json.dumps(document).encode())


def test_a_bundle_is_modules_or_data() -> None:
    assert isinstance(read({"modules": {"a.rego": "package a"}}), Bundle)
    assert isinstance(read({"data": {"a": 1}}, "groups.security"), Bundle)


@pytest.mark.parametrize(
    ("document", "name", "said"),
    [
        ({"data": {"a": 1}}, "*.security", "$.service: '*.security' is a pattern; a bundle has a name, such as common"),
        ({"data": {"a": 1}}, "*", "$.service: '*' is a pattern; a bundle has a name, such as common"),
        (
            {"modules": {"a.rego": "package a\n" + "#" * MAX_SOURCE}},
            "a",
            "$.modules: 65546 characters of Rego; at most",
        ),
        ({"modules": {f"{n}.rego": "package a" for n in range(MAX_MODULES + 1)}}, "a", "$.modules: "),
        ({"modules": {"a.rego": "package a\nx := " + "[" * 40}}, "a", f"nested deeper than {MAX_NESTING}"),
        ({"modules": {"a.rego": "package a\0"}}, "a", '$.modules["a.rego"]: a NUL, which no Rego has'),
    ],
)
def test_what_is_refused(document: Any, name: str, said: str) -> None:
    found = read(document, name)
    assert isinstance(found, Invalid) and said in f"{found.path}: {found.reason}"
