"""What the page knows by heart of documents."""

from __future__ import annotations

import re

from policies.catalogue import BY_NAME
from tests.support.mesh import ROOT


def test_the_page_knows_every_kind() -> None:
    """In the order of the catalogue."""
    text = (ROOT / "agent/ui/page/src/views/why/kinds.ts").read_text()
    listed = text.partition("KINDS = [")[2].partition("] as const;")[0]
    assert re.findall(r'"(\w+)"', listed) == list(BY_NAME)
