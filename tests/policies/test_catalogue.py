"""The list of kinds, and what every kind brings along."""

import re
import shlex
from pathlib import Path

import pytest

from policies.catalogue import KINDS, parse
from policies.kind import Kind, Scope
from policies.language.document import Document
from policies.language.names import parse_pattern

ROOT = Path(__file__).parents[2]
PUT = re.compile(r"^    (etcdctl put [^\n']*'?[^\n' ]+'? '[^']*')$", re.MULTILINE)
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def examples(kind: Kind) -> list[Document]:
    """The documents of a kind that its page shows."""
    page = (ROOT / f"docs/policies/{kind.name}.md").read_text()
    puts = [shlex.split(command)[2:] for command in PUT.findall(page)]
    found = [
        parse(kind.name, parse_pattern(key.rpartition(f"policies/{kind.name}/")[2]), value.encode())
        for key, value in puts
        if f"/policies/{kind.name}/" in key
    ]
    return [document for document in found if isinstance(document, Document)]


def test_a_kind_is_a_folder_and_a_line() -> None:
    """None without the other."""
    folders = {path.name for path in (ROOT / "policies/kinds").iterdir() if (path / "__init__.py").is_file()}
    assert folders == {kind.folder for kind in KINDS}
    assert len(KINDS) == len(folders)


@each
def test_a_kind_is_four_files(kind: Kind) -> None:
    """A document, a decision, tests and a page."""
    for place in (f"policies/kinds/{kind.folder}/document.py", f"policies/kinds/{kind.folder}/decide.py"):
        assert (ROOT / place).is_file()
    assert list((ROOT / f"tests/policies/kinds/{kind.folder}").glob("test_*.py"))
    assert (ROOT / f"docs/policies/{kind.name}.md").is_file()


@each
def test_a_kind_has_one_document(kind: Kind) -> None:
    """Which its page shows more than one of."""
    assert len(examples(kind)) > 1
    assert all(isinstance(document, kind.document) for document in examples(kind))


@each
def test_every_kind_that_compiles_compiles_alike(kind: Kind) -> None:
    """A document and its scope are all that is handed over."""
    compile = kind.compile
    if compile is not None:
        found = [compile(document, Scope("pets.production", 0.5)) for document in examples(kind)]
        assert any(each is not None for each in found)  # None: the document has nothing to ask
    assert (compile is None) == (kind.name in ("balance", "health", "rego", "webhook"))
