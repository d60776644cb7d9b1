"""Lists in pages: each item once and in order, whatever their names and the size of a page."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.control.admin.v1 import types, views
from agent.control.admin.v1.api import InstancesQuery, _instance_key, _page
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.store import Change

KEYS = Keys()
NAMES = st.sampled_from(["pets", "pets.production", "pets-x", "pets-x.production", "p", "pets0", "a.b.c", "a-b.c", "a"])
IDS = st.text("ab-.0", min_size=1, max_size=3).filter(lambda id: id[0] in "ab0" and id[-1] in "ab0")


@given(st.sets(st.tuples(NAMES, IDS), min_size=1, max_size=25), st.integers(1, 7))
def test_every_instance_is_on_one_page(places: set[tuple[str, str]], limit: int) -> None:
    """Also where one service's name begins with another's."""
    table = Table(KEYS, "here")
    record = json.dumps({"address": "10.0.0.1", "port": 80}).encode()
    table.apply([Change(KEYS.instance(*place), record, 2) for place in places], 2)
    found: list[Any] = []
    query = InstancesQuery(limit=limit)
    while True:
        shown, after = _page(views.instances(table, query.after.partition(" ")[0]), query, _instance_key)
        assert len(shown) <= limit
        found += shown
        if not after:
            break
        query = InstancesQuery(limit=limit, after=after)
    assert [(each.service, each.id) for each in found] == sorted(places)
    assert views.count_instances(table) == len(places)


@given(st.lists(st.text(max_size=4), unique=True), st.integers(1, 5), st.text(max_size=4))
def test_a_page_begins_behind_what_it_is_told(names: list[str], limit: int, after: str) -> None:
    """Whether there is such an item or not."""
    ahead = [name for name in sorted(names) if not after or name > after]
    shown, following = _page(sorted(names), types.ListQuery(limit=limit, after=after), str)
    assert shown == ahead[:limit]
    assert following == (shown[-1] if len(ahead) > limit else "")
