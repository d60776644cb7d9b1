from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.printing import GAP, Printer, field, widths

WORDS = st.lists(st.text("abcdé世", min_size=1, max_size=30), max_size=6).map(" ".join)
TABLES = st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=4))


@given(TABLES, st.integers(20, 200))
def test_no_line_ends_in_a_word(cells: list[list[str]], terminal: int) -> None:
    """Each column has room for its longest word, and all together fit; or nothing is folded at all."""
    from rich.cells import cell_len

    found = widths(cells, terminal)
    columns = list(zip(*cells, strict=True))
    least = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    if found is None:
        assert sum(least) + GAP * len(columns) > terminal
    else:
        assert all(width >= low for width, low in zip(found, least, strict=True))
        assert sum(found) + GAP * len(found) <= terminal


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_an_address_is_whole_on_any_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that it can be copied, and found with the eye."""
    row = {"service": "pets.production", "id": "web-1-49857", "address": "[fd00:1234:5678:9abc::10]:49857",
           "reason": "http://127.0.0.1:49857/health answered 200 after some time"}  # fmt: skip
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    Printer("table").rows([row], {name: field(name) for name in row}, empty="")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for value in (*list(row.values())[:3], "http://127.0.0.1:49857/health"):
        assert value in shown
    assert (max(map(len, shown.splitlines())) <= columns) == (columns == 120), "folded where it fits"
