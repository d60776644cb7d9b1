"""What tests of claims begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.playbook import Playbook


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        yield play
