"""The request path, compiled: scripts/test runs the tests of the proxy and the policies on it once more."""

from __future__ import annotations

import ast
import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent.proxy.request.exchange
from agent import build

ROOT = Path(__file__).parent.parent
ROOMS = ("agent", "policies", "registry")
COMPILED = "# mypyc: compiled"
EXCUSED = re.compile(r"# mypyc: interpreted, because \S.+")
A_WORKER = "agent.proxy.__main__"


def source(module: str) -> Path | None:
    stem = ROOT / module.replace(".", "/")
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs: not what stands under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from statements(child)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def loaded_by(module: str) -> dict[str, str]:
    """Every module of ours that it imports, now or later, and their texts."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = source(name)
        if path is not None and name not in found:
            found[name] = path.read_text()
            waiting += imports(ast.parse(found[name]))
    return found


def is_document(text: str) -> bool:
    """Whether it defines msgspec's documents: their classes are C already, and mypyc cannot make them."""
    classes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))
    bases = {ast.unparse(base) for each in classes for base in each.bases}
    return bool(bases & {"msgspec.Struct", "Document", "Struct"})


def unspoken(modules: dict[str, str]) -> list[str]:
    """Those that do not say whether they are compiled, and do not show why not."""
    return sorted(
        name
        for name, text in modules.items()
        if re.search(r"^\s*(def|class) ", text, re.MULTILINE)
        and (first := text.partition("\n")[0]) != COMPILED
        and not EXCUSED.fullmatch(first)
        and not is_document(text)
    )


def test_what_is_tested_is_what_was_asked_for() -> None:
    """Interpreted from the checkout; or, with SHOAL_COMPILED, the shared library that scripts/compile made."""
    asked = bool(os.environ.get("SHOAL_COMPILED"))
    assert str(agent.proxy.request.exchange.__file__).endswith(".so" if asked else ".py")
    assert build.kind() == ("compiled" if asked else "interpreted")


def test_each_module_that_a_worker_loads_says_whether_it_is_compiled() -> None:
    """Wherever it stands: who adds one to the request path, and forgets to say, hears of it."""
    modules = loaded_by(A_WORKER)
    assert len(modules) > 60 and "agent.proxy.request.exchange" in modules and "policies.kinds.route.decide" in modules
    assert unspoken(modules) == []


def test_a_module_that_says_nothing_is_noticed() -> None:
    """Plain code without a word, a reason without a reason; documents and mere names need none."""
    code = "def f() -> None: ...\n"
    assert unspoken({"a": f'"""A."""\n\n{code}'}) == ["a"]
    assert unspoken({"a": f"# mypyc: interpreted, because \n{code}"}) == ["a"]
    assert unspoken({"a": f"# mypyc: interpreted, because it is asked once a day\n{code}"}) == []
    assert unspoken({"a": "class A(msgspec.Struct):\n    x: int\n", "b": "X = 1\n", "c": f"{COMPILED}\n{code}"}) == []


def test_what_is_marked_is_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """setup.py finds the marks, and only there where they count; an editable install compiles nothing."""
    given: dict[str, object] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
    made = runpy.run_path(str(ROOT / "setup.py"))
    assert "ext_modules" not in given and made["extensions"]() == []
    texts = {path: path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    marked = {str(path.relative_to(ROOT)) for path, text in texts.items() if COMPILED in text.splitlines()}
    assert set(made["marked"]()) == marked and "agent/proxy/request/exchange.py" in marked


def test_who_wants_no_compiler_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """SHOAL_PURE, and a compiler that does not work: each is a reason that is told, and no failure."""
    monkeypatch.setattr("setuptools.setup", lambda **options: None)
    hindrance = runpy.run_path(str(ROOT / "setup.py"))["hindrance"]
    monkeypatch.setenv("CC", "false")
    assert "C compiler" in hindrance() or "Python.h" in hindrance()
    monkeypatch.setenv("SHOAL_PURE", "1")
    assert "SHOAL_PURE" in hindrance()
